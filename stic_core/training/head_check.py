"""Is a model's head one that training gives, or one that was made to ask about a patient's clinical columns?

Whoever may choose all weights can make a model that looks at the clinical columns alone, and answers
for one combination of them. Training does not: its columns move the log odds by a few units, and
the images carry a share of what sets patients apart. The bounds are far outside of what training
gave (docs/threats.md has the figures); they stop the plain attack, not one that stays within them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import nn

from stic_core.data.clinical import COLUMNS
from stic_core.errors import PlanRefusedError
from stic_core.models.stic import head_in
from stic_core.statistics import margins
from stic_core.tensors.array_types import ClinicalMatrix, ScoreMatrix

MOST_BY_A_COLUMN = 15.0
"""Log odds between two classes that one yes or no may move."""

LEAST_BY_IMAGES = 0.001
"""Share of the variance of the logits that the images make."""

LEAST_APART = 0.9
"""Share of the patients whose scores are nobody else's. Were all others tied, an AUC would tell one's class."""

LARGEST_LOGIT = 1e4
"""An overconfident network has logits of hundreds; beside 2^32 a float32 drops whatever a patient adds."""


def column_strength(module: nn.Module) -> float:
    """Log odds between two classes that the strongest clinical column moves; 0 for a head without columns."""
    columns = _of_columns(module)
    return 0.0 if columns is None else float(np.ptp(columns, axis=0).max())


def images_share(module: nn.Module, logits: ScoreMatrix, clinical: ClinicalMatrix) -> float:
    """Share of the variance of the logits, over patients, that is not the clinical columns'.

    Args:
        module: what trains and travels, or the whole network.
        logits: (n, k) of the patients.
        clinical: (n, 20).
    """
    columns = _of_columns(module)
    if columns is None:
        return 1.0
    by_columns = clinical @ columns.T
    # A constant on all classes changes no probability.
    parts = [
        float((part - part.mean(axis=1, keepdims=True)).var(axis=0).sum())
        for part in (logits - by_columns, by_columns)
    ]
    total = sum(parts)
    return parts[0] / total if total > 0 else 1.0


def check_weights(module: nn.Module, *, name: str) -> None:
    """Refuse a model whose head training does not give, from its weights alone.

    Args:
        name: what the server calls the model.

    Raises:
        PlanRefusedError: with the figure, which says nothing of a patient.
    """
    strength = column_strength(module)
    if not strength <= MOST_BY_A_COLUMN:
        raise PlanRefusedError(
            f"model {name}: its clinical columns",
            got=f"log odds that one of them moves by {strength:.3g}",
            expected=f"at most {MOST_BY_A_COLUMN:g}",
        )


def fault_of_scores(module: nn.Module, logits: ScoreMatrix, clinical: ClinicalMatrix) -> str:
    """What of a model's scores training does not give; "" where nothing is. For the site's own eyes.

    Args:
        module, logits, clinical: as for `images_share`.
    """
    n = len(logits)
    if not np.isfinite(logits).all() or np.abs(logits).max(initial=0.0) > LARGEST_LOGIT:
        return f"a logit is not finite, or beyond {LARGEST_LOGIT:g}"
    if n < 2:
        return ""
    apart = min(len(np.unique(scores)) for scores in margins(logits).T)
    if apart < LEAST_APART * n:
        return f"{apart} different scores of {n} patients, expected at least {100 * LEAST_APART:g} % of them"
    share = images_share(module, logits, clinical)
    if share < LEAST_BY_IMAGES:
        least = f"expected at least {100 * LEAST_BY_IMAGES:g} %"
        return f"images make {100 * share:.2g} % of what sets patients apart, {least}"
    return ""


def _of_columns(module: nn.Module) -> npt.NDArray[np.float64] | None:
    """(k, 20) weights of the clinical columns; None for a head without them."""
    weight = head_in(module).classifier.output.weight.detach().double().cpu().numpy()
    return weight[:, -len(COLUMNS) :] if weight.shape[1] > len(COLUMNS) else None
