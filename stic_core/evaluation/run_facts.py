"""Who took part in a run, in what, and for how long: one value, made of the run's folder alone.

`rounds.jsonl` says whose weights a round's average holds and `evaluation.json` who evaluated; `record.json` adds
what each hospital described and how long the server ran. A server's memory plays no part: it may have been restarted,
and hospitals may have left.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stic_core.errors import UsageError
from stic_core.evaluation.run_files import read_record, read_rounds


@dataclass(frozen=True, slots=True)
class SitePart:
    """One hospital's part in a run.

    Args:
        rounds: whose average its weights are in, ascending; with none it may still have evaluated.
        evaluated: the model was evaluated on its held-out patients.
        description: what the hospital described (patients, fingerprints, versions), as `record.json` has it;
            empty where an older version did not keep it.
    """

    rounds: tuple[int, ...]
    evaluated: bool
    description: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelOrigin:
    """Where a model comes from that a run evaluated and did not train, as far as the model's folder says it.

    Args:
        digest: of its weights.
        run_id: of the run that trained it; "" where the folder does not say.
        best_round: after how many of that run's rounds it was had.
        rounds: of that run in all.
        sites: hospitals that trained it.
        source: what the folder says of a model that no run trained, such as `imported from Keras`.
        phantom: it learned from phantoms.
    """

    digest: str
    run_id: str = ""
    best_round: int | None = None
    rounds: int | None = None
    sites: tuple[str, ...] = ()
    source: str = ""
    phantom: bool | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the documents of a run may say of it.

    Args:
        kind: whether the run trained a model, or evaluated one that existed.
        sites: hospitals that trained or evaluated, by name.
        rounds: that were averaged.
        seconds: that servers ran for this run, to their last complete round where they were killed; None where no one
            wrote it down.
        starts: how often a server was started for it.
        origin: of the evaluated model; None where the run trained one.
        kept_round: after which the model was as it was kept; None where the run trained none, or is not that far.
    """

    kind: Literal["training", "evaluation"]
    sites: Mapping[str, SitePart]
    rounds: int
    seconds: float | None
    starts: int
    origin: ModelOrigin | None = None
    kept_round: int | None = None

    @property
    def trained_by(self) -> tuple[str, ...]:
        """Hospitals whose weights are in at least one round's average."""
        return tuple(site for site, part in self.sites.items() if part.rounds)

    @property
    def in_the_model(self) -> tuple[str, ...]:
        """Hospitals whose weights are in the average that was kept, or in one that it came from."""
        last = self.rounds if self.kept_round is None else self.kept_round
        return tuple(site for site in self.trained_by if self.sites[site].rounds[0] <= last)

    @property
    def trained_too_late(self) -> tuple[str, ...]:
        """Hospitals that trained only after the round whose model was kept."""
        return tuple(site for site in self.trained_by if site not in self.in_the_model)

    @property
    def evaluated_by(self) -> tuple[str, ...]:
        """Hospitals on whose held-out patients the model was evaluated."""
        return tuple(site for site, part in self.sites.items() if part.evaluated)

    @property
    def left_before_the_end(self) -> tuple[str, ...]:
        """Hospitals that trained and did not evaluate; empty before the evaluation."""
        return tuple(site for site in self.trained_by if self.evaluated_by and site not in self.evaluated_by)

    @property
    def joined_for_the_evaluation(self) -> tuple[str, ...]:
        """Hospitals that evaluated the model and trained no round of it."""
        return tuple(site for site in self.evaluated_by if site not in self.trained_by)


def facts_of(
    record: Mapping[str, Any], *, rounds: Sequence[Mapping[str, Any]], evaluated: Iterable[str] = ()
) -> RunFacts:
    """The facts of a run.

    Args:
        record: `record.json`.
        rounds: lines of `rounds.jsonl`.
        evaluated: hospitals in `evaluation.json`; none before the evaluation.
    """
    described: Mapping[str, Any] = record.get("sites", {})
    took_part = {site for line in rounds for site in line["sites"]} | set(evaluated)
    if not took_part:  # nothing happened yet: who is there is all that can be said
        took_part = set(described)
    answered = set(evaluated)
    sites = {
        site: SitePart(
            tuple(line["round"] for line in rounds if site in line["sites"]),
            site in answered,
            described.get(site, {}),
        )
        for site in sorted(took_part)
    }
    sessions = record.get("sessions", ())
    return RunFacts(
        kind="evaluation" if record.get("evaluates") else "training",
        sites=sites,
        rounds=len(rounds),
        seconds=record.get("wall_seconds"),
        starts=max(1, len(sessions)),
        origin=_origin(record),
        kept_round=record.get("best_round") or None,
    )


def _origin(record: Mapping[str, Any]) -> ModelOrigin | None:
    if not record.get("evaluates"):
        return None
    known = {"digest": record["evaluates"]} | record.get("evaluated_model", {})
    return ModelOrigin(**(known | {"sites": tuple(known.get("sites", ()))}))


def origin_of(model: Path) -> ModelOrigin:
    """Where a model comes from: what its `model.json` says, and the record of the run in whose folder it lies.

    Args:
        model: the model's folder.

    Raises:
        OSError, ValueError: it has no readable `model.json`.
    """
    about = json.loads((model / "model.json").read_text(encoding="utf-8"))
    told = ModelOrigin(
        digest=about["digest"],
        run_id=about.get("run_id") or "",
        best_round=about.get("best_round"),
        source=about.get("source") or "",
        phantom=about.get("phantom"),
    )
    try:
        record, rounds = read_record(model.parent), read_rounds(model.parent)
    except UsageError:  # the model was copied without its run
        return told
    if record.get("model_digest") != told.digest:
        return told
    facts = facts_of(record, rounds=rounds)
    if facts.origin is not None:
        return facts.origin
    return ModelOrigin(
        told.digest, record["run_id"], told.best_round, facts.rounds, facts.in_the_model, phantom=told.phantom
    )
