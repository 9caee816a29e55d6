"""One ROC curve: its area with DeLong's variance, intervals, and tests of two areas.

E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, Biometrics 1988, 44:837; computed by
midranks as X. Sun and W. Xu, IEEE Signal Processing Letters 2014, 21:1389.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from stic_core.statistics.bounds import Share, Some, Variance
from stic_core.statistics.roots import root
from stic_core.statistics.values import FORBID, Interval, NotEstimable

Scores: TypeAlias = npt.NDArray[np.floating]
Mask: TypeAlias = npt.NDArray[np.bool_]

NO_VARIANCE = NotEstimable(
    "DeLong's variance is 0 here (no patient is out of order, or all scores are tied), "
    "which says nothing about other patients"
)


@dataclass(frozen=True)
class Estimate:
    """An AUC, or a mean of AUCs, with its variance.

    Args:
        value: 0 to 1.
        variance: of the value; not estimable where DeLong's is 0, as at 0 and 1.
    """

    value: Share
    variance: Variance | NotEstimable

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    @property
    def se(self) -> float | NotEstimable:
        """Standard error."""
        return self.variance if isinstance(self.variance, NotEstimable) else float(np.sqrt(self.variance))

    def wald(self, *, level: float = 0.95) -> Interval | NotEstimable:
        """The value +- z se, cut at 0 and 1, as in the paper; covers too little near 1."""
        se = self.se
        if isinstance(se, NotEstimable):
            return se
        half = _z(level) * se
        return max(0.0, self.value - half), min(1.0, self.value + half)

    def logit(self, *, level: float = 0.95) -> Interval | NotEstimable:
        """The Wald interval of log(AUC / (1 - AUC)), taken back; never leaves 0 to 1."""
        se = self.se
        if isinstance(se, NotEstimable):
            return se
        if not 0 < self.value < 1:
            return NO_VARIANCE
        value = float(
            self.value
        )  # numpy's would warn where the division overflows, which gives the right ends
        centre = float(special.logit(value))
        half = _z(level) * se / (value * (1 - value))
        return float(special.expit(centre - half)), float(special.expit(centre + half))


@dataclass(frozen=True)
class Auc(Estimate):
    """The area under one ROC curve.

    Args:
        positives, negatives: patients of the class, and of the others.
    """

    positives: Some
    negatives: Some

    @property
    def sparse(self) -> bool:
        """Whether so few pairs are out of order that DeLong's variance says little of other patients.

        Below a quarter of one patient's share of all pairs the logit interval covers less than 93 %.
        """
        return min(self.value, 1 - self.value) * min(self.positives, self.negatives) < 0.25

    @property
    def effective(self) -> float:
        """Independent yes-or-no answers that say as much as these patients, for an AUC near 0 or 1."""
        return self.positives * self.negatives / (1 + _mean_others(self.positives, self.negatives) / 2)

    def newcombe(self, *, level: float = 0.95) -> Interval:
        """The AUCs that lie within z of their own standard errors from the value, as Wilson's interval of a share.

        Method 5 of R. G. Newcombe, Statistics in Medicine 2006, 25:559. It needs no variance of
        these patients, so an AUC of 1 has one too: from below 1 to 1.
        """
        m, n, z = self.positives, self.negatives, _z(level)

        def beyond(auc: float) -> float:
            return (auc - self.value) ** 2 - z**2 * newcombe_variance(auc, positives=m, negatives=n)

        tiny = 1e-12
        low = 0.0 if self.value < tiny else root(beyond, 0.0, self.value - tiny / 2, accuracy=tiny)
        high = 1.0 if self.value > 1 - tiny else root(beyond, self.value + tiny / 2, 1.0, accuracy=tiny)
        return low, high

    def interval(self, *, level: float = 0.95) -> Interval | NotEstimable:
        """The interval to show: logit, or Newcombe's where the AUC is `sparse`."""
        return self.newcombe(level=level) if self.sparse else self.logit(level=level)

    def of_the_others(self) -> Self:
        """The same area, with the patients of the class and the others changing places."""
        return replace(self, positives=self.negatives, negatives=self.positives)


def newcombe_variance(auc: float, *, positives: int, negatives: int) -> float:
    """Variance of an estimated AUC of which nothing but the number of patients is known.

    That of Hanley and McNeil (Radiology 1982, 143:29) with both classes as large as their mean
    (Newcombe, Statistics in Medicine 2006, 25:559).
    """
    others = _mean_others(positives, negatives)
    return (
        auc * (1 - auc) * (1 + others * ((1 - auc) / (2 - auc) + auc / (1 + auc))) / (positives * negatives)
    )


def _mean_others(positives: int, negatives: int) -> float:
    return (positives + negatives) / 2 - 1


@dataclass(frozen=True)
class AucTest:
    """Difference of two AUCs, first minus second, and its two-sided test.

    Args:
        statistic: standard normal for the same patients, Welch's t for different ones.
        df: degrees of freedom of t; None for the normal.
    """

    difference: float
    ci95: Interval
    statistic: float
    df: float | None
    p: float


def delong(scores: Scores, *, positive: Mask) -> Auc | NotEstimable:
    """AUC and DeLong's variance; a tie counts a half.

    Args:
        scores: (n,) higher speaks for the class.
        positive: (n,) True for patients of the class.
    """
    positives, negatives = _counts(scores, positive)
    if positives == 0 or negatives == 0:
        return absent_class(positives=positives, negatives=negatives)
    above, below = placements(scores, positive=positive)
    value = float(above.mean())
    return Auc(
        value=value,
        variance=_variance(value, above=above, below=below),
        positives=positives,
        negatives=negatives,
    )


