"""Do probabilities mean what they say: Brier, log loss, ECE, reliability curve, slope and intercept.

All of it comes from sums over groups of patients, so figures across sites are sums of sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy import special

from stic_core.statistics.auc import Scores
from stic_core.statistics.bounds import Count, Finite, Some
from stic_core.statistics.logistic import Recalibration, logistic_fit
from stic_core.statistics.pooled import PooledScores
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


MOST_OPEN = 0.15
"""Share of the pairs that bins may leave open for slope and calibration error to be shown. With .2 the slope was low
by up to .7 of its standard error in the few figures near the limit (`benchmarks/pooled_auc_coverage.py`)."""

TOO_COARSE = NotEstimable("the released bins of scores are too coarse for it")


def ece(scores: PooledScores) -> float | NotEstimable:
    """Expected calibration error: mean distance of observed from predicted in ten bins, weighted by patients."""
    if scores.open_by_bins > MOST_OPEN:
        return TOO_COARSE
    probability = special.expit(scores.centres)
    n = scores.positives + scores.negatives
    distance = np.bincount(_bin(probability), weights=scores.positives - n * probability, minlength=BINS)
    return float(np.abs(distance).sum() / n.sum())


def recalibration(scores: PooledScores) -> Recalibration | NotEstimable:
    """Cox's slope and intercept (Biometrika 1958, 45:562) of one class.

    Scores are log odds, so a calibrated model has slope 1 and intercept 0; a slope below 1 says
    that predictions are too extreme.
    """
    if scores.open_by_bins > MOST_OPEN:
        return TOO_COARSE
    return logistic_fit(scores.centres, hits=scores.positives, misses=scores.negatives)


def _bin(p: Scores) -> npt.NDArray[np.intp]:
    return np.clip((p * BINS).astype(np.intp), 0, BINS - 1)
