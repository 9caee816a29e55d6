"""Runs with secure aggregation, with participants in this process: the same model, and nothing of one site."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from stic_core.config import FederationConfig
from stic_core.protocol.messages import Instruction
from stic_core.protocol.compression import WireArray
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import Exchange, RunLimits
from stic_core.models.saved import read_model
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
    session, plain = run_of(federation(tmp_path / "plain", rounds=1, secure_aggregation=False), sites)
    session()
    masked, expected = (read_model(one.path / "model").weights.astype(np.float64) for one in (run, plain))
    assert np.linalg.norm(masked - expected) < 1e-6 * np.linalg.norm(expected)
