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

from stic_core.statistics.auc import Mask, Scores
from stic_core.statistics.bounds import Count, Finite, Some
from stic_core.statistics.histogram import ScoreHistogram, merged_starts
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


def log_loss_sum(logits: Scores, *, labels: npt.NDArray[np.integer]) -> float:
    """Sum over patients of -log of the true class's probability, from logits so that it is finite."""
    log_p = special.log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return float((-log_p[np.arange(len(log_p)), labels]).sum())


def calibration_groups(probabilities: Scores, *, hit: Mask, min_cell: int) -> tuple[Group, ...]:
    """Group (n,) probabilities into 10 bins, and merge neighbours until each holds `min_cell`."""
    p = np.asarray(probabilities, dtype=np.float64)
    bin_of = _bin(p)
    starts = merged_starts(np.bincount(bin_of, minlength=BINS), minimum=min_cell)
    group = np.searchsorted(starts, bin_of, side="right") - 1
    groups = (
        Group(
            n=int((group == g).sum()), hits=int(hit[group == g].sum()), predicted=float(p[group == g].sum())
        )
        for g in range(len(starts))
    )
    return tuple(one for one in groups if one.n)


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


@dataclass(frozen=True)
class Recalibration:
    """logit P(class) = intercept + slope x score; 0 and 1 are perfect.

    Args:
        slope_se, intercept_se: standard errors of the logistic regression.
    """

    slope: float
    slope_se: float
    intercept: float
    intercept_se: float


def recalibration(histograms: Sequence[ScoreHistogram]) -> Recalibration | NotEstimable:
    """Cox's slope and intercept (Biometrika 1958, 45:562) from score histograms of one class.

    Scores are log odds, so a calibrated model has slope 1 and intercept 0. Patients of a bin
    enter with the bin's mean score; a slope below 1 says that predictions are too extreme.
    """
    rows = [
        (total / (p + n), p, n)
        for histogram in histograms
        for p, n, total in zip(histogram.positives, histogram.negatives, histogram.sums, strict=True)
        if p + n
    ]
    if not rows:
        return NotEstimable("no patients")
    x, p, n = np.array(rows, dtype=np.float64).T
    return logistic_fit(x, hits=p, misses=n)


def logistic_fit(x: Scores, *, hits: Scores, misses: Scores) -> Recalibration | NotEstimable:
    """Logistic regression on one variable by Newton's method.

    Args:
        x: (b,) the variable in each group.
        hits: (b,) patients of the class in each group.
        misses: (b,) patients of other classes in each group.
    """
    with_class, without = x[hits > 0], x[misses > 0]
    if not len(with_class) or not len(without):
        return NotEstimable(
            "no patient of this class" if not len(with_class) else "no patient of another class"
        )
    if with_class.min() >= without.max() or without.min() >= with_class.max():
        return NotEstimable("the score separates the classes completely, so no slope is steep enough")
    # Newton's steps behave on a standardised variable; the fit is taken back below.
    weight = hits + misses
    centre = float(x @ weight / weight.sum())
    scale = float(np.sqrt((x - centre) ** 2 @ weight / weight.sum()))
    if scale < 1e-12:  # log odds: nothing that a float32 network tells apart, and 1 / scale^2 stays finite
        return NotEstimable("all scores are equal")
    design = np.stack([np.ones_like(x), (x - centre) / scale], axis=1)
    beta = np.zeros(2)
    information = np.eye(2)
    for _ in range(100):
        fitted = special.expit(design @ beta)
        gradient = design.T @ (hits - weight * fitted)
        information = (design * (weight * fitted * (1 - fitted))[:, None]).T @ design
        if np.linalg.cond(information) > 1e12:
            return NotEstimable("the logistic regression does not converge")
        step = np.linalg.solve(information, gradient)
        beta += step * min(1.0, 4.0 / float(np.abs(step).max() + 1e-300))
        if np.abs(step).max() < 1e-10:
            break
    else:
        return NotEstimable("the logistic regression does not converge")
    back = np.array([[1.0, -centre / scale], [0.0, 1 / scale]])
    (intercept, slope), covariance = back @ beta, back @ np.linalg.inv(information) @ back.T
    return Recalibration(
        slope=float(slope),
        slope_se=float(np.sqrt(covariance[1, 1])),
        intercept=float(intercept),
        intercept_se=float(np.sqrt(covariance[0, 0])),
    )


def _bin(p: Scores) -> npt.NDArray[np.intp]:
    return np.clip((p * BINS).astype(np.intp), 0, BINS - 1)
