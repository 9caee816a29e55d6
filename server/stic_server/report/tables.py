"""The report's figures as tables: `report/` beside `report.html`, for readers who plot their own."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from stic_core.evaluation import models_of
from stic_server.report import pair_tables
from stic_server.report.csv_columns import blocks, figure, why
from stic_server.report.rounds import missed, traffic_rows

Json: TypeAlias = Any
Row: TypeAlias = Sequence[object]


def write_tables(
    folder: Path,
    *,
    rounds: Sequence[Json],
    evaluation: Json | None,
    sites: Sequence[str],
    readers: Mapping[str, Json],
) -> list[Path]:
    """Write a CSV a figure; a figure that is not there is an empty cell with the reason beside it.

    Args:
        folder: made where it is missing; tables that this run no longer has are removed.
        rounds: lines of `rounds.jsonl`.
        evaluation: `evaluation.json`, None where there was no evaluation.
        sites: of the record.
        readers: reader studies by site.

    Returns:
        The files, in the order of the report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, tuple[Row, Iterable[Row]]] = {}
    if evaluation is not None:
        tables |= {
            "held_out": (HELD_OUT, _held_out(evaluation)),
            "cross_site": (pair_tables.CROSS_SITE, pair_tables.cross_site(evaluation)),
            "comparison": (pair_tables.COMPARISON, pair_tables.comparison(evaluation)),
            "roc": (("held_out_set", "class", "false_positive_rate", "true_positive_rate"), _roc(evaluation)),
            "confusion": (
                ("held_out_set", "true", "predicted", "patients", "why_absent"),
                _confusion(evaluation),
            ),
            "calibration": (
                ("held_out_set", "class", "patients", "predicted", "observed"),
                _bins(evaluation),
            ),
            "calibration_summary": (
                ("held_out_set", "figure", "class", "value", "standard_error", "why_absent"),
                _calibration(evaluation),
            ),
            "between_sites": (pair_tables.BETWEEN, pair_tables.between(evaluation)),
            "heterogeneity": (pair_tables.HETEROGENEITY, pair_tables.heterogeneity(evaluation)),
        }
        if not evaluation.get("comparison"):
            del tables["comparison"]
    if readers:
        tables["readers"] = (pair_tables.READERS, pair_tables.readers(readers))
        tables["reader_comparisons"] = (pair_tables.PAIRS, pair_tables.reader_pairs(readers))
    tables |= {
        "learning": (LEARNING, _learning(rounds)),
        "rounds": (ROUNDS, _rounds(rounds, sites=sites)),
        "traffic": (TRAFFIC, _traffic(rounds, sites=sites)),
    }
    for stale in set(folder.glob("*.csv")) - {folder / f"{name}.csv" for name in tables}:
        stale.unlink()
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
ROUNDS = (
    "round",
    "hospitals",
    "dropped_out",
    "seconds",
    "overhead_seconds",
    "bytes_down",
    "bytes_up",
    "validation_loss",
)
TRAFFIC = ("round", "site", "took_part", "bytes_down", "bytes_up", "counted", "update_norm")
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


def _rounds(rounds: Sequence[Json], *, sites: Sequence[str]) -> Iterator[Row]:
    gone = missed(rounds, sites=sites)
    for line in rounds:
        yield (
            line["round"],
            " ".join(line["sites"]),
            " ".join(gone.get(line["round"], ())),
            *(line.get(key, "") for key in ("seconds", "overhead_seconds", "bytes_down", "bytes_up")),
            line.get("val", {}).get("pooled", {}).get("loss", ""),
        )


def _traffic(rounds: Sequence[Json], *, sites: Sequence[str]) -> Iterator[Row]:
    norms = {line["round"]: line.get("update_norm", {}) for line in rounds}
    for row in traffic_rows(rounds, sites=sites):
        norm = norms[row["round"]].get(row["site"])
        yield (
            row["round"],
            row["site"],
            int(row["took_part"]),
            round(row["down"]),
            round(row["up"]),
            "exact" if row["exact"] else "equal share",
            norm if isinstance(norm, int | float) else "",
        )


def _held_out(evaluation: Json) -> Iterator[Row]:
    for model, document in models_of(evaluation).items():
        for where, block in blocks(document):
            shares = {"accuracy": block["accuracy"]} | {
                f"{what} {name}": block[what][name]
                for what in ("sensitivity", "specificity")
                for name in evaluation["classes"]
            }
            for name, share in shares.items():
                yield model, where, name, *figure(share, "ci95"), why(share)
            yield from _aucs(model, where, block)
            paper = block["auc_macro_interpolated"]
            value = "" if why(paper) else paper
            yield model, where, "macro AUC interpolated", value, "", "", "", why(paper)
    yield from _aucs("federated", "stratified", evaluation["stratified_auc"])


def _aucs(model: str, where: str, block: Json) -> Iterator[Row]:
    figures = {f"AUC {name}": auc for name, auc in block["auc"].items()}
    figures |= {f"{kind} AUC": block[f"auc_{kind}"] for kind in ("macro", "micro") if f"auc_{kind}" in block}
    for name, auc in figures.items():
        for interval in ("ci95_logit", "ci95_wald"):
            yield model, where, name, *figure(auc, interval), why(auc) or why(auc.get(interval))


def _roc(evaluation: Json) -> Iterator[Row]:
    for where, block in blocks(evaluation):
        for name, points in block["roc"].items():
            if isinstance(points, list):
                yield from ((where, name, x, y) for x, y in points)


def _confusion(evaluation: Json) -> Iterator[Row]:
    classes = evaluation["classes"]
    for where, block in blocks(evaluation):
        for row, true in enumerate(classes):
            for column, predicted in enumerate(classes):
                table = block["confusion"]
                count = table if isinstance(table, Mapping) else table[row][column]
                yield where, true, predicted, "" if why(count) else count, why(count)


def _bins(evaluation: Json) -> Iterator[Row]:
    for where, block in blocks(evaluation):
        for name, figures in block["calibration"].get("classes", {}).items():
            for group in figures["bins"]:
                yield where, name, group["n"], group["predicted"], group["observed"]


def _calibration(evaluation: Json) -> Iterator[Row]:
    for where, block in blocks(evaluation):
        found = block["calibration"]
        for name in ("brier", "log_loss", "ece"):
            value = found.get(name, "")
            reason = why(found) or why(value)
            yield where, name, "", "" if reason else value, "", reason
        for name, figures in found.get("classes", {}).items():
            fit = figures["recalibration"]
            for key in ("slope", "intercept"):
                yield where, key, name, fit.get(key, ""), fit.get(f"{key}_se", ""), why(fit)
