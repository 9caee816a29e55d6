"""A run's evaluation, put together from the sites' reports alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from stic_core import statistics
from stic_core.errors import SiteReportError
from stic_core.evaluation.comparison import PairedReport, pool_pairs
from stic_core.evaluation.document import (
    BetweenSites,
    Comparison,
    Evaluation,
    ModelFigures,
    SitePair,
    SitesMeta,
    StratifiedFigures,
)
from stic_core.evaluation.figures import AucFigure
from stic_core.evaluation.held_out_counts import HeldOutCounts, summed_figures
from stic_core.evaluation.pooling import Reports, macro_figure, of_two, pool, site_figures
from stic_core.evaluation.reports import Accuracy, HeldOutReport, ValidationReport
from stic_core.statistics import Absent, Auc, AucTest, Estimate, IndependentProportions, NotEstimable


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
) -> Evaluation:
    """Build the document.

    Args:
        model_digest: of the federated model.
        task: name of what is told apart.
        classes: of the task, in its order.
        phantom: a site's data are phantoms.
        federated: the federated model's report, by site.
        local_only: for each site that trained a model of its own, that model's report by site.
        extra: reports of the `ensemble` and of the `centralised` model, where there is one, by site.
        paired: the federated model compared with each other one on the same patients, by site.

    Raises:
        SiteReportError: a site's classes or bins are not the others'.
    """
    extra, paired = extra or {}, paired or {}
    for reports in (federated, *local_only.values(), *extra.values(), *paired.values()):
        for site, report in sorted(reports.items()):
            if report.classes != classes:
                raise SiteReportError(
                    "its classes differ from the task's", site=site, got=report.classes, expected=classes
                )
    if unknown := set(extra) - {"centralised", "ensemble"}:
        raise ValueError(f"further models: got {sorted(unknown)}, expected centralised or ensemble")
    own = model_figures(federated)
    joint = {name: model_figures(reports) for name, reports in extra.items()}
    return Evaluation(
        schema=1,
        model_digest=model_digest,
        task=task,
        classes=classes,
        phantom=phantom,
        sites=own.sites,
        pooled=own.pooled,
        stratified_auc=stratified_figures(federated, classes=classes),
        between_sites=between_sites(federated, classes=classes),
        local_only={owner: model_figures(reports) for owner, reports in sorted(local_only.items())},
        centralised=joint.get("centralised"),
        ensemble=joint.get("ensemble"),
        comparison={name: comparison_figures(reports) for name, reports in paired.items() if reports},
    )


def pooled_document(
    counts: HeldOutCounts,
    *,
    model_digest: str,
    task: str,
    classes: tuple[str, ...],
    phantom: bool,
    sites: Sequence[str],
    patients: int,
) -> Evaluation:
    """Build the document of a pooled evaluation: the sum over hospitals, and nothing of one.

    Args:
        counts: over all of them.
        sites: that are in the sum.
        patients: held out, that they announced.

    Raises:
        FederationError: counts that cannot be true.
    """
    absent = NotEstimable("a pooled evaluation has no hospital's own figures")
    return Evaluation(
        schema=1,
        model_digest=model_digest,
        task=task,
        classes=classes,
        phantom=phantom,
        sites={},
        pooled=summed_figures(counts, classes=classes, patients=patients),
        stratified_auc=StratifiedFigures(auc=dict.fromkeys(classes, absent), auc_macro=absent),
        between_sites=BetweenSites(auc=dict.fromkeys(classes, absent), pairs=()),
        local_only={},
        pooled_over=tuple(sites),
    )


def comparison_figures(reports: Mapping[str, PairedReport]) -> Comparison:
    """Two models on the same patients: each site's, and all together."""
    return Comparison(
        sites={site: pool_pairs({site: report}) for site, report in sorted(reports.items())},
        pooled=pool_pairs(reports),
    )


def model_figures(reports: Reports) -> ModelFigures:
    """Each site's figures of one model, and those of all patients together."""
    return ModelFigures(
        sites={site: site_figures(report) for site, report in sorted(reports.items())},
        pooled=pool(reports),
    )


