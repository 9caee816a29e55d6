"""Answers that fit the protocol and are lies: norms, numbers of patients, models that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stic_core.config import FederationConfig, Transport
from stic_core.data.dataset import Split
from stic_core.models.parameters import trainable_specs
from stic_core.models.stic import build_head
from stic_core.protocol.compression import WireArray, encode_update
from stic_core.protocol.messages import (
    Instruction,
    LocalReport,
    Report,
    RoundReport,
    SiteDescription,
    Unprepared,
)
from stic_core.tensors.flat import FlatArray, digest
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from support.federation_kit import InProcessSites, Recorder, participant
from support.waiting import PATIENCE_S

Lie = Callable[[Report, FlatArray | None], tuple[Report, FlatArray | None]]
SPECS = trainable_specs(build_head(channels=32, classes=3, seed=0))


def _run(
    folder: Path,
    lie: Lie,
    *,
    sites: int = 3,
    transport: Transport = "float32",
    max_update_ratio: float | None = 100.0,
) -> tuple[RunFolder, list[str], dict[str, Any]]:
    """A run in which the last site lies; its folder, the notes, the evaluation."""
    names = [f"center{number + 1}" for number in range(sites)]
    made = {name: participant(folder / name, site=name, seed=number) for number, name in enumerate(names)}
    liar = made[names[-1]]
    honest = liar.answer

    def answer(instruction: Instruction, weights: FlatArray | None) -> tuple[Report, FlatArray | None]:
        return lie(*honest(instruction, weights))

    liar.answer = answer
    federation = FederationConfig.model_validate(
        {
            "name": "test",
            "model": {"backbone": "tiny"},
            "rounds": 2,
            "training": {"views": 1, "batch_size": 4},
            "transport": transport,
            "runs": folder / "runs",
        }
    )
    proposal = training_of(federation, sites=InProcessSites(made).public_keys)
    plan = proposal.plan
    run, recorder = RunFolder.begin(federation, plan), Recorder()
    limits = RunLimits(
        min_sites=2,
        join_timeout_s=PATIENCE_S,
        round_timeout_s=PATIENCE_S,
        max_update_ratio=max_update_ratio,
    )
    document = execute(
        plan, proposal.weights, run=run, sites=InProcessSites(made), limits=limits, observer=recorder
    )
    return run, recorder.notes, document


def _with(kind: type[Report], change: Callable[[FlatArray], FlatArray]) -> Lie:
    def lie(report: Report, weights: FlatArray | None) -> tuple[Report, FlatArray | None]:
        if not isinstance(report, kind) or weights is None:
            return report, weights
        changed = change(weights)
        return report.model_copy(update={"weights_digest": digest(changed, SPECS)}), changed

    return lie


def test_an_update_far_outside_the_others_is_refused_by_name(tmp_path: Path) -> None:
    """A thousand times the model: named with its norm and the bound; its norm stands in the row."""
    run, notes, _ = _run(tmp_path, _with(RoundReport, lambda weights: weights * np.float32(1000)))
    for row in run.read_rounds():
        assert row["sites"] == ["center1", "center2"]
        norms = row["update_norm"]
        assert norms["center3"] > 100 * max(norms["center1"], norms["center2"]) > 0
    (note, *_) = [note for note in notes if note.startswith("center3: its update is far outside")]
    assert "a norm of " in note
    assert "at most " in note


def test_honest_sites_are_all_taken(tmp_path: Path) -> None:
    """The same run without a lie: every site in every round, each norm in the row."""
    run, notes, _ = _run(tmp_path, lambda report, weights: (report, weights))
    for row in run.read_rounds():
        assert row["sites"] == list(row["update_norm"]) == ["center1", "center2", "center3"]
    assert not [note for note in notes if "far outside" in note]


@pytest.mark.parametrize(
    ("patients", "split"),
    [(10**6, "train"), (10**6, "val"), (10**6, "test"), (10**9, "train"), (10**400, "test")],
    ids=["train", "val", "test", "billion", "endless"],
)
def test_a_claim_of_a_million_patients_is_left_out(tmp_path: Path, patients: int, split: Split) -> None:
    """It would be the whole average; more than `max_patients` takes no part, and the others go on."""

    def lie(report: Report, weights: FlatArray | None) -> tuple[Report, FlatArray | None]:
        if isinstance(report, SiteDescription):
            few = report.patients[split]
            assert isinstance(few.classes, dict)
            many = {name: n and patients - few.n + n for name, n in list(few.classes.items())[:1]}
            found = few.model_copy(update={"n": patients, "classes": few.classes | many})
            report = report.model_copy(update={"patients": {**report.patients, split: found}})
        return report, weights

    run, notes, _ = _run(tmp_path, lie)
    assert list(run.read_record()["sites"]) == ["center1", "center2"]
    assert len([note for note in notes if note.startswith("center3") and "max_patients" in note]) == (
        patients == 10**6
    )


def test_more_patients_in_a_round_than_announced_are_refused(tmp_path: Path) -> None:
    """A million only when it comes to the average: refused in each round, by name."""

    def lie(report: Report, weights: FlatArray | None) -> tuple[Report, FlatArray | None]:
        if isinstance(report, RoundReport):
            report = report.model_copy(update={"examples": 10**6})
        return report, weights

    run, notes, _ = _run(tmp_path, lie)
    assert all("center3" not in row["sites"] for row in run.read_rounds())
    assert any(
        note.startswith("center3: claims training patients that it did not announce") for note in notes
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: np.full_like(weights, np.nan),
        lambda weights: np.full_like(weights, np.inf),
    ],
    ids=["nan", "infinity"],
)
def test_a_model_for_comparison_that_is_none_reaches_no_other_site(
    tmp_path: Path, change: Callable[[FlatArray], FlatArray]
) -> None:
    """A site's own model is sent to the others to be judged: one with NaN is named, and not sent."""
    _, notes, document = _run(tmp_path, _with(LocalReport, change))
    assert "center3" not in document["local_only"]
    assert not any(note.endswith("center3; it is left out") for note in notes)  # nobody was asked about it
    assert any(note.startswith("center3: weights are not finite") for note in notes)


def test_weights_that_could_not_be_sent_on_are_refused(tmp_path: Path) -> None:
    """Finite at its site and beyond float16 in the average: named, where no ratio bounds an update."""

    def lie(report: Report, weights: WireArray | None) -> tuple[Report, WireArray | None]:
        if not isinstance(report, RoundReport) or weights is None:
            return report, weights
        base = np.zeros(sum(spec.size for spec in SPECS), dtype=np.float32)
        update = encode_update(base + 1e30, base=base, specs=SPECS, transport="int8")
        return report, update.wire

    run, notes, _ = _run(tmp_path, lie, transport="int8", max_update_ratio=None)
    assert [row["sites"] for row in run.read_rounds()] == [["center1", "center2"]] * 2
    assert len([note for note in notes if note.startswith("center3: its weights are larger")]) == 2


def test_a_site_that_forgets_the_run_for_ever_is_left_out(tmp_path: Path) -> None:
    """Told the plan again five times for a question, not until the round's time is up; the others go on."""

    def lie(report: Report, weights: FlatArray | None) -> tuple[Report, FlatArray | None]:
        return (Unprepared(), None) if isinstance(report, RoundReport) else (report, weights)

    run, notes, document = _run(tmp_path, lie)
    assert [row["sites"] for row in run.read_rounds()] == [["center1", "center2"]] * 2
    assert set(document["sites"]) == {"center1", "center2", "center3"}
    # Two rounds and the last look, each once.
    assert len([note for note in notes if note.startswith("center3 forgets the run")]) == 3
