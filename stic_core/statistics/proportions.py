"""Proportions: accuracy, sensitivity, specificity; one sample, and two of different patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
    return _interval(successes, total, level=level, method="exact")


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
    chi2, p = 0.0, 1.0
    if 0 not in table.sum(axis=0):  # all right or all wrong on both sides: no expected counts to divide by
        pearson: Any = stats.chi2_contingency(table, correction=False)  # scipy's results carry no types
        chi2, p = float(pearson.statistic), float(pearson.pvalue)
    fisher: Any = stats.fisher_exact(table)
    return IndependentProportions(
        difference=first[0] / first[1] - second[0] / second[1],
        ci95=newcombe(first, second, level=level),
        chi2=chi2,
        p=p,
        fisher_p=float(fisher.pvalue),
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
    return _interval(successes, total, level=level, method="wilson")


def _interval(successes: int, total: int, *, level: float, method: Literal["exact", "wilson"]) -> Interval:
    found = stats.binomtest(successes, total).proportion_ci(level, method=method)
    return float(found.low), float(found.high)


def _check(successes: int, total: int) -> None:
    if not 0 <= successes <= total:
        raise ValueError(f"successes of total: got {successes} of {total}, expected 0 <= successes <= total")