def stratified_figures(reports: Reports, *, classes: Sequence[str]) -> StratifiedFigures:
    """AUCs that compare patients within sites only, so that a shift between sites costs nothing."""
    own = _released_of_each(reports, classes=classes)
    combined: dict[str, Estimate | NotEstimable] = {
        name: statistics.stratified(list(aucs.values())) for name, aucs in own.items()
    }
    return StratifiedFigures(
        auc={name: _over(own[name], value) for name, value in combined.items()},
        auc_macro=macro_figure(list(combined.values())),
    )


def between_sites(reports: Reports, *, classes: Sequence[str]) -> BetweenSites:
    """Do sites differ: meta-analysis of each class's AUC, and every pair of sites compared."""
    return BetweenSites(
        auc={name: _meta(aucs) for name, aucs in _released_of_each(reports, classes=classes).items()},
        pairs=tuple(
            SitePair(
                sites=(a, b),
                accuracy=_accuracy_pair(reports[a], reports[b]),
                auc={
                    name: _auc_pair(of_two(reports[a].auc)[name], of_two(reports[b].auc)[name])
                    for name in classes
                },
            )
            for a, b in combinations(sorted(reports), 2)
        ),
    )


def pooled_validation(reports: Mapping[str, ValidationReport]) -> dict[str, float | int] | None:
    """Loss over all sites' validation patients, and accuracy over those whose sites say it.

    Returns:
        `loss` and `n`, and `accuracy` where a site says it; None where no site releases its loss.
    """
    losses = [(r.n, r.loss_sum) for _, r in sorted(reports.items()) if isinstance(r.loss_sum, float) and r.n]
    n = sum(of for of, _ in losses)
    if n == 0:
        return None
    found: dict[str, float | int] = {"loss": sum(loss for _, loss in losses) / n, "n": n}
    right = [(r.n, r.correct) for _, r in sorted(reports.items()) if isinstance(r.correct, int) and r.n]
    if right:
        found["accuracy"] = sum(correct for _, correct in right) / sum(of for of, _ in right)
    return found


def _released_of_each(reports: Reports, *, classes: Sequence[str]) -> dict[str, dict[str, Auc]]:
    """AUCs by class and site."""
    every = {site: of_two(report.auc) for site, report in sorted(reports.items())}
    return {
        name: {site: auc for site, aucs in every.items() if isinstance(auc := aucs[name], Auc)}
        for name in classes
    }


def _over(sites: Mapping[str, Auc], mean: Estimate | NotEstimable) -> AucFigure | NotEstimable:
    if isinstance(mean, NotEstimable):
        return mean
    return AucFigure(mean.value, mean.se, mean.wald(), mean.logit(), sites=tuple(sites))


def _meta(aucs: Mapping[str, Auc]) -> SitesMeta | NotEstimable:
    found = {site: statistics.with_half_a_patient(auc) for site, auc in aucs.items()}
    usable = {site: pair for site, pair in found.items() if isinstance(pair, tuple)}
    meta = statistics.meta_analysis(
        [value for value, _ in usable.values()], standard_errors=[se for _, se in usable.values()]
    )
    if isinstance(meta, NotEstimable):
        return meta
    return SitesMeta(
        sites=tuple(usable),
        corrected=tuple(site for site in usable if aucs[site].value in {0, 1}),
        left_out={site: why.reason for site, why in found.items() if isinstance(why, NotEstimable)},
        **vars(meta),
    )


def _accuracy_pair(first: HeldOutReport, second: HeldOutReport) -> IndependentProportions | Absent:
    a, b = first.accuracy, second.accuracy
    if not isinstance(a, Accuracy):
        return a
    if not isinstance(b, Accuracy):
        return b
    return statistics.independent_proportions((a.correct, a.total), (b.correct, b.total))


def _auc_pair(a: Auc | Absent, b: Auc | Absent) -> AucTest | Absent:
    if not isinstance(a, Auc):
        return a
    if not isinstance(b, Auc):
        return b
    return statistics.unpaired_test(a, b)
