"""A run's folder as pandas DataFrames: its figures for readers who compute further with them.

Every frame is tidy: a row for each figure. A figure that a hospital suppressed, or that the
data cannot give, is NaN (a count `<NA>`) with the reason beside it; it is never 0 and its row is
never missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from stic_core.errors import UsageError
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


@dataclass(frozen=True, eq=False)
class Run:
    """What a run left behind; the frames are made when they are first asked for.

    Args:
        path: the run's folder.
        record: `record.json`: configuration, versions, seed, sites and how it ended.
        round_rows: lines of `rounds.jsonl`.
        evaluation: `evaluation.json`; None where the run was not evaluated.
    """

    path: Path
    record: Mapping[str, Json]
    round_rows: tuple[Mapping[str, Json], ...]
    evaluation: Mapping[str, Json] | None

    @property
    def run_id(self) -> str:
        """Names the run, in its record and in its model."""
        return str(self.record["run_id"])

    @property
    def sites(self) -> tuple[str, ...]:
        """Who took part, in the order of their names."""
        return tuple(sorted(self.record["sites"]))

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """Every model's figures on each held-out set and on all of them together (`pooled`).

        Columns: `model`, `held_out_set`, `n` (patients), `figure` (`accuracy`, `sensitivity`,
        `specificity`, `auc`, `auc_macro`, `auc_micro`, `auc_macro_interpolated`), `class` (empty
        for a figure of all classes), `value`, `lower` and `upper` (95 %), `interval` (`clopper-pearson`
        or `logit`), `standard_error`, `reason`.
        """
        return _frame(_held_out(_evaluated(self), sites=self.sites), HELD_OUT)

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """The federated model against each other one, on the same patients.

        Columns: `other_model`, `held_out_set`, `n`, `figure` (`accuracy`, `auc`), `class`,
        `difference` (federated minus other), `lower` and `upper` (95 %), `only_federated_right`,
        `only_other_right` (patients, for accuracy), `test` (`mcnemar`, `delong`), `p` (not corrected
        for the number of tests), `reason`.
        """
        return _frame(_comparison(_evaluated(self), sites=self.sites), COMPARISON)

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """How far every model's probabilities can be taken at their word.

        Columns: `model`, `held_out_set`, `n` (patients), `figure` (`brier`, `log_loss`, `ece`; for each
        class also `slope` and `intercept` of the recalibration), `class` (empty for a figure of all
        classes), `value`, `standard_error`, `reason`.
        """
        return _frame(_calibration(_evaluated(self), sites=self.sites), CALIBRATION)

    @cached_property
    def roc(self) -> pd.DataFrame:
        """Points of every model's ROC curves, each class against the others.

        Columns: `model`, `held_out_set`, `class`, `false_positive_rate`, `true_positive_rate`,
        `reason`. A curve that is not there is one row of NaN with the reason.
        """
        return _frame(_roc(_evaluated(self), sites=self.sites), ROC)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """Training, round by round: a row for each site, and one for all together (`pooled`).

        Columns: `round`, `site`, `took_part`, `train_loss`, `validation_loss`,
        `validation_accuracy`, `validation_n`, `update_norm`, `bytes_down` (to the site), `bytes_up`,
        `reason`. Training loss and update norm are a site's alone: in pooled rows they are NaN.
        """
        return _frame(_rounds(self.round_rows, sites=self.sites), ROUNDS)

    @property
    def held_out_fingerprints(self) -> dict[str, str]:
        """By site that was evaluated, which held-out patients those were, as a hash."""
        facts = self.record["sites"]
        return {site: facts[site].get("test_fingerprint", "") for site in _evaluated(self)["sites"]}


def load_run(path: Path | str) -> Run:
    """Open a run's folder.

    Args:
        path: `runs/<run-id>`, of a federation or of one seed of a simulation.

    Raises:
        UsageError: the folder holds no run, or a file of it was altered. A frame of figures raises
            it too where the run was not evaluated.
    """
    folder = Path(path)
    record = _read_object(folder / "record.json")
    evaluation = folder / "evaluation.json"
    return Run(
        folder,
        record,
        _read_rounds(folder / "rounds.jsonl"),
        _read_object(evaluation) if evaluation.exists() else None,
    )


def compare_runs(*runs: Run | Path | str) -> pd.DataFrame:
    """The held-out figures of several runs on the same patients, one under the other.

    There is no test between two runs: that takes both models' scores of the same patient, which no
    hospital releases. Where models must be compared in pairs, let one federation evaluate both.

    Args:
        runs: two or more, opened or as folders.

    Returns:
        `Run.held_out` of each, with the run's id in a first column `run` (its folder where two
        runs have the same id).

    Raises:
        UsageError: fewer than two runs, one that cannot be read or was not evaluated, or runs of
            other tasks or other held-out patients.
    """
    found = [run if isinstance(run, Run) else load_run(run) for run in runs]
    names = names_of(found)
    check_comparable(found)
    frames = [run.held_out.assign(run=name) for name, run in zip(names, found, strict=True)]
    return pd.concat(frames, ignore_index=True).reindex(columns=["run", *HELD_OUT])


def names_of(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its id, or its folder where an id is there twice."""
    ids = [run.run_id for run in runs]
    return [run.run_id if ids.count(run.run_id) == 1 else str(run.path) for run in runs]


