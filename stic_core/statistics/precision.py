"""How wide an interval will be before there is a patient: what a study of a given size can show.

R. D. Riley et al., Statistics in Medicine 2021, 40:4230, ask that an evaluation's size be justified by
the width of its intervals; these are the widths of the intervals that the report prints.
"""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from stic_core.statistics.auc import Auc
from stic_core.statistics.values import Interval, NotEstimable


def expected_auc_interval(
    value: float, *, positives: int, negatives: int, level: float = 0.95
) -> Interval | NotEstimable:
    """The logit interval that an AUC of this value would have, with Hanley and McNeil's variance.

    J. A. Hanley and B. J. McNeil, Radiology 1982, 143:29, equation 2 with the exponential
    approximation: DeLong's variance needs scores, and there are none yet.

    Args:
        value: the AUC that is hoped for, above .5 and below 1.
        positives, negatives: held-out patients of the class, and of the others.
        level: coverage.

    Example:
        >>> low, high = expected_auc_interval(0.9, positives=50, negatives=100)
        >>> round(low, 3), round(high, 3)
        (0.822, 0.946)
    """
    if not 0.5 < value < 1:
        raise ValueError(f"AUC: got {value}, expected above 0.5 and below 1")
    if min(positives, negatives) < 1:
        return NotEstimable("one side has no patients")
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = (
        value * (1 - value) + (positives - 1) * (q1 - value**2) + (negatives - 1) * (q2 - value**2)
    ) / (positives * negatives)
    return Auc(value=value, variance=variance, positives=positives, negatives=negatives).logit(level=level)


def expected_proportion_interval(value: float, *, total: int, level: float = 0.95) -> Interval | NotEstimable:
    """The mean ends of Clopper and Pearson's interval over all counts that a proportion may give.

    Args:
        value: the sensitivity, specificity or accuracy that is hoped for, 0 to 1.
        total: held-out patients of whom it is a share.
        level: coverage, at least.

    Example:
        >>> low, high = expected_proportion_interval(0.9, total=50)
        >>> round(low, 3), round(high, 3)
        (0.784, 0.964)
    """
    if not 0 <= value <= 1:
        raise ValueError(f"proportion: got {value}, expected 0 to 1")
    if total < 1:
        return NotEstimable("no patients")
    k = np.arange(total + 1)
    weights = stats.binom.pmf(k, total, value)
    tail = (1 - level) / 2
    # The beta quantiles of Clopper and Pearson, whose ends at 0 and at all are fixed.
    low = np.where(k == 0, 0.0, special.betaincinv(np.maximum(k, 1), total - k + 1, tail))
    high = np.where(k == total, 1.0, special.betaincinv(k + 1, np.maximum(total - k, 1), 1 - tail))
    return float(weights @ low), float(weights @ high)
