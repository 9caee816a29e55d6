"""Logistic regression on one variable, from grouped counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from stic_core.statistics.auc import Scores
from stic_core.statistics.values import NotEstimable


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
    # Newton's steps behave on a standardised variable; the fit is taken back below.
    weight = hits + misses
    centre = float(x @ weight / weight.sum())
    scale = float(np.sqrt((x - centre) ** 2 @ weight / weight.sum()))
    if scale < 1e-12:  # log odds: nothing that a float32 network tells apart, and 1 / scale^2 stays finite
        return NotEstimable("all scores are equal")
    if with_class.min() >= without.max() or without.min() >= with_class.max():
        return NotEstimable("the score separates the classes completely, so no slope is steep enough")
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
