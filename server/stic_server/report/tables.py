"""The report's figures as tables: `report/` beside `report.html`, for readers who plot their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from stic_core.evaluation import Evaluation, auc_titles, overall_auc
from stic_core.evaluation.document import Calibration, Figures, StratifiedFigures
from stic_core.evaluation.figures import AucFigure
from stic_core.evaluation.readers.release import StudyFigures
from stic_core.statistics import Absent
from stic_core.system.files import write_csv
from stic_server.report import pair_tables
from stic_server.report.csv_columns import figure, parts, why
from stic_server.report.rounds import missed, traffic_rows

Json: TypeAlias = Any
Row: TypeAlias = Sequence[object]


def write_tables(
    folder: Path,
    *,
    rounds: Sequence[Json],
    evaluation: Evaluation | None,
    sites: Sequence[str],
    readers: Mapping[str, StudyFigures],
) -> list[Path]:
    """Write one CSV per figure; a figure that is not there is an empty cell with the reason beside it.

    Args:
        folder: made where it is missing; tables that this run no longer has are removed.
        rounds: lines of `rounds.jsonl`.
        evaluation: `evaluation.json`, None where there was no evaluation.
        sites: that took part.
        readers: reader studies by site.

    Returns:
        The files, in the order of the report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, tuple[Row, Iterable[Row]]] = {}
    if evaluation is not None:
        sets = evaluation.models["federated"].sets
        tables |= {
            "held_out": (HELD_OUT, _held_out(evaluation)),
            "cross_site": (pair_tables.CROSS_SITE, pair_tables.cross_site(evaluation)),
            "comparison": (pair_tables.COMPARISON, pair_tables.comparison(evaluation)),
            "roc": (("held_out_set", "class", "false_positive_rate", "true_positive_rate"), _roc(sets)),
            "confusion": (
                ("held_out_set", "true", "predicted", "patients", "why_absent"),
                _confusion(sets, classes=evaluation.classes),
            ),
            "calibration": (
                ("held_out_set", "class", "patients", "predicted", "observed"),
                _bins(sets),
            ),
            "calibration_summary": (
                ("held_out_set", "figure", "class", "value", "standard_error", "why_absent"),
                _calibration(sets),
            ),
            "between_sites": (pair_tables.BETWEEN, pair_tables.between(evaluation)),
            "heterogeneity": (pair_tables.HETEROGENEITY, pair_tables.heterogeneity(evaluation)),
        }
        if evaluation.pooled_over is not None:
            for name in ("cross_site", "between_sites", "heterogeneity"):  # of hospitals that have no figures
                del tables[name]
        if not evaluation.comparison:
            del tables["comparison"]
    if readers:
        tables["readers"] = (pair_tables.READERS, pair_tables.readers(readers))
        tables["reader_comparisons"] = (pair_tables.PAIRS, pair_tables.reader_pairs(readers))
    tables |= {
        "learning": (LEARNING, _learning(rounds)),
        "rounds": (ROUNDS, _rounds(rounds, sites=sites)),
        "traffic": (TRAFFIC, _traffic(rounds, sites=sites)),
    }
    written = [folder / f"{name}.csv" for name in tables]
    for stale in set(folder.glob("*.csv")) - set(written):
        stale.unlink()
    for path, (heading, rows) in zip(written, tables.values(), strict=True):
        write_csv(path, heading, rows)
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
    gone = missed(rounds, sites=[site for site in sites if any(site in line["sites"] for line in rounds)])
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


def _held_out(evaluation: Evaluation) -> Iterator[Row]:
    binary = len(evaluation.classes) == 2
    for model, found in evaluation.models.items():
        for where, figures in found.sets.items():
            shares = {"accuracy": figures.accuracy}
            shares |= {f"sensitivity {name}": figures.sensitivity[name] for name in evaluation.classes}
            shares |= {f"specificity {name}": figures.specificity[name] for name in evaluation.classes}
            for name, share in shares.items():
                yield model, where, name, *figure(share, kind="ci95")
            yield from _aucs(
                model, where, _named(figures) | ({} if binary else {"micro AUC": figures.auc_micro})
            )
            paper = figures.auc_macro_interpolated
            if not binary:
                value = "" if isinstance(paper, Absent) else paper
                yield model, where, "macro AUC interpolated", value, "", "", "", why(paper)
    yield from _aucs("federated", "stratified", _named(evaluation.stratified_auc))


def _named(found: Figures | StratifiedFigures) -> dict[str, AucFigure | Absent]:
    """AUCs by the names that they have in tables; the last is the one of all classes."""
    own = {title: found.auc[name] for name, title in auc_titles(list(found.auc)).items()}
    return own | {overall_auc(list(found.auc)): found.auc_macro}


def _aucs(model: str, where: str, figures: Mapping[str, AucFigure | Absent]) -> Iterator[Row]:
    for name, auc in figures.items():
        newcombe = isinstance(auc, AucFigure) and auc.ci95_newcombe is not None
        for kind in ("ci95_logit", "ci95_wald", *(("ci95_newcombe",) if newcombe else ())):
            yield model, where, name, *figure(auc, kind=kind)


def _roc(sets: Mapping[str, Figures]) -> Iterator[Row]:
    for where, figures in sets.items():
        for name in auc_titles(list(figures.roc)):
            if isinstance(points := figures.roc[name], tuple):
                yield from ((where, name, x, y) for x, y in points)


def _confusion(sets: Mapping[str, Figures], *, classes: Sequence[str]) -> Iterator[Row]:
    for where, figures in sets.items():
        table = figures.confusion
        for row, true in enumerate(classes):
            for column, predicted in enumerate(classes):
                count = table[row][column] if isinstance(table, tuple) else table
                yield where, true, predicted, "" if isinstance(count, Absent) else count, why(count)


def _bins(sets: Mapping[str, Figures]) -> Iterator[Row]:
    for where, figures in sets.items():
        if isinstance(found := figures.calibration, Calibration):
            for name, of_class in found.classes.items():
                yield from ((where, name, one.n, one.predicted, one.observed) for one in of_class.bins)


def _calibration(sets: Mapping[str, Figures]) -> Iterator[Row]:
    for where, figures in sets.items():
        found = figures.calibration
        for name in ("brier", "log_loss", "ece"):
            value = found if isinstance(found, Absent) else getattr(found, name)
            yield where, name, "", "" if isinstance(value, Absent) else value, "", why(value)
        for name, of_class in found.classes.items() if isinstance(found, Calibration) else ():
            fit = of_class.recalibration
            for key in ("slope", "intercept"):
                yield where, key, name, *parts(fit, key, f"{key}_se"), why(fit)
