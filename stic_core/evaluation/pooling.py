"""Figures of one site's report, and of several reports together, as `evaluation.json` shows them.

Only what sites released goes in. A site that kept something back is left out of that figure
and named in `left_out`, with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np

from stic_core import statistics
from stic_core.errors import SiteReportError
from stic_core.evaluation.site import Accuracy, CalibrationSums, HeldOutReport
from stic_core.statistics import (
    Absent,
    Auc,
    Estimate,
    Group,
    NotEstimable,
    PooledAuc,
    ScoreHistogram,
    Suppressed,
)

Json: TypeAlias = Any
"""What `json.dumps` takes, without NaN or infinity."""

Reports: TypeAlias = Mapping[str, HeldOutReport]
"""Reports of one model, by site."""

Confusion: TypeAlias = tuple[tuple[int | Suppressed, ...], ...]
"""Rows are true classes, columns predicted ones."""

HIDDEN_CELLS = {"suppressed": "made of confusion cells that are kept back"}

MACRO_NOTE = "standard error is an upper bound: the mean of the classes', whose covariance no site releases"
MICRO_NOTE = "standard error is an upper bound: as if the scores of one patient were one score"


def site_block(report: HeldOutReport) -> dict[str, Json]:
    """The figures of one site."""
    histograms = report.histograms
    return {
        "n": report.n,
        "class_counts": as_json(report.class_counts),
        "accuracy": accuracy_json(report.accuracy),
        "auc": {name: auc_json(auc) for name, auc in report.auc.items()},
        "auc_micro": auc_json(report.auc_micro),
        "auc_macro": auc_json(report.auc_macro),
        "auc_macro_interpolated": as_json(report.auc_macro_interpolated),
        **_confusion_json(
            report.confusion,
            counts=report.class_counts if isinstance(report.class_counts, dict) else None,
            classes=report.classes,
        ),
        "calibration": _calibration_json([report], classes=report.classes),
        "roc": {
            # A curve gives its area away, so it is shown where the AUC is.
            name: _roc_json([histograms[name]])
            if isinstance(histograms, dict) and isinstance(auc, Auc)
            else as_json(auc)
            for name, auc in report.auc.items()
        },
    }


def pool(reports: Reports) -> dict[str, Json]:
    """The figures of all sites' patients together.

    AUCs come from the summed histograms, pairs inside a site from the site's own AUC where
    it is released; `bounds` hold the AUC of the scores themselves for certain.

    Raises:
        SiteReportError: a site's classes or bins differ from the first site's.
    """
    if not reports:
        raise ValueError("pool: got no reports, expected one or more")
    order = [reports[site] for site in sorted(reports)]
    classes = _agreed(reports)
    accuracies = [r.accuracy for r in order if isinstance(r.accuracy, Accuracy)]
    counts = [r.class_counts for r in order if isinstance(r.class_counts, dict)]
    class_counts = {name: sum(c[name] for c in counts) for name in classes} if counts else None
    aucs: dict[str, PooledAuc | Absent] = {name: _pooled_class(order, name) for name in classes}
    return {
        "n": sum(report.n for report in order),
        "class_counts": class_counts or _why(reports, "class_counts"),
        "accuracy": accuracy_json(
            Accuracy(correct=sum(a.correct for a in accuracies), total=sum(a.total for a in accuracies))
        )
        if accuracies
        else _why(reports, "accuracy"),
        "auc": {name: auc_json(auc) for name, auc in aucs.items()},
        "auc_micro": _noted(auc_json(_pooled_micro(order)), MICRO_NOTE),
        "auc_macro": macro_json(list(aucs.values())),
        "auc_macro_interpolated": {"not_estimable": "needs the scores themselves"},
        **_confusion_json(_summed_confusion(order, k=len(classes)), counts=class_counts, classes=classes),
        "calibration": _calibration_json(order, classes=classes),
        "roc": {
            name: _roc_json([h[name] for r in order if isinstance(h := r.histograms, dict)])
            for name in classes
        },
        "left_out": {
            site: report.histograms.reason
            for site, report in sorted(reports.items())
            if not isinstance(report.histograms, dict)
        },
    }


def as_json(value: object) -> Json:
    """A value of the statistics as plain JSON; dataclasses become objects."""
    if isinstance(value, NotEstimable):
        return {"not_estimable": value.not_estimable}
    if isinstance(value, Suppressed):
        return {"suppressed": value.suppressed}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return as_json(asdict(value))  # pyright: ignore[reportArgumentType]
    return value


def auc_json(auc: Estimate | Absent) -> Json:
    """An AUC with its standard error and both intervals."""
    if not isinstance(auc, Estimate):
        return as_json(auc)
    block = {
        "value": auc.value,
        "se": as_json(auc.se),
        "ci95_wald": as_json(auc.wald()),
        "ci95_logit": as_json(auc.logit()),
    }
    if isinstance(auc, Auc):
        block |= {"positives": auc.positives, "negatives": auc.negatives}
    if isinstance(auc, PooledAuc):
        block["bounds"] = list(auc.bounds)
    return block


def macro_json(aucs: Sequence[Estimate | Absent]) -> Json:
    """Mean of classes' AUCs where their covariance is not known."""
    for auc in aucs:
        if not isinstance(auc, Estimate):
            return as_json(type(auc)("the AUC of a class is missing: " + auc.reason))
    known = [auc for auc in aucs if isinstance(auc, Estimate)]
    errors = [auc.se for auc in known]
    bad = next((se for se in errors if isinstance(se, NotEstimable)), None)
    # The standard deviation of a mean is at most the mean of the standard deviations.
    variance = bad if bad is not None else float(np.mean([se for se in errors if isinstance(se, float)])) ** 2
    block = auc_json(Estimate(value=float(np.mean([auc.value for auc in known])), variance=variance))
    bounds = [auc.bounds for auc in known if isinstance(auc, PooledAuc)]
    if len(bounds) == len(known):
        block["bounds"] = [float(x) for x in np.mean(bounds, axis=0)]
    return _noted(block, MACRO_NOTE)


