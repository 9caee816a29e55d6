"""The same patients judged twice or more: McNemar, the paired difference, Cochran's Q.

`b` counts the patients that the first judged right and the second wrong, `c` the reverse.
Both add up across sites, so a comparison of two models needs no patient's data: McNemar on
the sums is McNemar on the pooled patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from stic_core.statistics.values import Interval, NotEstimable


@dataclass(frozen=True)
class TestResult:
    """A test's statistic, its degrees of freedom and its two-sided p value."""

    __test__ = False  # it is named like a test class, and pytest would collect it

    statistic: float
    df: int
    p: float


def mcnemar(*, b: int, c: int) -> TestResult:
    """McNemar's test with Edwards' continuity correction, as R's `mcnemar.test`.

    Two traps: without discordant patients there is no evidence of a difference, so p is 1
    (a plain division gives NaN, statsmodels 0); and where b equals c the correction would
    push |b - c| - 1 below 0, whose square is evidence from nothing (R leaves it out: p = 1).

    Example:
        >>> round(mcnemar(b=17, c=2).p, 10)
        0.0013189686
        >>> mcnemar(b=5, c=5).p, mcnemar(b=0, c=0).p
        (1.0, 1.0)
    """
    _check(b, c)
    if b == c:
        return TestResult(statistic=0.0, df=1, p=1.0)
    statistic = (abs(b - c) - 1) ** 2 / (b + c)
    return TestResult(statistic=statistic, df=1, p=float(stats.chi2.sf(statistic, 1)))


FEW_DISCORDANT = 25
"""Below so many discordant patients chi-squared is a rough law for McNemar's statistic (Agresti, Categorical Data
Analysis, 3rd edition, section 11.1), and the exact test is for them."""


def mcnemar_exact(*, b: int, c: int) -> float:
    """Two-sided p of the exact test: each discordant patient is a toss of a coin.

    Example:
        >>> mcnemar_exact(b=5, c=0)
        0.0625
    """
    _check(b, c)
    return float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two proportions of the same patients, first minus second."""

    difference: float
    ci95: Interval


def paired_difference(*, b: int, c: int, n: int, level: float = 0.95) -> PairedDifference | NotEstimable:
    """Interval of (b - c) / n, with continuity correction.

    d +- (z sqrt(b + c - (b - c)^2 / n) / n + 1 / n) (Fleiss, Levin and Paik, Statistical
    Methods for Rates and Proportions, section 13.1), cut at -1 and 1.

    Args:
        b: patients that only the first judged right.
        c: patients that only the second judged right.
        n: all patients, concordant ones included.
        level: coverage of the interval.
    """
    _check(b, c)
    if n < b + c:
        raise ValueError(f"patients: got {n}, expected at least b + c = {b + c}")
    if n == 0:
        return NotEstimable("no patients")
    difference = (b - c) / n
    z = float(stats.norm.ppf(0.5 + level / 2))
    half = z * np.sqrt(b + c - (b - c) ** 2 / n) / n + 1 / n
    return PairedDifference(
        difference=difference,
        ci95=(max(-1.0, float(difference - half)), min(1.0, float(difference + half))),
    )


def cochran_q(patterns: Mapping[str, int]) -> TestResult | NotEstimable:
    """Cochran's Q: do more than two judges of the same patients differ?

    Cochran, Biometrika 1950, 37:256. It needs counts of response patterns alone, which add
    up across sites.

    Args:
        patterns: how many patients got which pattern; a pattern has one digit per judge, in the
            same order, 1 for right and 0 for wrong.

    Example:
        >>> cochran_q({"111": 5, "000": 2}).p
        1.0
    """
    judges = len(next(iter(patterns), ""))
    if judges < 2:
        return NotEstimable("fewer than two judges")
    if any(len(pattern) != judges or set(pattern) - {"0", "1"} for pattern in patterns):
        raise ValueError(f"response patterns: got {sorted(patterns)}, expected {judges} digits 0 or 1 each")
    responses = np.array([[int(digit) for digit in pattern] for pattern in patterns], dtype=np.float64)
    counts = np.array(list(patterns.values()), dtype=np.float64)
    if counts.min() < 0 or counts.sum() == 0:
        return NotEstimable("no patients")
    by_judge = counts @ responses
    by_patient = responses.sum(axis=1)
    denominator = float(judges * (counts @ by_patient) - counts @ by_patient**2)
    df = judges - 1
    if denominator == 0:
        # Every patient was judged alike by all: nothing to tell the judges apart.
        return TestResult(statistic=0.0, df=df, p=1.0)
    statistic = float(df * (judges * (by_judge**2).sum() - by_judge.sum() ** 2) / denominator)
    return TestResult(statistic=statistic, df=df, p=float(stats.chi2.sf(statistic, df)))


def _check(b: int, c: int) -> None:
    if b < 0 or c < 0:
        raise ValueError(f"discordant patients: got b = {b}, c = {c}, expected counts")
