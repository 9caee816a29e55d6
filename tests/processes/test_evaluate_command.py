"""`stic-server evaluate` over the federation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stic_core.config import FederationConfig
from stic_server.federation.plan import training_of
from stic_server.federation.run_folder import RunFolder
from support.federation_kit import make_home

pytestmark = pytest.mark.processes


def test_a_model_is_evaluated_over_the_federation(tmp_path: Path) -> None:
    """Real processes: a model that the server has, two sites, a table and exit code 0."""
    home = make_home(tmp_path, rounds=1)
    federation = FederationConfig.model_validate({"model": {"backbone": "tiny"}, "runs": tmp_path / "made"})
    proposal = training_of(federation)
    made = RunFolder.begin(federation, proposal.plan)
    made.write_model(proposal.weights, proposal.plan)
    with (
        home.running("stic-client", "--site", "center1", "--once"),
        home.running("stic-client", "--site", "center2", "--once"),
    ):
        result = home.run("stic-server", "evaluate", "--model", str(made.path / "model"))
    assert result.returncode == 0, result.stderr
    assert "federated" in result.stdout
    (run,) = (tmp_path / "runs").iterdir()
    assert not (run / "rounds.jsonl").exists()
    assert json.loads((run / "evaluation.json").read_text())["sites"].keys() == {"center1", "center2"}
