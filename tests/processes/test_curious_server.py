"""A coordinator's program that is not ours asks a hospital's real client, over TLS, under a plan that was approved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp import Grid

from stic_core.config import FederationConfig
from stic_core.config_files import load
from stic_core.data.dataset import load_dataset
from stic_core.privacy.looks import HeldOutLooks
from stic_core.protocol.messages import (
    Describe,
    EvaluateHeldOut,
    Report,
    SiteDescription,
    TrainLocal,
    TrainRound,
)
from stic_core.tensors.flat import FlatArray
from stic_server.admission.registry import public_keys
from stic_server.federation.plan import training_of
from stic_server.federation.sites import RunObserver
from stic_server.flower_link import FleetServer, Listen
from stic_server.flower_sites import FlowerSites
from support.federation_kit import make_home, write_site_dataset
from support.tracker import Tracker
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.processes

SITE = "center1"
QUESTIONS = 60


def test_a_tracker_gets_refusals_after_the_budget(tmp_path: Path) -> None:
    """Sixty crafted models under an approved plan: as many looks as the plan says, the rest refused; audit counts."""
    home = make_home(tmp_path, sites=(SITE,), rounds=3, intervals=0.1)
    prepared = home.site(SITE) / "prepared"
    write_site_dataset(prepared, seed=3, counts={"train": 6, "val": 12, "test": 40})
    home.edit(home.site(SITE) / "site.yaml", policy__plans="approved")
    folder = home.path / "server"
    proposal = training_of(load(home.federation, FederationConfig), sites=public_keys(folder / "sites"))
    plan = tmp_path / "plan.json"
    plan.write_text(proposal.plan.model_dump_json())
    approved = home.run("stic-client", "--site", SITE, "approve", str(plan), "--yes")
    assert approved.returncode == 0, approved.stderr
    assert f"at most {proposal.plan.held_out_models} models" in approved.stdout
    server = FleetServer(
        Listen("127.0.0.1", home.port, folder / "server.crt", folder / "server.key", folder / "ca.crt"),
        interval_scale=home.intervals,
    )
    server.watch(folder / "sites")
    server.start()

    def attack(grid: Grid) -> Tracker:
        sites = FlowerSites(grid, expected=[SITE], grace_s=1.0, observer=RunObserver())
        sites.wait_for(at_least=1, timeout=PATIENCE_S)
        described: set[str] = set()

        def say(
            question: Describe | TrainRound | TrainLocal | EvaluateHeldOut, weights: FlatArray | None
        ) -> Report:
            return sites.ask({SITE: question}, weights=weights, timeout=PATIENCE_S).answers[SITE].report

        def ask(question: TrainRound | TrainLocal | EvaluateHeldOut, weights: FlatArray | None) -> Report:
            if question.run_id not in described:
                described.add(question.run_id)
                report = say(Describe(run_id=question.run_id, plan=proposal.plan), None)
                assert isinstance(report, SiteDescription)
            return say(question, weights)

        dataset = load_dataset(prepared)
        known = np.asarray(dataset.clinical)[dataset.indices("test")][:5]
        fingerprint = dataset.fingerprint_for(proposal.plan.task, "test")
        made = Tracker(proposal.plan, proposal.weights, fingerprint, ask, known)
        made.run(questions=QUESTIONS)
        return made

    try:
        with home.running("stic-client", "--site", SITE, output=tmp_path / "client.log"):
            tracker = server.execute(attack)
    finally:
        server.stop()
    assert tracker.asked == QUESTIONS
    looks = list(HeldOutLooks(home.site(SITE) / "held-out"))
    assert 0 < len(looks) <= proposal.plan.held_out_models
    assert len({answer.report.model_dump_json() for answer in tracker.held_out}) <= len(looks)
    assert tracker.refused >= QUESTIONS - len(tracker.held_out) - len(tracker.rounds)
    audit = home.run("stic-client", "--site", SITE, "audit")
    assert audit.returncode == 0, audit.stderr
    assert f"{len(looks)} models were looked at on 40 patients, 40 are allowed in all runs" in audit.stdout
