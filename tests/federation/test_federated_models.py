"""Federations of other models than the demo's: unfrozen backbones, naive models, schedules, early stopping."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stic_core.config import FederationConfig
from stic_core.protocol.messages import TrainRound
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from support.federation_kit import InProcessSites, Recorder, participant
from support.waiting import PATIENCE_S


def _run(tmp_path: Path, *, model: dict, rounds: int = 2, training: dict | None = None) -> tuple:
    """A whole run of two sites with few patients."""
    federation = FederationConfig.model_validate(
        {
            "model": {"backbone": "tiny"} | model,
            "rounds": rounds,
            "training": {"views": 1, "batch_size": 4, "local_epochs": 1} | (training or {}),
            "runs": tmp_path / "runs",
            "local_only": False,
        }
    )
    sites = InProcessSites(
        {
            name: participant(
                tmp_path / name, site=name, seed=number, counts={"train": 6, "val": 5, "test": 10}
            )
            for number, name in enumerate(("center1", "center2"))
        }
    )
    weights = tmp_path / "center1" / "tiny.safetensors"
    federation = federation.model_copy(update={"backbone_weights": {"tiny": weights}})
    proposal = training_of(federation, sites=sites.public_keys)
    plan = proposal.plan
    run, recorder = RunFolder.begin(federation, plan), Recorder()
    limits = RunLimits(min_sites=2, join_timeout_s=PATIENCE_S, round_timeout_s=PATIENCE_S)
    execute(plan, proposal.weights, run=run, sites=sites, limits=limits, observer=recorder)
    return run, sites, recorder


@pytest.mark.parametrize(
    "model",
    [
        {"trainable_blocks": 1},
        {"trainable_blocks": "all", "pretrained": False},
        {"trainable_blocks": "all", "batch_norm": "local"},
        {"architecture": "naive-rgb", "trainable_blocks": 1, "batch_norm": "frozen"},
        {"architecture": "naive-joint"},
    ],
    ids=["last-block", "from-scratch", "own-statistics", "naive-rgb", "naive-joint"],
)
def test_any_model_goes_through_a_run(tmp_path: Path, model: dict) -> None:
    """Both sites accept, train and are evaluated; the model that is left is finite."""
    run, _, recorder = _run(tmp_path, model=model)
    rows = run.read_rounds()
    assert [row["sites"] for row in rows] == [["center1", "center2"]] * 2
    assert run.read_record()["status"] == "complete"
    from stic_core.models.saved import read_model

    assert np.isfinite(read_model(run.path / "model").weights).all()
    assert not any("refused" in note or "excluded" in note for note in recorder.notes)


def test_the_server_says_the_rate_of_each_round(tmp_path: Path) -> None:
    """Cosine over four rounds, the same at both sites, and none with the last look."""
    _, sites, _ = _run(tmp_path, model={}, rounds=4, training={"schedule": "cosine"})
    rounds = [question for question in sites.asked if isinstance(question, TrainRound)]
    rates = {question.round: question.learning_rate for question in rounds}
    assert rates[1] == pytest.approx(1e-3)
    assert rates[3] == pytest.approx(0.5e-3)
    assert rates[5] is None


def test_a_run_stops_early(tmp_path: Path) -> None:
    """Steps too large to help for long: it stops long before its 30 rounds, and is evaluated."""
    run, _, recorder = _run(
        tmp_path, model={}, rounds=30, training={"early_stopping": 2, "learning_rate": 0.005}
    )
    assert len(run.read_rounds()) < 30
    assert any("stopped early after round" in note for note in recorder.notes)
    assert run.read_record()["status"] == "complete"
