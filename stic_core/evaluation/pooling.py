"""Figures of one site's report, and of several reports together, as `evaluation.json` shows them.

Only what sites released goes in. A site that kept something back is left out of that figure
and named in `left_out`, with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

import numpy as np

from stic_core import statistics
from stic_core.errors import SiteReportError
from stic_core.evaluation.document import (
    Calibration,
    ClassCalibration,
    Confusion,
    Curve,
    Figures,
    ReliabilityBin,
)
from stic_core.evaluation.figures import AucFigure, Proportion, auc_figure, proportion
from stic_core.evaluation.reports import Accuracy, CalibrationSums, HeldOutReport
from stic_core.privacy.release import NOBODY
from stic_core.statistics import (
    Absent,
    Auc,
    Estimate,
    NotEstimable,
    PooledAuc,
    PooledScores,
    Suppressed,
)

Reports: TypeAlias = Mapping[str, HeldOutReport]
"""Reports of one model, by site."""

AucT = TypeVar("AucT", bound=Auc)

Rates: TypeAlias = dict[str, Proportion | Absent]
"""A proportion by class."""

HIDDEN_CELLS = Suppressed("made of confusion cells that are withheld")

MACRO_NOTE = "standard error is an upper bound: the mean of the classes', whose covariance no site releases"
MICRO_NOTE = "standard error is an upper bound: as if the scores of one patient were one score"


def site_figures(report: HeldOutReport) -> Figures:
    """The figures of one site."""
    histograms = report.histograms
    sensitivity, specificity = _rates(
        report.confusion, report.false_positives, counts=report.class_counts, classes=report.classes
    )
    return Figures(
        n=report.n,
        class_counts=report.class_counts,
        accuracy=proportion(report.accuracy),
        auc={name: auc_figure(auc) for name, auc in of_two(report.auc).items()},
        auc_micro=auc_figure(report.auc_micro),
        auc_macro=macro_figure(list(report.auc.values()))
        if len(report.classes) == 2
        else auc_figure(report.auc_macro),
        auc_macro_interpolated=report.auc_macro_interpolated,
        confusion=report.confusion,
        sensitivity=sensitivity,
        specificity=specificity,
        calibration=_calibration([report], classes=report.classes),
        roc={
            # A curve gives its area away, so it is shown where the AUC is.
            name: auc
            if not isinstance(auc, Auc)
            else histograms
            if isinstance(histograms, Absent)
            else _curve(_scores([report], name))
            for name, auc in report.auc.items()
        },
    )


def pool(reports: Reports, *, summed: Mapping[str, PooledScores] | None = None) -> Figures:
    """The figures of all sites' patients together.

    AUCs come from the sites' histograms, pairs inside a site from the site's own AUC where it is
    released; `bounds` hold the AUC of the scores themselves for certain. Where the bins leave too
    much open, the bounds are all that is said.

    Args:
        summed: exact counts of all sites' scores by class, where a sum over sites was computed that tells none
            of them (`PooledScores.of_counts`); they take the place of the sites' bins.

    Raises:
        SiteReportError: a site's classes differ from the first site's.
    """
    if not reports:
        raise ValueError("pool: got no reports, expected one or more")
    order = [reports[site] for site in sorted(reports)]
    classes = _agreed(reports)
    accuracies = [r.accuracy for r in order if isinstance(r.accuracy, Accuracy)]
    counts = _summed_counts(order, classes=classes)
    scores = {name: (summed or {}).get(name) or _scores(order, name) for name in classes}
    aucs: dict[str, PooledAuc | Absent] = of_two({name: _shown(found) for name, found in scores.items()})
    confusion = _summed_confusion(order, k=len(classes))
    sensitivity, specificity = _pooled_rates(order, classes=classes)
    return Figures(
        n=sum(report.n for report in order),
        class_counts=counts,
        accuracy=proportion(
            Accuracy(correct=sum(a.correct for a in accuracies), total=sum(a.total for a in accuracies))
            if accuracies
            else _first([report.accuracy for report in order])
        ),
        auc={name: auc_figure(auc) for name, auc in aucs.items()},
        auc_micro=_pooled_micro(order),
        auc_macro=macro_figure(list(aucs.values())),
        auc_macro_interpolated=NotEstimable("needs the scores themselves"),
        confusion=confusion,
        sensitivity=sensitivity,
        specificity=specificity,
        calibration=_calibration(order, classes=classes, summed=summed),
        roc={name: _curve(found) for name, found in scores.items()},
        left_out={
            site: report.histograms.reason
            for site, report in sorted(reports.items())
            if not isinstance(report.histograms, dict)
        },
        auc_bounds={name: found.bounds for name, found in scores.items() if isinstance(found, PooledScores)},
    )


def of_two(aucs: Mapping[str, AucT | Absent]) -> dict[str, AucT | Absent]:
    """The AUC of one of two classes is that of the other: it is computed once and stands under both names.

    Computed twice, it would differ: histograms tell a score on the edge of a bin from one on the
    edge of its mirror image, and merged bins are spread from the other end.
    """
    if len(aucs) != 2:
        return dict(aucs)
    (first, auc), (second, other) = aucs.items()
    if isinstance(auc, Absent) or isinstance(other, Absent):  # each for its own reason
        return dict(aucs)
    return {first: auc, second: auc.of_the_others()}


def macro_figure(aucs: Sequence[Estimate | Absent]) -> AucFigure | Absent:
    """Mean of classes' AUCs where their covariance is not known; of two classes, the AUC that both have."""
    for auc in aucs:
        if not isinstance(auc, Estimate):
            return type(auc)("the AUC of a class is missing: " + auc.reason)
    known = [auc for auc in aucs if isinstance(auc, Estimate)]
    if len(known) == 2:
        figure = auc_figure(known[0])
        assert isinstance(figure, AucFigure)
        return replace(figure, positives=None, negatives=None)
    errors = [auc.se for auc in known]
    bad = next((se for se in errors if isinstance(se, NotEstimable)), None)
    # The standard deviation of a mean is at most the mean of the standard deviations.
    variance = bad if bad is not None else float(np.mean([se for se in errors if isinstance(se, float)])) ** 2
    bounds = [auc.bounds for auc in known if isinstance(auc, PooledAuc)]
    low_high = [float(x) for x in np.mean(bounds, axis=0)] if len(bounds) == len(known) else None
    return auc_figure(
        Estimate(value=float(np.mean([auc.value for auc in known])), variance=variance),
        note=MACRO_NOTE,
        bounds=None if low_high is None else (low_high[0], low_high[1]),
    )


