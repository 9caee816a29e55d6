"""`evaluation.json`: one model on every site's held-out patients, from the sites' reports alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from stic_core import statistics
from stic_core.errors import SiteReportError
from stic_core.evaluation.comparison import PairedReport, pool_pairs
from stic_core.evaluation.pooling import Json, Reports, as_json, auc_json, macro_json, pool, site_block
from stic_core.evaluation.site import Accuracy, HeldOutReport, ValidationReport
from stic_core.statistics import Auc, Estimate, NotEstimable

SCHEMA = 1


def evaluation_document(
    *,
    model_digest: str,
    task: str,
    classes: tuple[str, ...],
    phantom: bool,
    federated: Mapping[str, HeldOutReport],
    local_only: Mapping[str, Mapping[str, HeldOutReport]],
    extra: Mapping[str, Mapping[str, HeldOutReport]] | None = None,
    paired: Mapping[str, Mapping[str, PairedReport]] | None = None,
) -> dict[str, Json]:
    """Build the document.

    Args:
        model_digest: of the federated model.
        task: name of what is told apart.
        classes: of the task, in its order.
        phantom: a site's data are phantoms.
        federated: the federated model's report, by site.
        local_only: for each site that trained a model of its own, that model's report by site.
        extra: further models' reports, such as `ensemble` and `centralised`, each a block of its own.
        paired: the federated model compared with each other one on the same patients, by site.

    Raises:
        SiteReportError: a site's classes or bins are not the others'.
    """
    extra, paired = extra or {}, paired or {}
    for reports in (federated, *local_only.values(), *extra.values(), *paired.values()):
        for site, report in sorted(reports.items()):
            if report.classes != classes:
                raise SiteReportError(
                    "other classes than the task's", site=site, got=report.classes, expected=classes
                )
    return {
        "schema": SCHEMA,
        "model_digest": model_digest,
        "task": task,
        "classes": list(classes),
        "phantom": phantom,
        **model_block(federated),
        "stratified_auc": stratified_block(federated, classes=classes),
        "between_sites": between_sites(federated, classes=classes),
        "local_only": {owner: model_block(reports) for owner, reports in sorted(local_only.items())},
        **{name: model_block(reports) for name, reports in sorted(extra.items())},
        "comparison": {name: comparison_block(reports) for name, reports in paired.items() if reports},
    }


def comparison_block(reports: Mapping[str, PairedReport]) -> dict[str, Json]:
    """Two models on the same patients: each site's, and all together."""
    return {
        "sites": {site: pool_pairs({site: report}) for site, report in sorted(reports.items())},
        "pooled": pool_pairs(reports),
    }


def model_block(reports: Reports) -> dict[str, Json]:
    """`sites` and `pooled` of one model."""
    return {
        "sites": {site: site_block(report) for site, report in sorted(reports.items())},
        "pooled": pool(reports),
    }


def stratified_block(reports: Reports, *, classes: Sequence[str]) -> dict[str, Json]:
    """AUCs that compare patients within sites only, so that a shift between sites costs nothing."""
    own = {name: _released(reports, name) for name in classes}
    combined: dict[str, Estimate | NotEstimable] = {
        name: statistics.stratified(list(aucs.values())) for name, aucs in own.items()
    }
    return {
        "auc": {
            name: auc_json(value) | ({"sites": list(own[name])} if own[name] else {})
            for name, value in combined.items()
        },
        "auc_macro": macro_json(list(combined.values())),
    }


def between_sites(reports: Reports, *, classes: Sequence[str]) -> dict[str, Json]:
    """Do sites differ: meta-analysis of each class's AUC, and every pair of sites compared."""
    return {
        "auc": {name: _meta_json(_released(reports, name)) for name in classes},
        "pairs": [
            {
                "sites": [a, b],
                "accuracy": _accuracy_pair(reports[a], reports[b]),
                "auc": {name: _auc_pair(reports[a], reports[b], name) for name in classes},
            }
            for a, b in combinations(sorted(reports), 2)
        ],
    }


def score_edges(
    reports: Mapping[str, ValidationReport], *, classes: Sequence[str], bins: int = statistics.ROC_BINS
) -> dict[str, tuple[float, ...]]:
    """Edges of each class's score bins, from the sites' validation histograms.

    Made before the held-out evaluation and versioned with the model. Where no site can show
    where its scores lie, they are even over the usual scores.
    """
    edges = {}
    for name in classes:
        known = [h[name] for _, r in sorted(reports.items()) if isinstance(h := r.histograms, dict)]
        found = statistics.quantile_edges(known, bins=bins)
        edges[name] = statistics.even_edges(bins=bins) if isinstance(found, NotEstimable) else found
    return edges


def pooled_validation(reports: Mapping[str, ValidationReport]) -> dict[str, float | int] | None:
    """Loss and accuracy over all sites' validation patients; None where no site releases them."""
    known = [
        (r.n, r.loss_sum, r.correct)
        for _, r in sorted(reports.items())
        if isinstance(r.loss_sum, float) and isinstance(r.correct, int) and r.n
    ]
    n = sum(row[0] for row in known)
    if n == 0:
        return None
    return {"loss": sum(row[1] for row in known) / n, "accuracy": sum(row[2] for row in known) / n, "n": n}


def _released(reports: Reports, name: str) -> dict[str, Auc]:
    return {site: auc for site, r in sorted(reports.items()) if isinstance(auc := r.auc[name], Auc)}


def _meta_json(aucs: Mapping[str, Auc]) -> Json:
    usable = {site: (auc.value, se) for site, auc in aucs.items() if isinstance(se := auc.se, float)}
    found = statistics.meta_analysis(
        [value for value, _ in usable.values()], standard_errors=[se for _, se in usable.values()]
    )
    block = as_json(found)
    return block if isinstance(found, NotEstimable) else {"sites": list(usable)} | block


def _accuracy_pair(first: HeldOutReport, second: HeldOutReport) -> Json:
    a, b = first.accuracy, second.accuracy
    if not isinstance(a, Accuracy):
        return as_json(a)
    if not isinstance(b, Accuracy):
        return as_json(b)
    return as_json(statistics.independent_proportions((a.correct, a.total), (b.correct, b.total)))


def _auc_pair(first: HeldOutReport, second: HeldOutReport, name: str) -> Json:
    a, b = first.auc[name], second.auc[name]
    if not isinstance(a, Auc):
        return as_json(a)
    if not isinstance(b, Auc):
        return as_json(b)
    return as_json(statistics.unpaired_test(a, b))
