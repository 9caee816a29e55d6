"""`stic-server evaluate`: a saved model on every site's held-out patients, and nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stic_client.participation.final_models import FinalModels
from stic_core.config import FederationConfig
from stic_core.errors import UsageError
from stic_core.evaluation.run_facts import origin_of
from stic_core.models.saved import read_model
from stic_core.protocol.messages import TrainLocal, TrainRound
from stic_server.federation.plan import Proposal, evaluation_of, propose, training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from stic_server.report import write_report
from stic_server.report.model_card import write_model_card
from stic_server.report.taking_part import origin
from support.federation_kit import (
    InProcessSites,
    Recorder,
    participant,
    write_small_model,
    write_tiny_weights,
)
from support.waiting import PATIENCE_S

LIMITS = RunLimits(min_sites=2, join_timeout_s=PATIENCE_S, round_timeout_s=PATIENCE_S)


def _federation(tmp_path: Path, **changes: object) -> FederationConfig:
    return FederationConfig.model_validate(
        {
            "model": {"backbone": "tiny"},
            "rounds": 2,
            "training": {"views": 1, "batch_size": 4},
            "runs": tmp_path / "runs",
            **changes,
        }
    )


def _run(federation: FederationConfig, proposal: Proposal, sites: InProcessSites) -> RunFolder:
    run = RunFolder.begin(federation, proposal.plan, origin=proposal.origin)
    execute(proposal.plan, proposal.weights, run=run, sites=sites, limits=LIMITS, observer=Recorder())
    return run


def test_a_saved_model_is_evaluated_as_the_run_evaluated_it(tmp_path: Path) -> None:
    """The same figures to the last digit, nothing trained, and a report and a model card of its own."""
    names = ("center1", "center2")
    sites = InProcessSites(
        {name: participant(tmp_path / name, site=name, seed=int(name[-1])) for name in names}
    )
    federation = _federation(tmp_path)
    trained = _run(federation, training_of(federation, sites=sites.public_keys), sites)
    sites.asked.clear()
    # Another model in the configuration: what counts is the one that is evaluated.
    proposal = propose(federation, evaluate=trained.path / "model", sites=sites.public_keys)
    again = _run(_federation(tmp_path, seed=9, rounds=7), proposal, sites)
    assert not [question for question in sites.asked if isinstance(question, TrainRound | TrainLocal)]
    before, after = trained.read_evaluation(), again.read_evaluation()
    assert after["model_digest"] == before["model_digest"]
    assert after["sites"] == before["sites"]
    assert after["pooled"] == before["pooled"]
    assert after["local_only"] == {}
    assert again.read_record()["evaluates"] == before["model_digest"]
    page, card = write_report(again.path).read_text(), write_model_card(again.path).read_text()
    assert "center1 and center2 evaluated one model on 24 held-out patients. Nothing was trained" in page
    by = f"The model was trained in run {trained.run_id} by center1 and center2 over 2 rounds"
    assert by in page
    assert by in card
    assert "trained one model" not in page
    at_site = FinalModels(sites.participants["center1"].config.models)
    assert at_site.run_of(read_model(again.path / "model").description.digest) == trained.run_id
    assert read_model(at_site.path(again.run_id)).description.run_id == ""
    assert f"Trained by run `{again.run_id}`" not in card
    description = json.loads((again.path / "model" / "model.json").read_text())
    assert (description["run_id"], description["evaluated_in"]) == (trained.run_id, again.run_id)
    # Evaluated again from the folder of its evaluation, it is still the model of the run that trained it.
    third = propose(_federation(tmp_path), evaluate=again.path / "model")
    assert third.origin is not None
    assert (third.origin.run_id, third.origin.sites) == (trained.run_id, ("center1", "center2"))


def test_a_model_that_says_nothing_of_its_training(tmp_path: Path) -> None:
    """Copied without its run, imported, or of no known origin: each is said as it is."""
    backbone = write_tiny_weights(tmp_path / "tiny.safetensors")
    for name, facts, said in (
        (
            "copied",
            {"run_id": "stic-1", "best_round": 3},
            "trained in run stic-1; it is the model of round 3.",
        ),
        (
            "imported",
            {"source": "imported from Keras"},
            "The model was imported from Keras, and trained elsewhere.",
        ),
        ("bare", {}, "The model's folder does not say who trained it."),
    ):
        folder = write_small_model(tmp_path / name, backbone=backbone, **facts)
        assert said in origin(origin_of(folder))


def test_a_model_of_an_unknown_task_is_refused(tmp_path: Path) -> None:
    """The task's labels are not in the model's folder: the configuration has to say them."""
    federation = _federation(tmp_path)
    proposal = training_of(federation)
    run = RunFolder.begin(federation, proposal.plan)
    run.write_model(proposal.weights, proposal.plan)
    description = json.loads((run.path / "model" / "model.json").read_text())
    (run.path / "model" / "model.json").write_text(json.dumps(description | {"task": "grade"}))
    with pytest.raises(UsageError, match="the model's task is not known here; got grade"):
        evaluation_of(federation, read_model(run.path / "model"))
