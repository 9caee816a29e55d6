"""Runs with secure aggregation, with participants in this process: the same model, and nothing of one site."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from stic_core.config import FederationConfig
from stic_core.errors import UsageError
from stic_core.models.saved import read_model
from stic_core.protocol.messages import Refusal, TrainLocal, TrainRound
from stic_server.federation import plan
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from stic_server.report import write_report
from stic_server.simulation import SimulationConfig
from stic_server.strategies.fed_avg import FED_AVG
from support.federation_kit import InProcessSites, Recorder, participant
from support.waiting import PATIENCE_S

NAMES = ("center1", "center2", "center3")


def federation(tmp_path: Path, **changes: object) -> FederationConfig:
    """Three rounds of a small federation with secure aggregation."""
    return FederationConfig.model_validate(
        {
            "name": "test",
            "model": {"backbone": "tiny"},
            "rounds": 3,
            "training": {"views": 1, "batch_size": 4, "local_epochs": 1},
            "runs": tmp_path / "runs",
            "local_only": False,
            "secure_aggregation": True,
            **changes,
        }
    )


@pytest.fixture
def sites(tmp_path: Path) -> InProcessSites:
    """Three sites with random patients."""
    counts = (
        {"train": 6, "val": 6, "test": 12},
        {"train": 9, "val": 6, "test": 12},
        {"train": 12, "val": 6, "test": 12},
    )
    return InProcessSites(
        {
            name: participant(tmp_path / name, site=name, seed=number, counts=counts[number])
            for number, name in enumerate(NAMES)
        }
    )


def run_of(
    config: FederationConfig, sites: InProcessSites, recorder: Recorder | None = None
) -> tuple[Callable[[], dict], RunFolder]:
    """A run that is ready to be executed, and its folder."""
    proposal = training_of(config, sites=sites.public_keys)
    run = RunFolder.begin(config, proposal.plan)
    limits = RunLimits(min_sites=2, join_timeout_s=PATIENCE_S, round_timeout_s=PATIENCE_S)
    session = partial(
        execute,
        proposal.plan,
        proposal.weights,
        run=run,
        sites=sites,
        limits=limits,
        observer=recorder or Recorder(),
    )
    return session, run


def test_the_model_is_that_of_a_run_without_masks(tmp_path, sites):
    """Secure aggregation gives FedAvg's model to a millionth of its norm, after a round."""
    session, run = run_of(federation(tmp_path, rounds=1), sites)
    session()
    write_report(run.path)  # of a run whose sites have no update norms
    session, plain = run_of(federation(tmp_path / "plain", rounds=1, secure_aggregation=False), sites)
    session()
    masked, expected = (read_model(one.path / "model").weights.astype(np.float64) for one in (run, plain))
    assert np.linalg.norm(masked - expected) < 1e-6 * np.linalg.norm(expected)


def test_an_algorithm_that_needs_each_update_is_refused(tmp_path, monkeypatch):
    """The plan cannot be made, and says what to choose."""
    monkeypatch.setattr(plan, "algorithm_of", lambda _: replace(FED_AVG, from_mean=None))
    with pytest.raises(UsageError, match="needs each site's own update"):
        training_of(federation(tmp_path))


def test_a_simulation_has_no_masks(tmp_path):
    """It says so instead of leaving them out."""
    config = federation(tmp_path, image={"crop_mm": 160})
    with pytest.raises(UsageError, match="secure_aggregation in a simulation"):
        SimulationConfig(config, seeds=(0,))


def test_the_hash_of_a_plan_without_masks_is_what_it_was(tmp_path):
    """A plan that was approved before there was secure aggregation stays approved; with it, it is another plan."""
    without = training_of(federation(tmp_path, secure_aggregation=False)).plan
    content = without.model_dump(mode="json", exclude={"secure_aggregation", "algorithm", "evaluation"})
    content["training"].pop("privacy", None)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert without.digest == hashlib.sha256(text.encode()).hexdigest()
    assert training_of(federation(tmp_path)).plan.digest != without.digest


def test_a_masked_plan_never_gives_a_bare_model(tmp_path, sites):
    """A site that accepted the plan refuses to train without masks, and to train a model of its own."""
    session, run = run_of(federation(tmp_path, rounds=1), sites)
    session()
    question = next(one for one in sites.asked if isinstance(one, TrainRound) and one.train)
    proposal = training_of(federation(tmp_path, rounds=1), sites=sites.public_keys)
    bare = question.model_copy(update={"masking": None})
    local = TrainLocal(
        run_id=run.run_id, plan_digest=proposal.plan.digest, weights_digest=question.weights_digest
    )
    for asked in (bare, local):
        report, wire = sites.participants["center1"].answer(asked, proposal.weights)
        assert isinstance(report, Refusal)
        assert wire is None
