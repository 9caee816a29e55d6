"""What a positive call is worth: predictive values at a stated prevalence, and net benefit.

A test set's own prevalence is that of the hospitals that took part, not that of the clinic in which
a model would be used, so predictive values need one that is stated. Only counts go in, and counts add
up across sites.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from stic_core.statistics.values import Interval, NotEstimable


@dataclass(frozen=True)
class PredictiveValue:
    """A predictive value at a stated prevalence.

    Args:
        value: 0 to 1.
        ci95: Mercaldo, Lau and Zhou's logit interval.
    """

    value: float
    ci95: Interval


@dataclass(frozen=True)
class PredictiveValues:
    """Of those called positive, how many are; of those called negative, how many are not."""

    positive: PredictiveValue | NotEstimable
    negative: PredictiveValue | NotEstimable


def predictive_values(
    positives: tuple[int, int], negatives: tuple[int, int], *, prevalence: float, level: float = 0.95
) -> PredictiveValues:
    """Predictive values from sensitivity and specificity, by Bayes' rule.

    The intervals are those of N. D. Mercaldo, K. F. Lau and X. H. Zhou (Statistics in Medicine 2007,
    26:2170): Wald's on the logit scale; where a count is 0 or all, on counts with z^2 / 2 added on both
    sides, as the paper does, since the logit has no variance there. The value is never adjusted.

    Args:
        positives: (called positive, all patients of the class).
        negatives: (called negative, all patients of other classes).
        prevalence: of the class where the model would be used, above 0 and below 1.
        level: coverage of the intervals.

    Example:
        >>> found = predictive_values((90, 100), (160, 200), prevalence=0.1)
        >>> round(found.positive.value, 4), round(found.negative.value, 4)
        (0.3333, 0.9863)
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence: got {prevalence}, expected above 0 and below 1")
    for called, of in (positives, negatives):
        if not 0 <= called <= of:
            raise ValueError(f"called of all: got {called} of {of}, expected 0 <= called <= all")
    if positives[1] == 0 or negatives[1] == 0:
        nobody = NotEstimable("one side has no patients")
        return PredictiveValues(nobody, nobody)
    return PredictiveValues(
        _by_bayes(
            positives, (negatives[1] - negatives[0], negatives[1]), odds=_odds(prevalence), level=level
        ),
        _by_bayes(
            negatives, (positives[1] - positives[0], positives[1]), odds=_odds(1 - prevalence), level=level
        ),
    )


def _by_bayes(
    rightly: tuple[int, int], wrongly: tuple[int, int], *, odds: float, level: float
) -> PredictiveValue | NotEstimable:
    """The share of those called so who are: odds afterwards = odds before x rate among them / rate among others."""
    if rightly[0] == wrongly[0] == 0:
        return NotEstimable("no patient was called so")
    z = float(stats.norm.ppf(0.5 + level / 2))
    at_an_end = any(called in (0, of) for called, of in (rightly, wrongly))
    added = z**2 / 2 if at_an_end else 0.0
    (x, n), (y, m) = ((called + added, of + 2 * added) for called, of in (rightly, wrongly))
    centre = float(np.log(odds * (x / n) / (y / m)))
    half = z * float(np.sqrt((n - x) / (x * n) + (m - y) / (y * m)))
    hit, false = odds * rightly[0] / rightly[1], wrongly[0] / wrongly[1]
    value = hit / (hit + false)
    low, high = float(special.expit(centre - half)), float(special.expit(centre + half))
    # At an end the adjusted interval may stop short of the value, which it has to hold.
    return PredictiveValue(value=value, ci95=(min(low, value), max(high, value)))


@dataclass(frozen=True)
class NetBenefit:
    """Net benefit of calling a patient positive from a threshold probability on, per patient.

    Args:
        threshold: the probability at which a reader is undecided: a false alarm then costs
            threshold / (1 - threshold) of what a case found is worth.
        value: true positives less false positives so weighted, divided by the patients.
        ci95: Wald's, of a mean over patients.
        call_all: net benefit of calling everybody positive; of calling nobody it is 0.
    """

    threshold: float
    value: float
    ci95: Interval
    call_all: float


def net_benefit(
    *,
    true_positives: int,
    false_positives: int,
    positives: int,
    negatives: int,
    threshold: float,
    level: float = 0.95,
) -> NetBenefit | NotEstimable:
    """One point of a decision curve (A. J. Vickers and E. B. Elkin, Medical Decision Making 2006, 26:565).

    Net benefit is a mean over patients (1 for a case found, minus the odds for a false alarm, 0
    otherwise), so its variance is that of a mean: no resampling is needed, and counts suffice.

    Args:
        true_positives, false_positives: patients called positive at this threshold.
        positives, negatives: all patients of the class, and of the others.
        threshold: above 0 and below 1.
        level: coverage of the interval.

    Example:
        >>> found = net_benefit(true_positives=40, false_positives=20, positives=50, negatives=50, threshold=0.2)
        >>> round(found.value, 3), round(found.call_all, 3)
        (0.35, 0.375)
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: got {threshold}, expected above 0 and below 1")
    if not (0 <= true_positives <= positives and 0 <= false_positives <= negatives):
        raise ValueError(
            f"called positive: got {true_positives} of {positives} and {false_positives} of {negatives}, "
            "expected no more than there are"
        )
    n = positives + negatives
    if n == 0:
        return NotEstimable("no patients")
    weight = _odds(threshold)
    value = (true_positives - weight * false_positives) / n
    second_moment = (true_positives + weight**2 * false_positives) / n
    half = float(stats.norm.ppf(0.5 + level / 2)) * float(np.sqrt(max(0.0, second_moment - value**2) / n))
    return NetBenefit(
        threshold=threshold,
        value=value,
        ci95=(value - half, value + half),
        call_all=(positives - weight * negatives) / n,
    )


def _odds(probability: float) -> float:
    return probability / (1 - probability)