def _agreed(reports: Reports) -> tuple[str, ...]:
    first = reports[min(reports)]
    for site, report in sorted(reports.items()):
        if report.classes != first.classes:
            raise SiteReportError(
                "its classes differ from the other sites'",
                site=site,
                got=report.classes,
                expected=first.classes,
            )
    return first.classes


def _scores(order: Sequence[HeldOutReport], name: str) -> PooledScores | Absent:
    """Scores of one class over the sites that release them."""
    releasing = [(report, h[name].histogram) for report in order if isinstance(h := report.histograms, dict)]
    if not releasing:
        return _first([report.histograms for report in order])
    return statistics.pool_scores(
        [[histogram] for _, histogram in releasing],
        exact=[_exact(report.auc[name]) for report, _ in releasing],
    )


def _exact(auc: Estimate | Absent) -> float | None:
    return auc.value if isinstance(auc, Estimate) else None


def _shown(scores: PooledScores | Absent) -> PooledAuc | Absent:
    return scores if isinstance(scores, Absent) else scores.too_open or scores.auc()


def _pooled_micro(order: Sequence[HeldOutReport]) -> AucFigure | Absent:
    releasing = [(report, h) for report in order if isinstance(h := report.histograms, dict)]
    if not releasing:
        return _first([report.histograms for report in order])
    auc = _shown(
        statistics.pool_scores(
            [[one.histogram for one in h.values()] for _, h in releasing],
            exact=[_exact(report.auc_micro) for report, _ in releasing],
        )
    )
    if isinstance(auc, Absent):
        return auc
    # Each patient counts k times here, so DeLong's variance would be too small by about that.
    k = len(order[0].classes)
    wide = auc.variance if isinstance(auc.variance, NotEstimable) else auc.variance * k
    return auc_figure(Estimate(value=auc.value, variance=wide), note=MICRO_NOTE, bounds=auc.bounds)


def _first(values: Sequence[object]) -> Absent:
    """Why no site released a figure: the first one's policy, or that there is nobody at all."""
    return next((value for value in values if isinstance(value, Suppressed)), NOBODY)


def _summed_counts(order: Sequence[HeldOutReport], *, classes: Sequence[str]) -> dict[str, int] | Absent:
    known = [r.class_counts for r in order if isinstance(r.class_counts, dict)]
    if not known:
        return _first([report.class_counts for report in order])
    return {name: sum(counts[name] for counts in known) for name in classes}


def _summed_confusion(order: Sequence[HeldOutReport], *, k: int) -> Confusion | Absent:
    tables = [r.confusion for r in order if isinstance(r.confusion, tuple)]
    if not tables:
        return _first([report.confusion for report in order])

    def cell(row: int, column: int) -> int | Suppressed:
        values = [table[row][column] for table in tables]
        numbers = [value for value in values if isinstance(value, int)]
        return sum(numbers) if len(numbers) == len(values) else Suppressed("withheld by a site")

    return tuple(tuple(cell(row, column) for column in range(k)) for row in range(k))


