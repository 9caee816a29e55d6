"""Rows of a run's DataFrames: each figure of `evaluation.json` and `rounds.jsonl` once, or why it is not there.

A figure that a hospital suppressed, or that the data cannot give, is NaN (a count `<NA>`) with the
reason beside it; it is never 0 and its row is never missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeAlias, TypeVar

import pandas as pd

from stic_core.evaluation.document import Calibration, Evaluation, Figures, PairFigures
from stic_core.evaluation.figures import AucFigure, PairedAccuracy, Proportion
from stic_core.statistics import Absent, AucTest, Interval, NotEstimable, Suppressed

T = TypeVar("T")

Json: TypeAlias = Any
"""What `json.loads` gives."""

Row: TypeAlias = dict[str, Any]
"""A row of a frame, by column; what it does not name is not there."""

POOLED = "pooled"
"""Stands in the column `held_out_set` or `site` for all sites together."""

UNANSWERED = NotEstimable("the site did not answer for this model")
SUMMED = NotEstimable("its counts are in the pooled sum, and nobody's own are known")

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


_REASONS = {field.name: kind for kind in (Suppressed, NotEstimable) for field in fields(kind)}
"""By the key under which a line of `rounds.jsonl` says why a figure is not there."""


def frame(rows: Iterable[Row], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame; a number that a row does not name is NaN, a text that it does not name is empty."""
    blank = {name: "" if name in TEXTS else None for name in columns}
    found = pd.DataFrame([blank | row for row in rows], columns=list(columns))
    return found.astype({name: KINDS.get(name, "float64") for name in columns})


def _why(value: object) -> str:
    """The reason of a figure that is not there; empty where it is."""
    return f"{value.word}: {value.reason}" if isinstance(value, NotEstimable | Suppressed) else ""


def _sets(
    found: Mapping[str, T], pooled: T, *, sites: Sequence[str], evaluation: Evaluation
) -> list[tuple[str, T | NotEstimable]]:
    """Held-out sets, the pooled one last; a site that took part and has no figures says why."""
    every, summed = sorted({*sites, *found}), evaluation.pooled_over or ()
    return [
        *((site, found.get(site, SUMMED if site in summed else UNANSWERED)) for site in every),
        (POOLED, pooled),
    ]


def held_out_rows(evaluation: Evaluation, *, sites: Sequence[str]) -> Iterator[Row]:
    """Every model's figures on each held-out set; see `Run.held_out`."""
    for model, figures in evaluation.models.items():
        for where, block in _sets(figures.sites, figures.pooled, sites=sites, evaluation=evaluation):
            for figure, name, value in _figures(block, classes=evaluation.classes):
                row: Row = {"model": model, "held_out_set": where, "figure": figure, "class": name}
                if not isinstance(block, NotEstimable):
                    row["n"] = block.n
                yield row | _with_interval(value)


def _figures(
    block: Figures | NotEstimable, *, classes: Sequence[str]
) -> Iterator[tuple[str, str, Proportion | AucFigure | Absent | float]]:
    """Name, class and value of each figure of a block; without a block, the reason for each."""
    absent = block if isinstance(block, NotEstimable) else None
    for figure in ("accuracy", "auc_macro", "auc_micro", "auc_macro_interpolated"):
        yield figure, "", absent or getattr(block, figure)
    for figure in ("auc", "sensitivity", "specificity"):
        for name in classes:
            yield figure, name, absent or getattr(block, figure)[name]


def _with_interval(value: Proportion | AucFigure | Absent | float) -> Row:
    """Value, both ends of its interval, standard error, and the reason of whichever is not there."""
    match value:
        case Proportion():
            return {"value": value.value} | _ends(value.ci95, kind="clopper-pearson")
        case AucFigure():
            se = None if isinstance(value.se, NotEstimable) else value.se
            return {"value": value.value, "standard_error": se} | _ends(
                value.interval, kind=value.interval_kind
            )
        case NotEstimable() | Suppressed():
            return {"reason": _why(value)}
        case _:
            return {"value": value}  # a number that has no interval


def _ends(interval: Interval | NotEstimable, *, kind: str) -> Row:
    if isinstance(interval, NotEstimable):
        return {"reason": _why(interval)}
    return {"lower": interval[0], "upper": interval[1], "interval": kind}