def check_comparable(runs: Sequence[Run]) -> None:
    """Check that runs tell the same classes apart in the same held-out patients.

    Raises:
        UsageError: see `compare_runs`.
    """
    if len(runs) < 2:
        raise UsageError("a comparison of runs", got=len(runs), expected="two runs or more")
    first = runs[0]
    expected, classes = first.held_out_fingerprints, _evaluated(first)["classes"]
    for run in runs[1:]:
        found, names = run.held_out_fingerprints, _evaluated(run)["classes"]
        if names != classes:
            raise UsageError(
                f"{run.path} and {first.path} are not comparable: their classes differ",
                got=", ".join(names),
                expected=", ".join(classes),
            )
        # A record without a fingerprint says nothing of who was held out, so it agrees with none.
        same = {site for site, value in found.items() if value and value == expected.get(site)}
        if other := sorted({*found, *expected} - same):
            raise UsageError(
                f"{run.path} and {first.path} are not comparable: their held-out patients differ",
                got=f"differences at {', '.join(other)}",
                advice="Compare runs that the same sites evaluated on the same prepared data.",
            )


def _evaluated(run: Run) -> Mapping[str, Json]:
    if run.evaluation is None:
        raise UsageError(
            f"{run.path} has no evaluation",
            got=f"status: {run.record['status']}",
            advice="Start the server again: it resumes the run, and evaluates it at the end.",
        )
    return run.evaluation


def _read_object(path: Path) -> dict[str, Json]:
    """`record.json` or `evaluation.json` as plain JSON; the one place that reads them."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path.parent} holds no run", expected=path.name) from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read as JSON", got=type(error).__name__) from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is not what a run writes", got=type(found).__name__, expected="an object")
    return found


def _read_rounds(path: Path) -> tuple[dict[str, Json], ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        # A line without its end was being written when the server stopped.
        return tuple(json.loads(line) for line in lines if line.endswith("\n"))
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read as JSON lines", got=type(error).__name__) from None


def _frame(rows: Iterable[Row], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame; a number that a row does not name is NaN, a text that it does not name is empty."""
    blank = {name: "" if name in TEXTS else None for name in columns}
    frame = pd.DataFrame([blank | row for row in rows], columns=list(columns))
    return frame.astype({name: KINDS.get(name, "float64") for name in columns})


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


def _held_out(evaluation: Json, *, sites: Sequence[str]) -> Iterator[Row]:
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


def _comparison(evaluation: Json, *, sites: Sequence[str]) -> Iterator[Row]:
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


def _calibration(evaluation: Json, *, sites: Sequence[str]) -> Iterator[Row]:
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


def _roc(evaluation: Json, *, sites: Sequence[str]) -> Iterator[Row]:
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


def _rounds(lines: Sequence[Json], *, sites: Sequence[str]) -> Iterator[Row]:
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
