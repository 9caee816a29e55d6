"""Is a model's head one that training gives, or one that was made to ask about a patient's clinical columns?

Whoever may choose all weights can make a model that looks at the clinical columns alone, and answers
for one combination of them. Training does not: its columns move the log odds by a few units, and
the images carry a share of what sets patients apart. The bounds are far outside of what training
gave (docs/threats.md has the figures); they stop the plain attack, not one that stays within them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from stic_core.data.clinical import COLUMNS
from stic_core.errors import PlanRefusedError
from stic_core.models.stic import head_in
from stic_core.tensors.array_types import ClinicalMatrix, ScoreMatrix

MOST_BY_A_COLUMN = 15.0
"""Log odds between two classes that one yes or no may move."""

LEAST_BY_IMAGES = 0.001
"""Share of the variance of the logits that the images make."""


@dataclass(frozen=True, slots=True)
class HeadFigures:
    """What a head does.

    Args:
        column: log odds between two classes that the strongest clinical column moves.
        images: share of the variance of the logits, over patients, that is not the clinical columns'.
    """

    column: float
    images: float


def head_figures(module: nn.Module, logits: ScoreMatrix, clinical: ClinicalMatrix) -> HeadFigures | None:
    """What a model's head does with these patients; None for a head without clinical columns.

    Args:
        module: what trains and travels, or the whole network.
        logits: (n, k) of the patients.
        clinical: (n, 20).
    """
    weight = head_in(module).classifier.output.weight.detach().double().cpu().numpy()
    if weight.shape[1] <= len(COLUMNS):
        return None
    of_columns: npt.NDArray[np.float64] = weight[:, -len(COLUMNS) :]
    by_columns = clinical @ of_columns.T
    by_images = logits - by_columns
    # A constant on all classes changes no probability.
    parts = [
        float((part - part.mean(axis=1, keepdims=True)).var(axis=0).sum()) for part in (by_images, by_columns)
    ]
    total = sum(parts)
    return HeadFigures(
        column=float(np.ptp(of_columns, axis=0).max()), images=parts[0] / total if total > 0 else 1.0
    )


def check_head(module: nn.Module, logits: ScoreMatrix, clinical: ClinicalMatrix, *, name: str) -> None:
    """Refuse a model whose head training does not give.

    Args:
        name: what the server calls the model.

    Raises:
        PlanRefusedError: with the figure.
    """
    found = head_figures(module, logits, clinical)
    if found is None:
        return
    if found.column > MOST_BY_A_COLUMN:
        raise PlanRefusedError(
            f"model {name}: its clinical columns",
            got=f"log odds that one of them moves by {found.column:.3g}",
            expected=f"at most {MOST_BY_A_COLUMN:g}",
        )
    if found.images < LEAST_BY_IMAGES and len(logits) > 1:
        raise PlanRefusedError(
            f"model {name}: its images",
            got=f"{100 * found.images:.2g} % of what sets patients apart",
            expected=f"at least {100 * LEAST_BY_IMAGES:g} %",
        )