def comparison_rows(evaluation: Evaluation, *, sites: Sequence[str]) -> Iterator[Row]:
    """The federated model against each other one; see `Run.comparison`."""
    names = {owner: f"{owner} alone" for owner in evaluation.local_only}  # as `Evaluation.models` has them
    for other, comparison in evaluation.comparison.items():
        for where, block in _sets(comparison.sites, comparison.pooled, sites=sites, evaluation=evaluation):
            for figure, name, test in (
                ("accuracy", "", "mcnemar"),
                *(("auc", name, "delong") for name in evaluation.classes),
            ):
                row: Row = {"other_model": names.get(other, other), "held_out_set": where}
                row |= {"figure": figure, "class": name, "test": test}
                if not isinstance(block, PairFigures):
                    yield row | {"reason": _why(block)}
                    continue
                row["n"] = block.n or None  # patients of sites that release it; 0 is nobody's
                yield row | _difference(block.auc[name] if name else block.accuracy)


def _difference(found: PairedAccuracy | AucTest | Absent) -> Row:
    if not isinstance(found, PairedAccuracy | AucTest):
        return {"reason": _why(found)}
    row: Row = {"difference": found.difference, "lower": found.ci95[0], "upper": found.ci95[1]}
    if isinstance(found, PairedAccuracy):
        row |= {"only_federated_right": found.b, "only_other_right": found.c, "p": found.decisive_p}
        return row | {"test": found.test.replace(" ", "-").lower()}
    row |= {"p": found.p}
    return row


def calibration_rows(evaluation: Evaluation, *, sites: Sequence[str]) -> Iterator[Row]:
    """Scores and recalibration of every model; see `Run.calibration`."""
    for model, figures in evaluation.models.items():
        for where, block in _sets(figures.sites, figures.pooled, sites=sites, evaluation=evaluation):
            found = block if isinstance(block, NotEstimable) else block.calibration
            row: Row = {"model": model, "held_out_set": where}
            if isinstance(found, Calibration):
                row["n"] = found.n
            elif not isinstance(block, NotEstimable):
                row["n"] = block.n
            for figure, name, value, se in _calibration(found, classes=evaluation.classes):
                said: Row = {"figure": figure, "class": name, "standard_error": se, "reason": _why(value)}
                yield row | said | {"value": None if said["reason"] else value}


def _calibration(
    found: Calibration | Absent, *, classes: Sequence[str]
) -> Iterator[tuple[str, str, float | Absent, float | None]]:
    """Name, class, value and standard error of each figure; without calibration, the reason for each."""
    if not isinstance(found, Calibration):
        for name in ("", *classes):
            for figure in ("ece", "slope", "intercept") if name else ("brier", "log_loss", "ece"):
                yield figure, name, found, None
        return
    yield "brier", "", found.brier, None
    yield "log_loss", "", found.log_loss, None
    yield "ece", "", found.ece, None
    for name in classes:
        own = found.classes[name]
        yield "ece", name, own.ece, None
        fit = own.recalibration
        if isinstance(fit, NotEstimable):
            yield "slope", name, fit, None
            yield "intercept", name, fit, None
        else:
            yield "slope", name, fit.slope, fit.slope_se
            yield "intercept", name, fit.intercept, fit.intercept_se


def roc_rows(evaluation: Evaluation, *, sites: Sequence[str]) -> Iterator[Row]:
    """Points of every curve; see `Run.roc`."""
    for model, figures in evaluation.models.items():
        for where, block in _sets(figures.sites, figures.pooled, sites=sites, evaluation=evaluation):
            for name in evaluation.classes:
                row: Row = {"model": model, "held_out_set": where, "class": name}
                points = block if isinstance(block, NotEstimable) else block.roc[name]
                if isinstance(points, tuple):
                    for x, y in points:
                        yield row | {"false_positive_rate": x, "true_positive_rate": y}
                else:
                    # In older files the bare AUC stands where a site releases no histograms.
                    yield row | {"reason": _why(points) or _why(NotEstimable("no histograms are released"))}


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
                "reason": reason or _said(scores) or _said(loss),
            }


def _said(value: Json) -> str:
    """The reason that a line of `rounds.jsonl` gives for a figure that is not there."""
    if not isinstance(value, Mapping):
        return ""
    found = [_why(kind(value[key])) for key, kind in _REASONS.items() if key in value]
    return found[0] if found else ""
