"""What the report shows of the held-out evaluation of the federated model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from stic_core.evaluation import held_out_table, models_of
from stic_server.report import plots
from stic_server.report.wording import absent, interval, title_of

Json: TypeAlias = Any


def held_out(
    evaluation: Json, *, sites: Sequence[str], classes: Sequence[str], readers: Mapping[str, Json]
) -> Json:
    """All that the template shows of the evaluation, beside the document itself.

    Args:
        sites: of the record, for their colours.
        readers: reader studies by site, for their points on the ROC plots.
    """
    blocks = {**evaluation["sites"], "pooled": evaluation["pooled"]}
    known = [site for site in sites if site in evaluation["sites"]]
    heading, *rows = held_out_table(evaluation)
    pooled = evaluation["pooled"]["auc_macro"]
    macros = {name: block["pooled"]["auc_macro"] for name, block in models_of(evaluation).items()}
    return {
        "blocks": blocks,
        "heading": heading,
        "groups": [(title_of(model), rows) for model, rows in _groups(rows)],
        "macro": pooled,
        # Those that the pooled AUC is over: a site that releases no scores is not among them.
        "counted": max(
            (
                auc["positives"] + auc["negatives"]
                for auc in evaluation["pooled"]["auc"].values()
                if "value" in auc
            ),
            default=0,
        ),
        "alone": {
            name.removesuffix(" alone"): auc
            for name, auc in macros.items()
            if name.endswith(" alone") and "value" in auc
        },
        "models": _models_figure(macros),
        "roc": [
            (
                name,
                _roc_figure(blocks, name=name, sites=known, colours=sites, readers=readers),
                [(site, block["auc"][name]) for site, block in blocks.items()],
            )
            for name in classes
        ],
        "reliability": [(name, _reliability_figure(blocks, name=name, colours=sites)) for name in classes],
        "meta": {
            name: found for name, found in evaluation["between_sites"]["auc"].items() if "random" in found
        },
        "reasons": _reasons(evaluation),
    }


def _groups(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Rows of the held-out table by model."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for model, *cells in rows:
        groups.setdefault(model, []).append(tuple(cells))
    return list(groups.items())


def _models_figure(macros: Mapping[str, Json]) -> str | None:
    """Macro AUC of every model, pooled; no figure where there is nothing to compare."""
    if "value" not in macros["federated"] or len(macros) < 2:
        return None
    rows = []
    for name, auc in macros.items():
        if "value" in auc:
            low, high = interval(auc["ci95_logit"]) or (None, None)
            strong = name == "federated"
            rows.append({"name": name, "value": auc["value"], "low": low, "high": high, "strong": strong})
    return plots.models(rows, label="Macro AUC of each model on all held-out patients")


def _roc_figure(
    blocks: Mapping[str, Json],
    *,
    name: str,
    sites: Sequence[str],
    colours: Sequence[str],
    readers: Mapping[str, Json],
) -> str | None:
    curves = {
        site: points for site in (*sites, "pooled") if isinstance(points := blocks[site]["roc"][name], list)
    }
    if not curves:
        return None
    return plots.roc(
        curves,
        sites=colours,
        label=f"ROC curve of {name} against the rest",
        readers={site: reader_points(study, name) for site, study in readers.items()},
    )


def reader_points(study: Json, name: str) -> list[dict[str, tuple[float, float]]]:
    """Each reader's (1 - specificity, sensitivity) by condition, where the site released both."""
    return [
        {
            condition: (1 - found["specificity"][name]["value"], found["sensitivity"][name]["value"])
            for condition, found in by.items()
            if "value" in found["specificity"][name] and "value" in found["sensitivity"][name]
        }
        for by in study["readers"].values()
    ]


def _reliability_figure(blocks: Mapping[str, Json], *, name: str, colours: Sequence[str]) -> str | None:
    curves = {
        site: block["calibration"]["classes"][name]["bins"]
        for site, block in blocks.items()
        if "classes" in block["calibration"]
    }
    if not curves:
        return None
    return plots.reliability(curves, sites=colours, label=f"Reliability of {name}")


def _reasons(evaluation: Json) -> list[str]:
    """Why figures of the federated model are absent: each reason once, with where it applies."""
    found: dict[str, list[str]] = {}
    for site, block in {**evaluation["sites"], "pooled": evaluation["pooled"]}.items():
        kinds = {
            "accuracy": block["accuracy"],
            **{f"AUC {name}": auc for name, auc in block["auc"].items()},
            "macro AUC": block["auc_macro"],
        }
        for what, value in kinds.items():
            reason = absent(value)
            if reason:
                found.setdefault(f"{site}: {reason}", []).append(what)
            elif isinstance(value, Mapping) and (reason := absent(value.get("ci95_logit"))):
                found.setdefault(f"{site}: interval {reason}", []).append(what)
    return [f"{where} ({', '.join(what)})" for where, what in found.items()]
