"""What an observer is told of a run: the figures of its report, by name.

They are read from `record.json`, `rounds.jsonl` and `evaluation.json`, so an observer knows no patient figure
that the run's folder lacks: what a site suppressed is not a number there, and is left out here.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from stic_core.evaluation.run_frames import Row, calibration_rows, held_out_rows, round_rows
from stic_core.evaluation.run_results import load_run

Json: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """One round.

    Args:
        number: from 1.
        time: when it ended on a clock that runs in rounds alone: seconds since the epoch. A figure that is sent
            again therefore carries the same time.
        figures: by name, such as `validation_loss/center1`.
    """

    number: int
    time: float
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunFigures:
    """A run as far as its folder has it.

    Args:
        name: of the federation.
        run_id: names the run.
        complete: its record says so.
        began, ended: seconds since the epoch; `ended` is None until it is complete.
        settings: what was configured, one level deep, as text.
        facts: digests and versions, as text.
        rounds: in order.
        held_out: figures of the evaluation; empty before it.
    """

    name: str
    run_id: str
    complete: bool
    began: float
    ended: float | None
    settings: Mapping[str, str]
    facts: Mapping[str, str]
    rounds: Sequence[RoundFigures]
    held_out: Mapping[str, float]


def read_figures(folder: Path) -> RunFigures:
    """A run's figures as its folder has them now.

    Raises:
        UsageError: the folder holds no run, or a file of it was altered.
    """
    run = load_run(folder)
    record, began = run.record, _seconds(run.record["started"])
    complete = record["status"] == "complete"
    held_out = {}
    if run.evaluation is not None and complete:
        held_out = dict(_held_out(held_out_rows(run.evaluation, sites=run.sites)))
        held_out |= dict(_held_out(calibration_rows(run.evaluation, sites=run.sites)))
    return RunFigures(
        name=str(record["name"]),
        run_id=run.run_id,
        complete=complete,
        began=began,
        ended=_seconds(record["finished"]) if complete else None,
        settings=dict(_flat(record["config"])),
        facts={name: str(value) for name, value in _facts(record)},
        rounds=tuple(_rounds(run.round_rows, sites=run.sites, began=began)),
        held_out=held_out,
    )


def _seconds(iso: str) -> float:
    return dt.datetime.fromisoformat(iso).timestamp()


def _flat(config: Mapping[str, Json], *, above: str = "") -> Iterator[tuple[str, str]]:
    """A configuration's keys as paths, such as `training.batch_size`."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, above=f"{above}{key}.")
        else:
            yield f"{above}{key}", str(value)


def _facts(record: Mapping[str, Json]) -> Iterator[tuple[str, object]]:
    for name in ("plan_digest", "model_digest", "best_round", "evaluates", "phantom", "wall_seconds"):
        if record.get(name) is not None:
            yield name, record[name]
    if record["sites"]:
        yield "sites", ", ".join(sorted(record["sites"]))
    for name, version in record["versions"].items():
        yield f"version.{name}", version


def _rounds(
    lines: Sequence[Mapping[str, Json]], *, sites: Sequence[str], began: float
) -> Iterator[RoundFigures]:
    time = began
    for line in lines:
        time += line["seconds"]
        found: dict[str, Json] = {
            "sites": len(line["sites"]),
            "seconds": line["seconds"],
            "overhead_seconds": line["overhead_seconds"],
        }
        for row in round_rows([line], sites=sites):
            for name in (
                *("train_loss", "validation_loss", "validation_accuracy"),
                *("update_norm", "bytes_down", "bytes_up"),
            ):
                found[f"{name}/{row['site']}"] = row[name]
        found |= {f"algorithm/{name}": value for name, value in line.get("algorithm", {}).items()}
        yield RoundFigures(
            line["round"], time, {name: float(value) for name, value in found.items() if _number(value)}
        )


def _held_out(rows: Iterable[Row]) -> Iterator[tuple[str, float]]:
    """Figures with the ends of their intervals, such as `held_out/federated/pooled/auc/HCC`."""
    for row in rows:
        name = "/".join(
            part
            for part in ("held_out", row["model"], row["held_out_set"], row["figure"], row["class"])
            if part
        )
        for key in ("value", "lower", "upper"):
            if _number(value := row.get(key)):
                yield name if key == "value" else f"{name}/{key}", float(value)


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
