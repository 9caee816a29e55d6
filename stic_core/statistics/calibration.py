"""Do probabilities mean what they say: Brier, log loss, ECE, reliability curve, slope and intercept.

All of it comes from sums over groups of patients, so figures across sites are sums of sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy import special

from stic_core.statistics.auc import Scores
from stic_core.statistics.bounds import Count, Finite, Some
from stic_core.statistics.histogram import ScoreHistogram, mean_scores
from stic_core.statistics.logistic import Recalibration, logistic_fit
from stic_core.statistics.values import FORBID, NotEstimable

BINS = 10
"""Bins of equal width from 0 to 1 (Guo et al., ICML 2017, use 15; 10 suits fewer patients)."""


@dataclass(frozen=True)
class Group:
    """Patients whose predicted probabilities are neighbours.

    Args:
        n: how many.
        hits: how many of them had what was predicted.
        predicted: sum of their predicted probabilities.
    """

    n: Some
    hits: Count
    predicted: Finite

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.n or not -1e-6 <= self.predicted <= self.n + 1e-6:
            raise ValueError("calibration group: expected 0 <= hits <= n and 0 <= predicted <= n")


def brier_sum(probabilities: Scores, *, labels: npt.NDArray[np.integer]) -> float:
    """Sum over patients of the squared error over all classes (Brier, 1950); 0 to 2 each."""
    truth = labels[:, None] == np.arange(probabilities.shape[1])
    return float(((probabilities - truth) ** 2).sum())


LOSS_CAP = 10.0
"""Most that one patient's -log p counts where it is released: p = 4.5e-5. Else one patient's value could be
told from a sum over all of them."""


def capped_loss_sum(logits: Scores, *, labels: npt.NDArray[np.integer]) -> float:
    """`log_loss_sum` with each patient's part capped at `LOSS_CAP`."""
    return float(np.minimum(_losses(logits, labels=labels), LOSS_CAP).sum())


def log_loss_sum(logits: Scores, *, labels: npt.NDArray[np.integer]) -> float:
    """Sum over patients of -log of the true class's probability, from logits so that it is finite."""
    return float(_losses(logits, labels=labels).sum())


def _losses(logits: Scores, *, labels: npt.NDArray[np.integer]) -> Scores:
    log_p = special.log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return -log_p[np.arange(len(log_p)), labels]


def reliability(groups: Iterable[Group]) -> tuple[Group, ...]:
    """The reliability curve: groups of all sites in the 10 bins; empty bins are left out.

    A group that a site merged over several bins counts where its mean lies.
    """
    totals: dict[int, tuple[int, int, float]] = {}
    for group in groups:
        index = int(_bin(np.array([group.predicted / group.n]))[0])
        n, hits, predicted = totals.get(index, (0, 0, 0.0))
        totals[index] = (n + group.n, hits + group.hits, predicted + group.predicted)
    return tuple(Group(*totals[index]) for index in sorted(totals))


def ece(groups: Iterable[Group]) -> float | NotEstimable:
    """Expected calibration error: mean distance of observed from predicted, weighted by patients."""
    curve = reliability(groups)
    total = sum(group.n for group in curve)
    if total == 0:
        return NotEstimable("no patients")
    return sum(abs(group.hits - group.predicted) for group in curve) / total


def recalibration(histograms: Sequence[ScoreHistogram]) -> Recalibration | NotEstimable:
    """Cox's slope and intercept (Biometrika 1958, 45:562) from score histograms of one class.

    Scores are log odds, so a calibrated model has slope 1 and intercept 0. Patients of a bin
    enter with the bin's mean score; a slope below 1 says that predictions are too extreme.
    """
    x, p, n = mean_scores(histograms)
    return logistic_fit(x, hits=p, misses=n) if len(x) else NotEstimable("no patients")


def _bin(p: Scores) -> npt.NDArray[np.intp]:
    return np.clip((p * BINS).astype(np.intp), 0, BINS - 1)
