"""The report's figures as tables: `report/` beside `report.html`, for readers who plot their own."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Json: TypeAlias = Any
Row: TypeAlias = Sequence[object]


def write_tables(folder: Path, *, rounds: Sequence[Json], evaluation: Json | None) -> list[Path]:
    """Write a CSV a figure; a figure that is not there is an empty cell with the reason beside it.

    Args:
        folder: made where it is missing.
        rounds: lines of `rounds.jsonl`.
        evaluation: `evaluation.json`, None where there was no evaluation.

    Returns:
        The files, in the order of the report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, tuple[Row, Iterable[Row]]] = {"learning": (LEARNING, _learning(rounds))}
    if evaluation is not None:
        tables = {
            "held_out": (HELD_OUT, _held_out(evaluation)),
            "roc": (("held_out_set", "class", "false_positive_rate", "true_positive_rate"), _roc(evaluation)),
            "confusion": (
                ("held_out_set", "true", "predicted", "patients", "why_absent"),
                _confusion(evaluation),
            ),
            "calibration": (
                ("held_out_set", "class", "patients", "predicted", "observed"),
                _bins(evaluation),
            ),
            **tables,
        }
    written = []
    for name, (heading, rows) in tables.items():
        path = folder / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.writer(lines)
            writer.writerow(heading)
            writer.writerows(rows)
        written.append(path)
    return written


LEARNING = ("round", "site", "train_loss", "validation_loss", "validation_accuracy", "validation_patients")
HELD_OUT = ("model", "held_out_set", "figure", "value", "lower", "upper", "interval", "why_absent")


def _learning(rounds: Sequence[Json]) -> Iterator[Row]:
    for line in rounds:
        train, validation = line.get("train_loss", {}), line.get("val", {})
        for site in (*line["sites"], "pooled"):
            scores = validation.get(site, {})
            loss = train.get(site)
            yield (
                line["round"],
                site,
                loss if isinstance(loss, int | float) else "",
                *(scores.get(key, "") for key in ("loss", "accuracy", "n")),
            )


def _held_out(evaluation: Json) -> Iterator[Row]:
    models = {"federated": evaluation, **evaluation["local_only"]}
    for model, document in models.items():
        for where, block in _blocks(document):
            yield model, where, "accuracy", *_figure(block["accuracy"], "ci95"), _why(block["accuracy"])
            figures = {f"AUC {name}": auc for name, auc in block["auc"].items()}
            for name, auc in {
                **figures,
                "macro AUC": block["auc_macro"],
                "micro AUC": block["auc_micro"],
            }.items():
                for interval in ("ci95_logit", "ci95_wald"):
                    yield model, where, name, *_figure(auc, interval), _why(auc) or _why(auc.get(interval))


def _roc(evaluation: Json) -> Iterator[Row]:
    for where, block in _blocks(evaluation):
        for name, points in block["roc"].items():
            if isinstance(points, list):
                yield from ((where, name, x, y) for x, y in points)


def _confusion(evaluation: Json) -> Iterator[Row]:
    classes = evaluation["classes"]
    for where, block in _blocks(evaluation):
        for row, true in enumerate(classes):
            for column, predicted in enumerate(classes):
                table = block["confusion"]
                count = table if isinstance(table, Mapping) else table[row][column]
                yield where, true, predicted, "" if _why(count) else count, _why(count)


def _bins(evaluation: Json) -> Iterator[Row]:
    for where, block in _blocks(evaluation):
        for name, figures in block["calibration"].get("classes", {}).items():
            for group in figures["bins"]:
                yield where, name, group["n"], group["predicted"], group["observed"]


def _blocks(document: Json) -> list[tuple[str, Json]]:
    return [*document["sites"].items(), ("pooled", document["pooled"])]


def _figure(block: Json, interval: str) -> tuple[object, object, object, str]:
    ends = block.get(interval)
    lower, upper = ends if isinstance(ends, list) else ("", "")
    return block.get("value", ""), lower, upper, interval


def _why(value: Json) -> str:
    """The reason of a figure that is not there; empty where it is."""
    if not isinstance(value, Mapping):
        return ""
    if "suppressed" in value:
        return f"suppressed: {value['suppressed']}"
    return f"not estimable: {value['not_estimable']}" if "not_estimable" in value else ""
