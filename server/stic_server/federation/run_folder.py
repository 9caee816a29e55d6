"""What a run leaves behind: `runs/<run-id>/` with its record, rounds, model and evaluation."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stic_core.config import FederationConfig
from stic_core.errors import DataError, UsageError
from stic_core.evaluation.run_facts import ModelOrigin
from stic_core.models.saved import write_model
from stic_core.protocol.messages import RunPlan, SiteDescription
from stic_core.system.files import write_atomically
from stic_core.system.one_process import only_process
from stic_core.tensors.flat import FlatArray

SCHEMA = 1


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """What ran here."""
    found = {"python": platform.python_version()}
    for name in ("stic-federated", "torch", "flwr", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


class RunFolder:
    """A run's folder; every file is replaced whole or not at all.

    Args:
        path: `runs/<run-id>`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._began = time.monotonic()

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Where the state lies from which the run resumes."""
        return self.path / "checkpoints"

    @classmethod
    def last_of(cls, config: FederationConfig, plan: RunPlan) -> RunFolder | None:
        """The federation's last run, if it has this plan; the sites that the two name may differ."""
        last = cls._last(config)
        before = None if last is None else last.read_plan()
        same = before is not None and before.model_copy(update={"sites": plan.sites}) == plan
        return last if same else None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, the report among it."""
        record = self.read_record()
        return record["status"] != "running" and record.get("report") != "owed"

    @classmethod
    def begin(
        cls, config: FederationConfig, plan: RunPlan, *, origin: ModelOrigin | None = None
    ) -> RunFolder:
        """A new run, or the last one where it has the same plan and was not finished, report and all.

        Sites that were admitted or revoked since are no other plan: the run keeps its own (`read_plan`).

        Args:
            origin: of the model, where the plan evaluates one.
        """
        last = cls.last_of(config, plan)
        if last is not None and not last.finished:
            return last
        stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
        run = cls(config.runs / f"{config.name}-{stamp}")
        run.path.mkdir(parents=True)
        write_atomically(run.path / "plan.json", plan.model_dump_json(indent=1) + "\n")
        run.write_record(
            {
                "schema": SCHEMA,
                "run_id": run.run_id,
                "name": config.name,
                "status": "running",
                "started": now(),
                "plan_digest": plan.digest,
                "evaluates": plan.evaluates,
                # An evaluation's model may be another than the one that the file would train.
                "config": config.model_copy(
                    update={name: getattr(plan, name) for name in ("task", "model", "image", "rounds")}
                ).model_dump(mode="json", exclude={"runs", "listen", "warm_start", "backbone_weights"}),
                "versions": versions(),
                "seed": config.seed,
                "determinism": config.determinism,
                "sites": {},
                "sessions": [],
                "participation": {},
                **({"evaluated_model": asdict(origin)} if origin is not None else {}),
            }
        )
        return run

    @classmethod
    def unfinished(cls, config: FederationConfig) -> RunFolder | None:
        """The last run, where its training, evaluation or report is not done."""
        last = cls._last(config)
        return None if last is None or last.finished else last

    @classmethod
    def _last(cls, config: FederationConfig) -> RunFolder | None:
        runs = sorted(config.runs.glob(f"{config.name}-*/record.json")) if config.runs.is_dir() else []
        return cls(runs[-1].parent) if runs else None

    def read_plan(self) -> RunPlan | None:
        """`plan.json`, the plan as the sites approved it; None where another version wrote it, or none did."""
        try:
            return RunPlan.model_validate_json((self.path / "plan.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def read_record(self) -> dict[str, Any]:
        """`record.json`.

        Raises:
            DataError: there is none, it is damaged, or a newer version wrote it.
        """
        try:
            record = self._read_json("record.json")
        except FileNotFoundError:
            raise DataError(f"{self.path} is not a run: it has no record.json") from None
        if not (isinstance(record.get("status"), str) and isinstance(record.get("sites"), dict)):
            raise self._damaged("record.json")
        schema = record.get("schema", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise DataError(
                f"{self.path / 'record.json'} was written by a newer version",
                got=f"schema {schema}",
                expected=f"{SCHEMA} or less",
                advice="Install that version again, or move the run's folder away to begin a new run.",
            )
        return record

    def write_record(self, record: Mapping[str, Any]) -> None:
        """`record.json`."""
        self._write_json("record.json", record)

    def update_record(self, **facts: object) -> None:
        """Add to the record, or replace what it says."""
        self.write_record(self.read_record() | facts)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One server at a time writes a run, also where two federations' folders name the same `runs`.

        Raises:
            UsageError: another one does.
        """
        taken = UsageError(
            f"another server is working on run {self.run_id}",
            advice="Stop it first. A copy of a federation needs its own folder under runs: in federation.yaml.",
        )
        with only_process(self.path / ".lock", taken=taken):
            yield

    def begin_session(self) -> None:
        """A server takes up the run: how often, and for how long, is in the record whoever writes its end."""
        self._began = time.monotonic()
        sessions = [*self.read_record().get("sessions", ()), {"began": now(), "seconds": 0.0}]
        self.update_record(sessions=sessions)

    def mark_time(self) -> None:
        """Write down how long this session has lasted, and `wall_seconds`, that of all of them."""
        *earlier, this = self.read_record()["sessions"]
        sessions = [*earlier, {**this, "seconds": round(time.monotonic() - self._began, 3)}]
        total = round(sum(one["seconds"] for one in sessions), 3)
        self.update_record(sessions=sessions, wall_seconds=total)

    def read_descriptions(self) -> dict[str, SiteDescription]:
        """What the sites of this run described, those of earlier sessions and those that left among them."""
        try:
            return {
                site: SiteDescription.model_validate(facts)
                for site, facts in self.read_record()["sites"].items()
            }
        except ValidationError:
            raise self._damaged("record.json") from None

    def keep_descriptions(self, descriptions: Mapping[str, SiteDescription]) -> None:
        """Add what sites described to the record; nobody who was there before is forgotten."""
        record = self.read_record()
        found = {
            site: description.model_dump(mode="json", exclude={"version", "kind", "lacks_models"})
            for site, description in descriptions.items()
        }
        sites = dict(sorted({**record["sites"], **found}.items()))
        phantom = any(facts["phantom"] for facts in sites.values())
        if (sites, phantom) != (record["sites"], record.get("phantom")):
            self.write_record(record | {"sites": sites, "phantom": phantom})

    def read_rounds(self) -> list[dict[str, Any]]:
        """`rounds.jsonl`, one value per round.

        Raises:
            DataError: it is damaged elsewhere than at its end.
        """
        path = self.path / "rounds.jsonl"
        # A line without its end was being written when the server was killed.
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            rows = [json.loads(line) for line in lines if line.endswith("\n")]
        except ValueError:
            raise self._damaged(path.name) from None
        if not all(isinstance(row, dict) and row.keys() >= {"round", "sites", "val"} for row in rows):
            raise self._damaged(path.name)
        return rows

    def keep_rounds(self, last: int) -> None:
        """Drop rounds after `last`: those that a resumed run does again."""
        rows = [row for row in self.read_rounds() if row["round"] <= last]
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomically(self.path / "rounds.jsonl", text.encode())

    def add_round(self, row: Mapping[str, Any]) -> None:
        """Append a line to `rounds.jsonl`; a torn last line is dropped by `keep_rounds`."""
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_model(self, weights: FlatArray, plan: RunPlan, **facts: object) -> str:
        """`model/`: the weights as safetensors, and what they are.

        A model that is only evaluated keeps saying who trained it.

        Returns:
            The model's digest.
        """
        if plan.evaluates is not None:
            origin = self.read_record().get("evaluated_model", {})
            facts |= {name: origin.get(name) for name in ("best_round", "source", "phantom")}
            facts |= {"run_id": origin.get("run_id", ""), "evaluated_in": self.run_id}
        written = write_model(
            self.path / "model",
            weights,
            tensors=plan.tensors,
            task=plan.task,
            model=plan.model,
            image=plan.image,
            **({"run_id": self.run_id} | facts),
        )
        return written.digest

    def read_evaluation(self) -> dict[str, Any]:
        """`evaluation.json`.

        Raises:
            DataError: it is not there any more, or damaged.
        """
        try:
            return self._read_json("evaluation.json")
        except FileNotFoundError:
            raise self._damaged("evaluation.json") from None

    def write_evaluation(self, document: Mapping[str, Any]) -> None:
        """`evaluation.json`."""
        self._write_json("evaluation.json", document)

    def _read_json(self, name: str) -> dict[str, Any]:
        """A file that holds one object.

        Raises:
            DataError: it does not.
        """
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except ValueError:
            raise self._damaged(name) from None
        if not isinstance(found, dict):
            raise self._damaged(name)
        return found

    def _damaged(self, name: str) -> DataError:
        return DataError(
            f"{self.path / name} is damaged",
            advice="Restore the run's folder from a backup, or move it away: "
            "the next start then begins a new run.",
        )

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
        write_atomically(self.path / name, text.encode())