def absent_class(*, positives: int, negatives: int) -> NotEstimable:
    """Why there is no ROC curve."""
    if positives == 0:
        return NotEstimable("no patients" if negatives == 0 else "no patient of this class")
    return NotEstimable("no patient of another class")


def placements(scores: Scores, *, positive: Mask) -> tuple[Scores, Scores]:
    """DeLong's structural components.

    Returns:
        For each positive the share of negatives that it lies above, (m,), and for each
        negative the share of positives that lie above it, (n,); ties count a half.
    """
    x, y = np.asarray(scores, dtype=np.float64)[positive], np.asarray(scores, dtype=np.float64)[~positive]
    ranks = stats.rankdata(np.concatenate([x, y]))
    above = (ranks[: len(x)] - stats.rankdata(x)) / len(y)
    below = 1 - (ranks[len(x) :] - stats.rankdata(y)) / len(x)
    return above, below


def influence(scores: Scores, *, positive: Mask) -> Scores:
    """What each score moves the AUC by, (n,); the sum of squares is DeLong's variance.

    Sums of influences over classes (macro) or over the scores of one patient (micro) give
    the variance of figures that use a patient more than once (the infinitesimal jackknife;
    for clusters, Obuchowski, Biometrics 1997, 53:567).
    """
    above, below = placements(scores, positive=positive)
    moved = np.empty(len(positive), dtype=np.float64)
    for mask, part in ((positive, above), (~positive, below)):
        size = len(part)
        # size - 1, as in DeLong's sample variances, so that one class alone gives his figure.
        moved[mask] = (part - part.mean()) / np.sqrt(size * max(size - 1, 1))
    return moved


def paired_test(
    first: Scores, second: Scores, *, positive: Mask, level: float = 0.95
) -> AucTest | NotEstimable:
    """Two scores of the same patients (DeLong's test).

    Args:
        first: (n,) scores.
        second: (n,) scores of the same patients.
        positive: (n,) True for patients of the class.
        level: coverage of the interval.
    """
    positives, negatives = _counts(first, positive)
    _counts(second, positive)
    if positives == 0 or negatives == 0:
        return absent_class(positives=positives, negatives=negatives)
    above1, _ = placements(first, positive=positive)
    above2, _ = placements(second, positive=positive)
    variance = paired_variance(first, second, positive=positive)
    return difference_test(float(above1.mean() - above2.mean()), variance=variance, df=None, level=level)


def paired_variance(first: Scores, second: Scores, *, positive: Mask) -> float:
    """DeLong's variance of the difference of two AUCs of the same patients, of both classes."""
    above1, below1 = placements(first, positive=positive)
    above2, below2 = placements(second, positive=positive)
    # The variance of a difference is that of the differences of the components.
    return _component_variance(above1 - above2, below1 - below2)


def unpaired_test(first: Auc, second: Auc, *, level: float = 0.95) -> AucTest | NotEstimable:
    """Two AUCs of different patients, two sites say, from aggregates alone.

    Welch's t with Satterthwaite's degrees of freedom over all patients, as pROC does.
    """
    v1, v2 = first.variance, second.variance
    if isinstance(v1, NotEstimable):
        return v1
    if isinstance(v2, NotEstimable):
        return v2
    n1, n2 = first.positives + first.negatives, second.positives + second.negatives
    df = (v1 + v2) ** 2 / (v1**2 / (n1 - 1) + v2**2 / (n2 - 1))
    return difference_test(first.value - second.value, variance=v1 + v2, df=df, level=level)


def difference_test(
    difference: float, *, variance: float, df: float | None, level: float = 0.95
) -> AucTest | NotEstimable:
    """Test a difference against 0, on the normal or on t with `df` degrees of freedom."""
    if not variance > 0:
        return NotEstimable("the difference has no variance in these patients")
    se = float(np.sqrt(variance))
    law = stats.norm() if df is None else stats.t(df)
    half = float(law.ppf(0.5 + level / 2)) * se
    return AucTest(
        difference=difference,
        # A difference of two shares lies between -1 and 1, which t of few patients does not know.
        ci95=(max(-1.0, difference - half), min(1.0, difference + half)),
        statistic=difference / se,
        df=df,
        p=float(2 * law.sf(abs(difference) / se)),
    )


def _variance(value: float, *, above: Scores, below: Scores) -> float | NotEstimable:
    if len(above) < 2 or len(below) < 2:
        return NotEstimable("a variance needs two patients of the class and two others")
    variance = _component_variance(above, below)
    return variance if variance > 0 and 0 < value < 1 else NO_VARIANCE


def _component_variance(above: Scores, below: Scores) -> float:
    if len(above) < 2 or len(below) < 2:
        return 0.0
    return float(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))


def _counts(scores: Scores, positive: Mask) -> tuple[int, int]:
    if scores.shape != positive.shape or scores.ndim != 1:
        raise ValueError(
            f"scores and classes: got shapes {scores.shape} and {positive.shape}, expected (n,) each"
        )
    if positive.dtype != np.bool_:
        raise TypeError(f"positive: got {positive.dtype}, expected bool")
    if not np.isfinite(scores).all():
        raise ValueError("scores: got NaN or infinity, expected finite numbers")
    positives = int(positive.sum())
    return positives, len(positive) - positives


def _z(level: float) -> float:
    return float(stats.norm.ppf(0.5 + level / 2))