def accuracy_json(accuracy: Accuracy | Absent) -> Json:
    """A proportion with its Clopper-Pearson interval."""
    if not isinstance(accuracy, Accuracy):
        return as_json(accuracy)
    if accuracy.total == 0:
        return {"not_estimable": "no patients"}
    return {
        "value": accuracy.correct / accuracy.total,
        "correct": accuracy.correct,
        "total": accuracy.total,
        "ci95": as_json(statistics.clopper_pearson(accuracy.correct, total=accuracy.total)),
    }


def _noted(block: dict[str, Json], note: str) -> dict[str, Json]:
    return block | {"note": note} if "value" in block else block


def _agreed(reports: Reports) -> tuple[str, ...]:
    first = reports[min(reports)]
    edges: dict[str, tuple[float, ...]] = {}
    for site, report in sorted(reports.items()):
        if report.classes != first.classes:
            raise SiteReportError(
                "other classes than the other sites", site=site, got=report.classes, expected=first.classes
            )
        if isinstance(report.histograms, dict):
            for name, histogram in report.histograms.items():
                if edges.setdefault(name, histogram.edges) != histogram.edges:
                    raise SiteReportError(f"other score bins than the other sites for {name}", site=site)
    return first.classes


def _why(reports: Reports, field: str) -> Json:
    """No site released it: the first site's reason, or that there is nobody at all."""
    values = [getattr(report, field) for report in reports.values()]
    kept = next((value for value in values if isinstance(value, Suppressed)), values[0])
    return as_json(kept)


def _pooled_class(order: Sequence[HeldOutReport], name: str) -> PooledAuc | Absent:
    return _pooled(
        order,
        of_site=lambda histograms: [histograms[name]],
        exact=lambda report: report.auc[name],
    )


def _pooled_micro(order: Sequence[HeldOutReport]) -> PooledAuc | Absent:
    auc = _pooled(order, of_site=lambda h: list(h.values()), exact=lambda report: report.auc_micro)
    if not isinstance(auc, PooledAuc):
        return auc
    # Each patient counts k times here, so DeLong's variance would be too small by about that.
    k = len(order[0].classes)
    wide = auc.variance if isinstance(auc.variance, NotEstimable) else auc.variance * k
    return PooledAuc(
        value=auc.value, variance=wide, positives=auc.positives, negatives=auc.negatives, bounds=auc.bounds
    )


