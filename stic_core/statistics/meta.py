"""AUCs of several sites as one: the stratified AUC and meta-analysis on the logit scale.

The pooled AUC compares every patient with every other, so a shift of scores between sites
lowers it; these two compare only within sites, and so say whether the *ordering* holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from stic_core.statistics.auc import NO_VARIANCE, Auc, Estimate, newcombe_variance
from stic_core.statistics.values import Interval, NotEstimable


def stratified(aucs: Sequence[Auc]) -> Estimate | NotEstimable:
    """Mean of within-site AUCs, weighted by their pairs of patients (positives x negatives).

    A site without DeLong's variance, whose AUC is 1, say, has that of so many patients at the mean AUC.
    """
    weights = np.array([auc.positives * auc.negatives for auc in aucs], dtype=np.float64)
    if weights.sum() == 0:
        return NotEstimable("no site has an AUC of this class")
    weights /= weights.sum()
    value = float(weights @ [auc.value for auc in aucs])
    if not 0 < value < 1:
        return Estimate(value=value, variance=NO_VARIANCE)
    variances = [
        newcombe_variance(value, positives=auc.positives, negatives=auc.negatives)
        if isinstance(auc.variance, NotEstimable)
        else auc.variance
        for auc in aucs
    ]
    return Estimate(value=value, variance=float(weights**2 @ variances))


def with_half_a_patient(auc: Auc) -> tuple[float, float] | NotEstimable:
    """AUC and standard error for the logit scale; for an AUC of 0 or 1, which has none there, with a correction.

    Such a site counts as `effective` patients of whom all, or none, are in order, and a half is
    added to both kinds, as for a share (Haldane, Annals of Human Genetics 1956, 20:309).
    """
    se = auc.se
    if not isinstance(se, NotEstimable):
        return auc.value, se
    if 0 < auc.value < 1:
        return se
    hits, misses = auc.effective * auc.value + 0.5, auc.effective * (1 - auc.value) + 0.5
    value = hits / (hits + misses)
    return value, value * (1 - value) * float(np.sqrt(1 / hits + 1 / misses))


@dataclass(frozen=True)
class Summary:
    """A meta-analytic AUC, taken back from the logit scale."""

    value: float
    ci95: Interval


@dataclass(frozen=True)
class MetaAnalysis:
    """Summaries and the heterogeneity between sites.

    Args:
        fixed: inverse-variance, one true AUC everywhere.
        random: DerSimonian and Laird, Controlled Clinical Trials 1986, 7:177, with the normal's interval,
            which is too narrow for few sites.
        hartung_knapp: the same mean; its interval is that of Hartung, Knapp, Sidik and Jonkman (Statistics in
            Medicine 2003, 22:2693) on t with k - 1 degrees of freedom, never narrower than a variance
            without their factor would make it (Roever et al., BMC Medical Research Methodology 2015, 15:99).
        prediction: where the AUC of a further site lies (Higgins et al., JRSS A 2009, 172:137), on t with
            k - 1 degrees of freedom as metafor has it; from three sites on.
        tau2: variance between sites, on the logit scale.
        q, df, p: Cochran's heterogeneity statistic and its test.
        i2: share of the variation that is between sites, per cent.
    """

    fixed: Summary
    random: Summary
    hartung_knapp: Summary
    prediction: Interval | NotEstimable
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
    q, df = float(w @ (y - w @ y / w.sum()) ** 2), len(a) - 1
    # sum(w) - sum(w^2) / sum(w), without the difference that is 0 where one weight is all but all of it.
    others = np.array([np.delete(w, i).sum() for i in range(len(w))])
    tau2 = max(0.0, (q - df) / float(w @ (others / w.sum())))
    weights, z = 1 / (variance + tau2), float(stats.norm.ppf(0.5 + level / 2))
    mean, error = float(weights @ y / weights.sum()), float(1 / np.sqrt(weights.sum()))
    # Two or three sites that happen to agree would otherwise have an interval narrower than their own data allow.
    wide = error * float(np.sqrt(max(1.0, weights @ (y - mean) ** 2 / df)))
    return MetaAnalysis(
        fixed=_summary(float(w @ y / w.sum()), z / float(np.sqrt(w.sum()))),
        random=_summary(mean, z * error),
        hartung_knapp=_summary(mean, float(stats.t.ppf(0.5 + level / 2, df)) * wide),
        prediction=NotEstimable("a prediction needs three sites")
        if df < 2
        else _summary(
            mean, float(stats.t.ppf(0.5 + level / 2, df)) * float(np.hypot(wide, np.sqrt(tau2)))
        ).ci95,
        tau2=tau2,
        q=q,
        df=df,
        p=float(stats.chi2.sf(q, df)),
        i2=max(0.0, 100 * (q - df) / q) if q > 0 else 0.0,
    )


def _summary(mean: float, half: float) -> Summary:
    value, low, high = (float(x) for x in special.expit([mean, mean - half, mean + half]))
    return Summary(value=value, ci95=(low, high))
