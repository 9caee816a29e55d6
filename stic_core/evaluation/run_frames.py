"""Rows of a run's DataFrames: each figure of `evaluation.json` and `rounds.jsonl` once, or why it is not there.

A figure that a hospital suppressed, or that the data cannot give, is NaN (a count `<NA>`) with the
reason beside it; it is never 0 and its row is never missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd

from stic_core.evaluation.table import models_of

Json: TypeAlias = Any
"""What `json.loads` gives."""

Row: TypeAlias = dict[str, Any]
"""A row of a frame, by column; what it does not name is not there."""

POOLED = "pooled"
"""Stands in the column `held_out_set` or `site` for all sites together."""

UNANSWERED = {"not_estimable": "the site did not answer for this model"}

HELD_OUT = (
    *("model", "held_out_set", "n", "figure", "class", "value", "lower", "upper", "interval"),
    *("standard_error", "reason"),
)
COMPARISON = (
    *("other_model", "held_out_set", "n", "figure", "class", "difference", "lower", "upper"),
    *("only_federated_right", "only_other_right", "test", "p", "reason"),
)
CALIBRATION = ("model", "held_out_set", "n", "figure", "class", "value", "standard_error", "reason")
ROC = ("model", "held_out_set", "class", "false_positive_rate", "true_positive_rate", "reason")
ROUNDS = (
    *("round", "site", "took_part", "train_loss", "validation_loss", "validation_accuracy"),
    *("validation_n", "update_norm", "bytes_down", "bytes_up", "reason"),
)

TEXTS = ("model", "other_model", "held_out_set", "site", "figure", "class", "interval", "test", "reason")
COUNTS = ("n", "validation_n", "only_federated_right", "only_other_right", "bytes_down", "bytes_up")
KINDS = dict.fromkeys(TEXTS, "str") | dict.fromkeys(COUNTS, "Int64") | {"round": "int64", "took_part": "bool"}
"""Types of columns; those that are not named here hold float64. Int64 is pandas' type for whole
numbers that may be missing."""


def frame(rows: Iterable[Row], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame; a number that a row does not name is NaN, a text that it does not name is empty."""
    blank = {name: "" if name in TEXTS else None for name in columns}
    found = pd.DataFrame([blank | row for row in rows], columns=list(columns))
    return found.astype({name: KINDS.get(name, "float64") for name in columns})


def _why(value: Json) -> str:
    """The reason of a figure that is not there; empty where it is."""
    if not isinstance(value, Mapping):
        return ""
    if "suppressed" in value:
        return f"suppressed: {value['suppressed']}"
    return f"not estimable: {value['not_estimable']}" if "not_estimable" in value else ""


def _blocks(document: Json, sites: Sequence[str]) -> list[tuple[str, Json]]:
    """Held-out sets, the pooled one last; None where a site that took part has no answer in here."""
    every = sorted({*sites, *document["sites"]})
    return [*((site, document["sites"].get(site)) for site in every), (POOLED, document["pooled"])]


def held_out_rows(evaluation: Json, *, sites: Sequence[str]) -> Iterator[Row]:
    """Every model's figures on each held-out set; see `Run.held_out`."""
    classes = evaluation["classes"]
    for model, document in models_of(evaluation).items():
        for where, block in _blocks(document, sites):
            for figure, name, value in _figures(block, classes=classes):
                row: Row = {
                    "model": model,
                    "held_out_set": where,
                    "figure": figure,
                    "class": name,
                }
                if block is None:
                    yield row | {"reason": _why(UNANSWERED)}
                    continue
                kind = "logit" if figure.startswith("auc") else "clopper-pearson"
                yield row | {"n": block["n"]} | _with_interval(value, kind=kind)


def _figures(block: Json, *, classes: Sequence[str]) -> Iterator[tuple[str, str, Json]]:
    """Name, class and value of each figure of a block; the names alone where there is no block."""
    for figure in ("accuracy", "auc_macro", "auc_micro", "auc_macro_interpolated"):
        yield figure, "", block and block[figure]
    for figure in ("auc", "sensitivity", "specificity"):
        for name in classes:
            yield figure, name, block and block[figure][name]


def _with_interval(value: Json, *, kind: str) -> Row:
    """Value, both ends of its interval, standard error, and the reason of whichever is not there."""
    if not isinstance(value, Mapping):
        return {"value": value}  # a number that has no interval
    ends = value.get("ci95_logit" if kind == "logit" else "ci95")
    se = value.get("se")
    known = isinstance(ends, list)
    return {
        "value": value.get("value"),
        "lower": ends[0] if known else None,
        "upper": ends[1] if known else None,
        "interval": kind if known else "",
        "standard_error": se if isinstance(se, int | float) else None,
        "reason": _why(value) or _why(ends),
    }