def _pooled(
    order: Sequence[HeldOutReport],
    *,
    of_site: Callable[[dict[str, ScoreHistogram]], list[ScoreHistogram]],
    exact: Callable[[HeldOutReport], Estimate | Absent],
) -> PooledAuc | Absent:
    releasing = [(report, h) for report in order if isinstance(h := report.histograms, dict)]
    if not releasing:
        kept = next((r.histograms for r in order if isinstance(r.histograms, Suppressed)), None)
        return kept or NotEstimable("no held-out patients")
    own = [exact(report) for report, _ in releasing]
    return statistics.pooled_auc(
        [of_site(h) for _, h in releasing],
        exact=[auc.value if isinstance(auc, Estimate) else None for auc in own],
    )


def _summed_confusion(order: Sequence[HeldOutReport], *, k: int) -> Confusion | Absent:
    tables = [r.confusion for r in order if isinstance(r.confusion, tuple)]
    if not tables:
        kept = next((r.confusion for r in order if isinstance(r.confusion, Suppressed)), None)
        return kept or NotEstimable("no held-out patients")

    def cell(row: int, column: int) -> int | Suppressed:
        values = [table[row][column] for table in tables]
        numbers = [value for value in values if isinstance(value, int)]
        return sum(numbers) if len(numbers) == len(values) else Suppressed("kept back by a site")

    return tuple(tuple(cell(row, column) for column in range(k)) for row in range(k))


def _confusion_json(
    confusion: Confusion | Absent, *, counts: Mapping[str, int] | None, classes: Sequence[str]
) -> dict[str, Json]:
    """Confusion, and the sensitivity and specificity of each class whose cells are shown."""
    if not isinstance(confusion, tuple) or counts is None:
        gone = as_json(confusion)
        everywhere = dict.fromkeys(classes, gone)
        return {"confusion": gone, "sensitivity": everywhere, "specificity": everywhere}

    def sensitivity(k: int) -> Json:
        right = confusion[k][k]
        total = counts[classes[k]]
        return accuracy_json(Accuracy(correct=right, total=total)) if isinstance(right, int) else HIDDEN_CELLS

    def specificity(k: int) -> Json:
        others = [row[k] for i, row in enumerate(confusion) if i != k]
        wrong = [cell for cell in others if isinstance(cell, int)]
        total = sum(counts.values()) - counts[classes[k]]
        if len(wrong) < len(others):
            return HIDDEN_CELLS
        return accuracy_json(Accuracy(correct=total - sum(wrong), total=total))

    return {
        "confusion": as_json(confusion),
        "sensitivity": {name: sensitivity(k) for k, name in enumerate(classes)},
        "specificity": {name: specificity(k) for k, name in enumerate(classes)},
    }


def _calibration_json(order: Sequence[HeldOutReport], *, classes: Sequence[str]) -> Json:
    known = [(r, c) for r in order if isinstance(c := r.calibration, CalibrationSums)]
    if not known:
        kept = next((r.calibration for r in order if isinstance(r.calibration, Suppressed)), None)
        return as_json(kept or NotEstimable("no held-out patients"))
    n = sum(report.n for report, _ in known)

    def curve(groups: list[Group]) -> Json:
        return [
            {"n": g.n, "observed": g.hits / g.n, "predicted": g.predicted / g.n}
            for g in statistics.reliability(groups)
        ]

    def of_class(name: str) -> Json:
        groups = [group for _, sums in known for group in sums.classes[name]]
        fit = statistics.recalibration([h[name] for r, _ in known if isinstance(h := r.histograms, dict)])
        return {"ece": as_json(statistics.ece(groups)), "recalibration": as_json(fit), "bins": curve(groups)}

    confidence = [group for _, sums in known for group in sums.confidence]
    return {
        "n": n,
        "brier": sum(sums.brier_sum for _, sums in known) / n,
        "log_loss": sum(sums.log_loss_sum for _, sums in known) / n,
        "ece": as_json(statistics.ece(confidence)),
        "bins": curve(confidence),
        "classes": {name: of_class(name) for name in classes},
    }


def _roc_json(histograms: Sequence[ScoreHistogram]) -> Json:
    if not histograms:
        return {"suppressed": "no site releases scores"}
    points = statistics.pooled_roc(histograms)
    if isinstance(points, NotEstimable):
        return as_json(points)
    return [[round(float(x), 6), round(float(y), 6)] for x, y in zip(*points, strict=True)]
