"""What the report shows of the held-out evaluation of the federated model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stic_core.evaluation import Evaluation, auc_titles, held_out_table, listed, overall_auc
from stic_core.evaluation.document import Calibration, Figures
from stic_core.evaluation.figures import AucFigure, Proportion
from stic_core.evaluation.readers.release import StudyFigures
from stic_core.evaluation.table import patients_behind
from stic_core.statistics import Absent, Interval, NotEstimable
from stic_server.report import plots
from stic_server.report.confusion import known_rates
from stic_server.report.cues import side_of_chance
from stic_server.report.wording import absent, capitalise, thousands, title_of


def held_out(
    evaluation: Evaluation,
    *,
    sites: Sequence[str],
    classes: Sequence[str],
    readers: Mapping[str, StudyFigures],
    evaluates: bool = False,
) -> dict[str, Any]:
    """All that the template shows of the evaluation, beside the document itself.

    Args:
        sites: of the record, for their colours.
        readers: reader studies by site, for their points on the ROC plots.
        evaluates: the run evaluated a model that was trained before.
    """
    sets = evaluation.models["federated"].sets
    heading, *rows = held_out_table(evaluation)
    macros = {name: figures.pooled.auc_macro for name, figures in evaluation.models.items()}
    titles = auc_titles(classes)
    several = len(macros) > 1
    where = "of each model on all held-out patients" if several else "at each hospital"
    caption = f"{'Together, or alone: ' if several else ''}{overall_auc(classes)} {where}"
    aucs = macros if several else {name: figures.auc_macro for name, figures in sets.items()}
    forest = _forest(
        aucs,
        what=overall_auc(classes),
        strong="federated" if several else "pooled",
        label=capitalise(caption),
    )
    return {
        "blocks": sets,
        "heading": heading,
        "groups": [
            ("The model" if evaluates and model == "federated" else title_of(model), rows)
            for model, rows in _groups(rows)
        ],
        "headline": evaluation.headline,
        "models": forest,
        "models_caption": capitalise(caption),
        "bounds": [
            (name, *found) for name in titles if (found := _bounds(evaluation.pooled, name)) is not None
        ],
        "roc": [
            (
                name,
                _roc_figure(sets, name=name, colours=sites, readers=readers),
                [(where, figures.auc[name]) for where, figures in sets.items()],
            )
            for name in titles
        ],
        "reliability": [(name, _reliability_figure(sets, name=name, colours=sites)) for name in titles],
        "rates": lambda figures: known_rates(figures, classes=classes),
        "meta": {
            name: found
            for name, found in evaluation.between_sites.auc.items()
            if name in titles and not isinstance(found, NotEstimable)
        },
        "corrected": sorted(
            {
                site
                for name, found in evaluation.between_sites.auc.items()
                if name in titles and not isinstance(found, NotEstimable)
                for site in found.corrected
            }
        ),
        "sparse": any(
            isinstance(auc, AucFigure) and auc.ci95_newcombe is not None
            for model in evaluation.models.values()
            for figures in model.sets.values()
            for auc in (*figures.auc.values(), figures.auc_macro)
        ),
        "reasons": _reasons(sets),
    }


def verdict(evaluation: Evaluation, *, evaluates: bool = False) -> str:
    """One sentence: what the model reaches on held-out patients, and what a hospital alone does.

    Args:
        evaluates: the run evaluated a model that was trained before.
    """
    model, name = ("the model" if evaluates else "the federated model"), overall_auc(evaluation.classes)
    pooled = evaluation.pooled
    auc, scope = evaluation.headline
    if isinstance(auc, Absent):
        return f"Whether {model} tells these patients apart cannot be said: the {name} is {absent(auc)}."
    # Those that the AUC is over: a site that releases no scores is not among them.
    counted = (
        max((patients_behind(one) or 0 for one in pooled.auc.values()), default=0)
        if scope == "pooled"
        else sum(evaluation.sites[site].n for site in _compared_within(evaluation))
    )
    article = "an" if name == "AUC" else "a"
    unseen = "" if evaluates else "whom it had never seen, "
    found = (
        f"On {thousands(counted)} held-out patients, {unseen}{model} reaches {article} {name} of "
        f"{auc.value:.3f}"
    )
    if not isinstance(auc.interval, NotEstimable):
        low, high = auc.interval
        found += f" (95 % interval {low:.3f} to {high:.3f})"
    if scope != "pooled":
        found += ", each compared with patients of the same hospital"
    side = side_of_chance(auc)
    if side <= 0:
        found += ", which is " + (
            "worse than chance" if side < 0 else "no better than chance as far as these patients show"
        )
    if scope != "pooled":  # the hospitals' own models have no such figure
        return f"{found}."
    own = {owner: figures.pooled.auc_macro for owner, figures in evaluation.local_only.items()}
    values = {owner: auc.value for owner, auc in own.items() if isinstance(auc, AucFigure)}
    if not values:
        return f"{found}."
    told = (
        listed([f"{value:.3f} ({owner})" for owner, value in values.items()])
        if len(values) <= 3
        else f"{min(values.values()):.3f} to {max(values.values()):.3f}"
    )
    return f"{found}; a model trained at one hospital alone reaches {told} on the same patients."


def _compared_within(evaluation: Evaluation) -> list[str]:
    """Hospitals whose own AUCs the stratified one is made of, in every class."""
    found = [
        set(auc.sites or ()) for auc in evaluation.stratified_auc.auc.values() if isinstance(auc, AucFigure)
    ]
    return sorted(set.intersection(*found)) if found else []


def _bounds(pooled: Figures, name: str) -> tuple[Interval, bool] | None:
    """Where the AUC of a class lies for certain, and whether it is estimated as well."""
    auc = pooled.auc[name]
    shown = auc.bounds if isinstance(auc, AucFigure) else None
    bounds = (pooled.auc_bounds or {}).get(name, shown)
    return None if bounds is None else (bounds, isinstance(auc, AucFigure))


def _groups(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Rows of the held-out table by model."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for model, *cells in rows:
        groups.setdefault(model, []).append(tuple(cells))
    return list(groups.items())


def _forest(aucs: Mapping[str, AucFigure | Absent], *, what: str, strong: str, label: str) -> str | None:
    """AUCs with their intervals, by model or by hospital; no figure where there is nothing to compare."""
    if isinstance(aucs[strong], Absent) or len(aucs) < 2:
        return None
    rows = []
    for name, auc in aucs.items():
        if isinstance(auc, AucFigure):
            low, high = (None, None) if isinstance(auc.interval, NotEstimable) else auc.interval
            rows.append(
                {"name": name, "value": auc.value, "low": low, "high": high, "strong": name == strong}
            )
    return plots.models(rows, what=what, label=label)


def _roc_figure(
    sets: Mapping[str, Figures],
    *,
    name: str,
    colours: Sequence[str],
    readers: Mapping[str, StudyFigures],
) -> str | None:
    order = [site for site in (*colours, "pooled") if site in sets]
    curves = {where: points for where in order if isinstance(points := sets[where].roc[name], tuple)}
    if not curves:
        return None
    return plots.roc(
        curves,
        sites=colours,
        label=f"ROC curve of {name} against the others",
        readers={site: reader_points(study, name) for site, study in readers.items()},
    )


def reader_points(study: StudyFigures, name: str) -> dict[str, dict[str, tuple[float, float]]]:
    """By reader and condition (1 - specificity, sensitivity), where the site released both."""
    return {
        reader: {
            condition: (1 - specificity.value, sensitivity.value)
            for condition, found in by.items()
            if isinstance(specificity := found.specificity[name], Proportion)
            and isinstance(sensitivity := found.sensitivity[name], Proportion)
        }
        for reader, by in study.readers.items()
    }


def _reliability_figure(sets: Mapping[str, Figures], *, name: str, colours: Sequence[str]) -> str | None:
    curves = {
        where: found.classes[name].bins
        for where, figures in sets.items()
        if isinstance(found := figures.calibration, Calibration)
    }
    if not curves:
        return None
    return plots.reliability(curves, sites=colours, label=f"Reliability of {name}")


def _reasons(sets: Mapping[str, Figures]) -> list[str]:
    """Why figures of the federated model are absent: each reason once, with where it applies."""
    found: dict[str, list[str]] = {}
    for where, figures in sets.items():
        kinds = {
            "accuracy": figures.accuracy,
            **{title: figures.auc[name] for name, title in auc_titles(list(figures.auc)).items()},
            overall_auc(list(figures.auc)): figures.auc_macro,
        }
        for what, value in kinds.items():
            if (behind := patients_behind(value)) not in {None, figures.n}:
                found.setdefault(
                    f"{where}: of {behind} of {figures.n} patients, whose hospitals release it", []
                ).append(what)
            if reason := absent(value):
                found.setdefault(f"{where}: {reason}", []).append(what)
            elif isinstance(value, AucFigure) and (reason := absent(value.interval)):
                found.setdefault(f"{where}: interval {reason}", []).append(what)
    return [f"{where} ({', '.join(what)})" for where, what in found.items()]