def comparison_rows(evaluation: Json, *, sites: Sequence[str]) -> Iterator[Row]:
    """The federated model against each other one; see `Run.comparison`."""
    names = {owner: f"{owner} alone" for owner in evaluation["local_only"]}  # as `models_of` has them
    for other, document in evaluation.get("comparison", {}).items():
        for where, block in _blocks(document, sites):
            figures = [
                ("accuracy", "", "mcnemar"),
                *(("auc", name, "delong") for name in evaluation["classes"]),
            ]
            for figure, name, test in figures:
                row: Row = {"other_model": names.get(other, other), "held_out_set": where}
                row |= {"figure": figure, "class": name, "test": test}
                if block is None:
                    yield row | {"reason": _why(UNANSWERED)}
                    continue
                found = block["auc"][name] if name else block["accuracy"]
                lower, upper = found.get("ci95") or (None, None)
                yield row | {
                    "n": block["n"] or None,  # patients of sites that release it; 0 is nobody's
                    "difference": found.get("difference"),
                    "lower": lower,
                    "upper": upper,
                    "only_federated_right": found.get("b"),
                    "only_other_right": found.get("c"),
                    "p": found.get("p"),
                    "reason": _why(found),
                }


def calibration_rows(evaluation: Json, *, sites: Sequence[str]) -> Iterator[Row]:
    """Scores and recalibration of every model; see `Run.calibration`."""
    for model, document in models_of(evaluation).items():
        for where, block in _blocks(document, sites):
            found: Json = UNANSWERED if block is None else block["calibration"]
            n = found.get("n", block and block["n"])
            row: Row = {"model": model, "held_out_set": where, "n": n}
            for figure in ("brier", "log_loss", "ece"):
                yield row | {"figure": figure} | _number(found.get(figure), of=found)
            for name in evaluation["classes"]:
                own = found.get("classes", {}).get(name, {})
                fit = own.get("recalibration", {})
                yield row | {"figure": "ece", "class": name} | _number(own.get("ece"), of=found)
                for figure in ("slope", "intercept"):
                    said = {"figure": figure, "class": name, "standard_error": fit.get(f"{figure}_se")}
                    yield row | said | _number(fit.get(figure, fit), of=found)


def _number(value: Json, *, of: Json) -> Row:
    """A number, or why it is not there: by itself, or with all that it is part of."""
    reason = _why(of) or _why(value)
    return {"value": None if reason else value, "reason": reason}


def roc_rows(evaluation: Json, *, sites: Sequence[str]) -> Iterator[Row]:
    """Points of every curve; see `Run.roc`."""
    for model, document in models_of(evaluation).items():
        for where, block in _blocks(document, sites):
            for name in evaluation["classes"]:
                row: Row = {"model": model, "held_out_set": where, "class": name}
                points = block and block["roc"][name]
                if not isinstance(points, list):
                    yield row | {"reason": _why(UNANSWERED if block is None else points)}
                    continue
                for x, y in points:
                    yield row | {"false_positive_rate": x, "true_positive_rate": y}


def round_rows(lines: Sequence[Json], *, sites: Sequence[str]) -> Iterator[Row]:
    """Each round by site; see `Run.rounds`."""
    for line in lines:
        traffic = line.get("bytes_by_site", {})
        for site in (*sites, POOLED):
            pooled = site == POOLED
            scores, loss = line.get("val", {}).get(site), line.get("train_loss", {}).get(site)
            took_part = pooled or site in line["sites"]
            own = (
                {"down": line.get("bytes_down"), "up": line.get("bytes_up")}
                if pooled
                else traffic.get(site, {})
            )
            reason = "" if took_part else "the site did not take part in this round"
            if scores is None:
                reason = reason or "no validation scores"
                scores = {}
            yield {
                "round": line["round"],
                "site": site,
                "took_part": took_part,
                "train_loss": loss if isinstance(loss, int | float) else None,
                "validation_loss": scores.get("loss"),
                "validation_accuracy": scores.get("accuracy"),
                "validation_n": scores.get("n"),
                "update_norm": line.get("update_norm", {}).get(site),
                "bytes_down": own.get("down"),
                "bytes_up": own.get("up"),
                "reason": reason or _why(scores) or _why(loss),
            }
