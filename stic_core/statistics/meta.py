"""AUCs of several sites as one: the stratified AUC and meta-analysis on the logit scale.

The pooled AUC compares every patient with every other, so a shift of scores between sites
lowers it; these two compare only within sites, and so say whether the *ordering* holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from stic_core.statistics.auc import Auc, Estimate
from stic_core.statistics.values import Interval, NotEstimable


def stratified(aucs: Sequence[Auc]) -> Estimate | NotEstimable:
    """Mean of within-site AUCs, weighted by their pairs of patients (positives x negatives)."""
    weights = np.array([auc.positives * auc.negatives for auc in aucs], dtype=np.float64)
    if weights.sum() == 0:
        return NotEstimable("no site has an AUC of this class")
    weights /= weights.sum()
    value = float(weights @ [auc.value for auc in aucs])
    variances = [auc.variance for auc in aucs]
    known = [variance for variance in variances if not isinstance(variance, NotEstimable)]
    if len(known) < len(variances):
        return Estimate(value=value, variance=NotEstimable("a site's AUC has no variance"))
    return Estimate(value=value, variance=float(weights**2 @ known))


@dataclass(frozen=True)
class Summary:
    """A meta-analytic AUC, taken back from the logit scale."""

    value: float
    ci95: Interval


@dataclass(frozen=True)
class MetaAnalysis:
    """Two summaries and the heterogeneity between sites.

    Args:
        fixed: inverse-variance, one true AUC everywhere.
        random: DerSimonian and Laird, Controlled Clinical Trials 1986, 7:177.
        tau2: variance between sites, on the logit scale.
        q, df, p: Cochran's heterogeneity statistic and its test.
        i2: share of the variation that is between sites, per cent.
    """

    fixed: Summary
    random: Summary
    tau2: float
    q: float
    df: int
    p: float
    i2: float


def meta_analysis(
    aucs: Sequence[float], *, standard_errors: Sequence[float], level: float = 0.95
) -> MetaAnalysis | NotEstimable:
    """Combine AUCs of different patients on the logit scale; standard errors by the delta method.

    Args:
        aucs: strictly between 0 and 1, one a site.
        standard_errors: of the AUCs themselves, above 0.
        level: coverage of the intervals.
    """
    if len(aucs) < 2:
        return NotEstimable("fewer than two sites have an AUC with an interval")
    a, se = np.asarray(aucs, dtype=np.float64), np.asarray(standard_errors, dtype=np.float64)
    if not ((a > 0) & (a < 1) & (se > 0)).all():
        raise ValueError("AUCs and standard errors: expected 0 < AUC < 1 and standard errors above 0")
    y, variance = special.logit(a), (se / (a * (1 - a))) ** 2
    w = 1 / variance
    mean = w @ y / w.sum()
    q, df = float(w @ (y - mean) ** 2), len(a) - 1
    # sum(w) - sum(w^2) / sum(w), without the difference that is 0 where one weight is all but all of it.
    others = np.array([np.delete(w, i).sum() for i in range(len(w))])
    tau2 = max(0.0, (q - df) / float(w @ (others / w.sum())))
    return MetaAnalysis(
        fixed=_summary(y, w, level),
        random=_summary(y, 1 / (variance + tau2), level),
        tau2=tau2,
        q=q,
        df=df,
        p=float(stats.chi2.sf(q, df)),
        i2=max(0.0, 100 * (q - df) / q) if q > 0 else 0.0,
    )


def _summary(y: np.ndarray, w: np.ndarray, level: float) -> Summary:
    mean, half = float(w @ y / w.sum()), float(stats.norm.ppf(0.5 + level / 2) / np.sqrt(w.sum()))
    value, low, high = (float(x) for x in special.expit([mean, mean - half, mean + half]))
    return Summary(value=value, ci95=(low, high))