def _summed_wrong(
    order: Sequence[HeldOutReport], *, classes: Sequence[str]
) -> dict[str, int | Suppressed] | Absent:
    """False positives of each class over all sites that release any."""
    known = [wrong for r in order if isinstance(wrong := r.false_positives, dict)]
    if not known:
        return _first([report.false_positives for report in order])

    def of(name: str) -> int | Suppressed:
        numbers = [value for wrong in known if isinstance(value := wrong[name], int)]
        return sum(numbers) if len(numbers) == len(known) else Suppressed("withheld by a site")

    return {name: of(name) for name in classes}


def _pooled_rates(order: Sequence[HeldOutReport], *, classes: Sequence[str]) -> tuple[Rates, Rates]:
    """Over the sites that release class counts beside what is counted: a share of other patients is none."""
    kinds = [(r, (r.confusion, r.false_positives, r.class_counts)) for r in order]
    whole = [r for r, values in kinds if not any(isinstance(value, Absent) for value in values)]
    if not whole:
        why = _first([value for _, values in kinds for value in values])
        return dict.fromkeys(classes, why), dict.fromkeys(classes, why)
    return _rates(
        _summed_confusion(whole, k=len(classes)),
        _summed_wrong(whole, classes=classes),
        counts=_summed_counts(whole, classes=classes),
        classes=classes,
    )


def _rates(
    confusion: Confusion | Absent,
    wrong: dict[str, int | Suppressed] | Absent,
    *,
    counts: dict[str, int] | Absent,
    classes: Sequence[str],
) -> tuple[Rates, Rates]:
    """Sensitivity and specificity of each class whose cells are shown."""
    if not isinstance(confusion, tuple):
        return dict.fromkeys(classes, confusion), dict.fromkeys(classes, confusion)
    if not isinstance(counts, dict):
        return dict.fromkeys(classes, counts), dict.fromkeys(classes, counts)
    n = sum(counts.values())

    def sensitivity(k: int) -> Proportion | Absent:
        right = confusion[k][k]
        if not isinstance(right, int):
            return HIDDEN_CELLS
        return proportion(Accuracy(correct=right, total=counts[classes[k]]))

    def specificity(k: int) -> Proportion | Absent:
        found = wrong[classes[k]] if isinstance(wrong, dict) else wrong
        if not isinstance(found, int):
            return HIDDEN_CELLS
        total = n - counts[classes[k]]
        return proportion(Accuracy(correct=total - found, total=total))

    return (
        {name: sensitivity(k) for k, name in enumerate(classes)},
        {name: specificity(k) for k, name in enumerate(classes)},
    )


def _calibration(
    order: Sequence[HeldOutReport],
    *,
    classes: Sequence[str],
    summed: Mapping[str, PooledScores] | None = None,
) -> Calibration | Absent:
    known = [(r, c) for r in order if isinstance(c := r.calibration, CalibrationSums)]
    if not known:
        return _first([report.calibration for report in order])
    n = sum(report.n for report, _ in known)
    binned = [h for r, _ in known if isinstance(h := r.histograms, dict)]

    def of_class(name: str) -> ClassCalibration:
        found = (summed or {}).get(name) or _scores([report for report, _ in known], name)
        groups = _bins([group for bins in binned for group in bins[name].groups])
        if isinstance(found, Absent):
            why = NotEstimable("no site releases scores") if isinstance(found, Suppressed) else found
            return ClassCalibration(why, why, groups)
        return ClassCalibration(statistics.ece(found), statistics.recalibration(found), groups)

    by_class = {name: of_class(name) for name in classes}
    errors = [found.ece for found in by_class.values()]
    bad = next((error for error in errors if isinstance(error, NotEstimable)), None)
    return Calibration(
        n=n,
        brier=sum(sums.brier_sum for _, sums in known) / n,
        log_loss=sum(sums.log_loss_sum for _, sums in known) / n,
        ece=bad
        if bad is not None
        else sum(error for error in errors if isinstance(error, float)) / len(errors),
        classes=by_class,
    )


def _bins(groups: Sequence[statistics.Group]) -> tuple[ReliabilityBin, ...]:
    return tuple(
        ReliabilityBin(n=g.n, observed=g.hits / g.n, predicted=g.predicted / g.n)
        for g in statistics.reliability(groups)
    )


def _curve(scores: PooledScores | Absent) -> Curve | Absent:
    """No curve where its area is not shown."""
    if isinstance(scores, Absent):
        return scores
    if scores.too_open is not None:
        return scores.too_open
    return tuple((round(float(x), 6), round(float(y), 6)) for x, y in zip(*scores.roc(), strict=True))
