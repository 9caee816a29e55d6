"""Proportions: accuracy, sensitivity, specificity; one sample, and two of different patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from stic_core.statistics.values import Interval, NotEstimable


def clopper_pearson(successes: int, *, total: int, level: float = 0.95) -> Interval | NotEstimable:
    """The exact interval of a proportion (Clopper and Pearson, Biometrika 1934, 26:404).

    Args:
        successes: patients for whom it is so.
        total: all patients.
        level: coverage, at least.

    Example:
        >>> lower, upper = clopper_pearson(50, total=58)
        >>> round(lower, 6), round(upper, 6)
        (0.74619, 0.93852)
    """
    _check(successes, total)
    if total == 0:
        return NotEstimable("no patients")
    low, high = stats.beta.ppf(
        [(1 - level) / 2, (1 + level) / 2],
        [successes, successes + 1],
        [total - successes + 1, total - successes],
    )
    # At 0 and at all the beta law has no shape there, and the end is the end of the scale.
    return (0.0 if successes == 0 else float(low)), (1.0 if successes == total else float(high))


@dataclass(frozen=True)
class IndependentProportions:
    """Two proportions of different patients, first minus second.

    Args:
        difference: of the two proportions.
        ci95: Newcombe's interval of the difference.
        chi2, p: Pearson's chi-squared without continuity correction, 1 degree of freedom.
        fisher_p: Fisher's exact test, two-sided.
    """

    difference: float
    ci95: Interval
    chi2: float
    p: float
    fisher_p: float


def independent_proportions(
    first: tuple[int, int], second: tuple[int, int], *, level: float = 0.95
) -> IndependentProportions | NotEstimable:
    """Compare two sites, or any two sets of *different* patients.

    McNemar's test would need the same patients in both.

    Args:
        first: (successes, total).
        second: (successes, total) of other patients.
        level: coverage of the interval.
    """
    for successes, total in (first, second):
        _check(successes, total)
    if first[1] == 0 or second[1] == 0:
        return NotEstimable("one side has no patients")
    table = np.array([[k, n - k] for k, n in (first, second)])
    if 0 in table.sum(axis=0):
        # Both all right or both all wrong: every expected count of a column is 0.
        chi2, p, fisher_p = 0.0, 1.0, 1.0
    else:
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        chi2 = float(((table - expected) ** 2 / expected).sum())
        p = float(stats.chi2.sf(chi2, 1))
        fisher_p = _fisher(table)
    return IndependentProportions(
        difference=first[0] / first[1] - second[0] / second[1],
        ci95=newcombe(first, second, level=level),
        chi2=chi2,
        p=p,
        fisher_p=fisher_p,
    )


def newcombe(first: tuple[int, int], second: tuple[int, int], *, level: float = 0.95) -> Interval:
    """Interval of a difference of independent proportions.

    Newcombe's method 10, Wilson's score intervals without continuity correction combined
    (Statistics in Medicine 1998, 17:873).

    Args:
        first: (successes, total), the total above 0.
        second: (successes, total) of other patients, the total above 0.
        level: coverage.
    """
    p1, p2 = first[0] / first[1], second[0] / second[1]
    l1, u1 = wilson(first[0], total=first[1], level=level)
    l2, u2 = wilson(second[0], total=second[1], level=level)
    difference = p1 - p2
    # A difference lies between -1 and 1; rounding may pass the end by one digit.
    return (
        max(-1.0, difference - float(np.hypot(p1 - l1, u2 - p2))),
        min(1.0, difference + float(np.hypot(u1 - p1, p2 - l2))),
    )


def wilson(successes: int, *, total: int, level: float = 0.95) -> Interval:
    """Wilson's score interval, what Newcombe's is made of; `total` above 0."""
    _check(successes, total)
    z = float(stats.norm.ppf(0.5 + level / 2))
    p, shrink = successes / total, 1 + z**2 / total
    centre = (p + z**2 / (2 * total)) / shrink
    half = z * float(np.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def _fisher(table: np.ndarray) -> float:
    """Two-sided: all tables with these margins that are no more probable than this one."""
    margins = int(table.sum()), int(table[0].sum()), int(table[:, 0].sum())
    probability = np.asarray(stats.hypergeom.pmf(np.arange(margins[2] + 1), *margins), dtype=np.float64)
    # As in R: tables that are equally probable differ in their last digits.
    limit = probability[int(table[0, 0])] * (1 + 1e-7)
    return min(1.0, float(probability[probability <= limit].sum()))


def _check(successes: int, total: int) -> None:
    if not 0 <= successes <= total:
        raise ValueError(f"successes of total: got {successes} of {total}, expected 0 <= successes <= total")
