"""More than two classes: the score of each class, and what one says of all ROC curves together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from stic_core.statistics.auc import (
    NO_VARIANCE,
    Auc,
    Estimate,
    Mask,
    Scores,
    delong,
    influence,
)
from stic_core.statistics.values import NotEstimable


def margins(logits: Scores) -> Scores:
    """Score of each class against the rest: z_k - log sum of exp of the other logits.

    It is log(p_k / (1 - p_k)) of the softmax, so it orders patients as p_k does, but in
    float64 and unbounded: where an overconfident softmax rounds to 0 and 1, it doesn't.

    Args:
        logits: (n, k) with k at least 2.

    Returns:
        (n, k) float64.
    """
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] < 2:
        raise ValueError(f"logits: got shape {z.shape}, expected (n, k) with k >= 2")
    if not len(z):
        return np.zeros_like(z)
    others = [np.asarray(logsumexp(np.delete(z, k, axis=1), axis=1)) for k in range(z.shape[1])]
    return z - np.stack(others, axis=1)


def one_vs_rest(scores: Scores, *, labels: npt.NDArray[np.integer]) -> list[Auc | NotEstimable]:
    """AUC of each class against all others, (n, k) scores and (n,) class indices."""
    return [delong(scores[:, k], positive=labels == k) for k in range(scores.shape[1])]


def macro(scores: Scores, *, labels: npt.NDArray[np.integer]) -> Estimate | NotEstimable:
    """Mean of the classes' AUCs, with the variance that their common patients imply."""
    aucs = one_vs_rest(scores, labels=labels)
    for auc in aucs:
        if isinstance(auc, NotEstimable):
            return NotEstimable("a class has no AUC")
    moved = np.mean([influence(scores[:, k], positive=labels == k) for k in range(len(aucs))], axis=0)
    known = [auc for auc in aucs if isinstance(auc, Auc)]
    return Estimate(
        value=float(np.mean([auc.value for auc in known])),
        variance=_variance(moved, smallest=_smallest(labels)),
    )


def micro(scores: Scores, *, labels: npt.NDArray[np.integer]) -> Estimate | NotEstimable:
    """One ROC curve over all (patient, class) pairs; a patient's k scores are one cluster."""
    n, k = scores.shape
    positive: Mask = labels[:, None] == np.arange(k)
    auc = delong(scores.ravel(), positive=positive.ravel())
    if isinstance(auc, NotEstimable):
        return auc
    moved = influence(scores.ravel(), positive=positive.ravel()).reshape(n, k).sum(axis=1)
    return Estimate(value=auc.value, variance=_variance(moved, smallest=n))


def roc_points(scores: Scores, *, positive: Mask) -> tuple[Scores, Scores]:
    """The empirical ROC curve: false and true positive rates, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    hits = positive[order].astype(np.float64)
    last_of_tie = np.r_[np.diff(scores[order]) != 0, True]
    tpr = np.cumsum(hits)[last_of_tie] / hits.sum()
    fpr = np.cumsum(1 - hits)[last_of_tie] / (1 - hits).sum()
    return np.r_[0.0, fpr], np.r_[0.0, tpr]


def corners(rates: tuple[Scores, Scores]) -> tuple[Scores, Scores]:
    """The points of a curve that `roc_points` gives without those on a straight line between their neighbours.

    These are the points that scikit-learn's `roc_curve` keeps by default (`drop_intermediate`).
    """
    fpr, tpr = rates
    inner = slice(1, None)  # the origin is no score's point, so no line begins there
    bends = (np.abs(np.diff(fpr[inner], 2)) > _STRAIGHT) | (np.abs(np.diff(tpr[inner], 2)) > _STRAIGHT)
    keep = np.r_[True, True, bends, True] if len(fpr) > _TWO_POINTS else np.ones(len(fpr), dtype=np.bool_)
    return fpr[keep], tpr[keep]


_STRAIGHT = 1e-12
"""Second differences below this are rounding: rates are counts over at most millions of patients."""

_TWO_POINTS = 3
"""The origin and two more: nothing lies between."""


def macro_interpolated(scores: Scores, *, labels: npt.NDArray[np.integer]) -> float | NotEstimable:
    """The paper's macro average: mean curve on the union of all false positive rates.

    It is scikit-learn's recipe, with the corners of each curve alone: interpolation takes the top of
    every vertical step, so it lies some thousandths above `macro`. Offered for comparison with the
    paper, and labelled as what it is.
    """
    curves = []
    for k in range(scores.shape[1]):
        positive = labels == k
        if positive.all() or not positive.any():
            return NotEstimable("a class has no ROC curve")
        curves.append(corners(roc_points(scores[:, k], positive=positive)))
    grid = np.unique(np.concatenate([fpr for fpr, _ in curves]))
    mean = np.mean([np.interp(grid, fpr, tpr) for fpr, tpr in curves], axis=0)
    return min(1.0, float(np.trapezoid(mean, grid)))  # rounding may pass 1 by one digit


def _variance(moved: Scores, *, smallest: int) -> float | NotEstimable:
    if smallest < 2:
        return NotEstimable("a variance needs two patients of every class")
    variance = float((moved**2).sum())
    return variance if variance > 0 else NO_VARIANCE


def _smallest(labels: npt.NDArray[np.integer]) -> int:
    return int(np.unique(labels, return_counts=True)[1].min())
