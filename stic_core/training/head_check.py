"""Is a model's head one that training gives, or one that was made to ask about a patient's clinical columns?

Whoever may choose all weights can make a model that looks at the clinical columns alone, and answers
for one combination of them. Training does not: its columns move the log odds by a few units, and
the images carry a share of what sets patients apart. The bounds are far outside of what training
gave (docs/threats.md has the figures); they stop the plain attack, not one that stays within them.

What images do is measured twice: as a share of the variance of the logits, and on what leaves, the order
of the patients by each class's score. The first alone could be had by weights that change no
answer: noise on a class that is never predicted, or below a bias so large that a float32 forgets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from stic_core.data.clinical import COLUMNS
from stic_core.errors import PlanRefusedError
from stic_core.models.stic import STICHead, head_in
from stic_core.statistics import Scores, margins
from stic_core.tensors.array_types import ScoreMatrix

MOST_BY_A_COLUMN = 15.0
"""Log odds between two classes that one yes or no may move."""

LEAST_BY_IMAGES = 1e-5
"""Share of the variance of the logits that the images make."""

LEAST_IN_ORDER = 1e-5
"""One minus the rank correlation of a class's scores with those that other patients' images would give."""

LEAST_APART = 0.9
"""Share of the patients whose scores are nobody else's. Were all others tied, an AUC would tell one's class."""

LARGEST_LOGIT = 1e4
"""An overconfident network has logits of hundreds; beside 2^32 a float32 drops whatever a patient adds."""

_ORDER_FROM = 20
"""Patients; of fewer, an honest model's order may hang on no image."""

_EXCHANGES = 20
"""Ways of giving patients each other's images that the correlation is averaged over."""


@contextmanager
def classifier_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a model's last layer is given, (n, i) in parts, while it predicts."""
    parts: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        parts.append(inputs[0].detach())

    hook = head_in(module).classifier.register_forward_pre_hook(keep)
    try:
        yield parts
    finally:
        hook.remove()


def most_by_a_column(module: nn.Module) -> float | None:
    """Log odds between two classes that the strongest clinical column moves; None for a head without them."""
    if not _takes_columns(module):
        return None
    weight = head_in(module).classifier.output.weight.detach().double().cpu().numpy()
    return float(np.ptp(weight[:, -len(COLUMNS) :], axis=0).max())


def share_of_images(module: nn.Module, inputs: list[Tensor]) -> float | None:
    """Share of the variance of the logits, over patients, that the images make; None as for `least_in_order`."""
    if not _takes_columns(module) or sum(map(len, inputs)) < 2:
        return None
    fused = torch.cat(inputs).double().cpu().numpy()
    weight = head_in(module).classifier.output.weight.detach().double().cpu().numpy()
    k = len(COLUMNS)
    made = [fused[:, part] @ weight[:, part].T for part in (slice(None, -k), slice(-k, None))]
    # A constant on all classes changes no probability.
    images, columns = (float((z - z.mean(axis=1, keepdims=True)).var(axis=0).sum()) for z in made)
    return images / (images + columns) if images + columns > 0 else 1.0


def least_in_order(module: nn.Module, inputs: list[Tensor]) -> float | None:
    """What the images do for the order of the patients, by the class for which it is least: 0 nothing, about 1 all.

    Args:
        inputs: as `classifier_inputs` collected them.

    Returns:
        None for a head without clinical columns, or for few patients, whose order little can change.
    """
    n = sum(map(len, inputs))
    if not _takes_columns(module) or n < _ORDER_FROM:
        return None
    fused, classifier = torch.cat(inputs), head_in(module).classifier
    with torch.inference_mode():
        shifts = np.unique(np.linspace(1, n - 1, min(n - 1, _EXCHANGES)).round().astype(int))
        orders = [_order(classifier(fused))]
        for shift in shifts:
            exchanged = fused.clone()
            exchanged[:, : -len(COLUMNS)] = fused[:, : -len(COLUMNS)].roll(int(shift), dims=0)
            orders.append(_order(classifier(exchanged)))
    first, *others = orders
    norm = np.sqrt((first**2).sum(axis=0))
    alike = []
    for other in others:
        length = norm * np.sqrt((other**2).sum(axis=0))
        # All patients alike tell nothing of anybody: nothing to be found there.
        alike.append(
            np.divide((first * other).sum(axis=0), length, out=np.zeros_like(length), where=length > 0)
        )
    return float(1 - np.mean(alike, axis=0).max())


def check_columns(module: nn.Module, *, name: str) -> None:
    """Refuse a model one of whose clinical columns decides alone; its weights say so, no patient does.

    Args:
        name: what the server calls the model.

    Raises:
        PlanRefusedError: with the figure.
    """
    column = most_by_a_column(module)
    if column is not None and not column <= MOST_BY_A_COLUMN:
        raise PlanRefusedError(
            f"model {name}: its clinical columns",
            got=f"log odds that one of them moves by {column:.3g}",
            expected=f"at most {MOST_BY_A_COLUMN:g}",
        )


def fault_of_scores(module: nn.Module, logits: ScoreMatrix, inputs: list[Tensor]) -> str:
    """What of a model's scores training does not give; "" where nothing is. For the site's own eyes.

    Args:
        module: what trains and travels, or the whole network.
        logits: (n, k) of the patients.
        inputs: as `classifier_inputs` collected them.
    """
    n = len(logits)
    if not np.isfinite(logits).all() or np.abs(logits).max(initial=0.0) > LARGEST_LOGIT:
        return f"a logit is not finite, or beyond {LARGEST_LOGIT:g}"
    if n < 2:
        return ""
    apart = min(len(np.unique(scores)) for scores in margins(logits).T)
    if apart < LEAST_APART * n:
        return f"{apart} different scores of {n} patients, expected at least {100 * LEAST_APART:g} % of them"
    for figure, least, what in (
        (share_of_images(module, inputs), LEAST_BY_IMAGES, "what sets patients apart"),
        (least_in_order(module, inputs), LEAST_IN_ORDER, "their order by a class's score"),
    ):
        if figure is not None and not figure >= least:
            return f"images make {100 * figure:.2g} % of {what}, expected at least {100 * least:g} %"
    return ""


def _takes_columns(module: nn.Module) -> bool:
    head = head_in(module)
    return isinstance(head, STICHead) or head.integration is not None


def _order(logits: Tensor) -> Scores:
    """(n, k) ranks by each class's score, about their mean."""
    largest = float(np.finfo(np.float32).max)  # images exchanged may leave it where the patients' own did not
    finite = np.nan_to_num(logits.double().cpu().numpy(), posinf=largest, neginf=-largest)
    ranks = rankdata(margins(finite), axis=0)
    return ranks - ranks.mean(axis=0)
