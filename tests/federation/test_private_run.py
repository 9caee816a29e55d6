"""Whole runs with patient-level noise in training: what is charged, what repeats, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stic_client.participation.participant import Participant
from stic_core.config import FederationConfig, PolicyConfig
from stic_core.privacy.accounting import epsilon_of
from stic_core.privacy.training_ledger import Account, TrainingLedger
from stic_core.protocol.messages import Describe, Failure, Refusal, RoundReport, RunPlan, TrainRound
from stic_core.tensors.flat import FlatArray, digest
from stic_server.federation.plan import Proposal, training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from support.federation_kit import InProcessSites, Recorder, participant
from support.waiting import PATIENCE_S

COUNTS = {"train": 12, "val": 6, "test": 12}
PRIVACY = {"epsilon": 5.0, "delta": 1e-3}
NOISE = {"noise_multiplier": 1.5, "delta": 1e-3}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites' data, with their features once the first run has computed them."""
    folder = tmp_path_factory.mktemp("sites")
    for number, site in enumerate(("center1", "center2")):
        participant(folder / site, site=site, seed=number, counts=COUNTS)
    return folder


def _site(prepared: Path, folder: Path, site: str = "center1", **policy: object) -> Participant:
    """A site with a log and ledgers of its own, as a process that was just started has it."""
    from support.federation_kit import site_config

    config = site_config(prepared / site, site=site)
    own = {
        name: folder / site / name for name in ("models", "plans", "between_rounds", "held_out", "privacy")
    }
    changes: dict[str, Any] = {**own, "audit": folder / site / "audit.jsonl"}
    changes["policy"] = PolicyConfig.model_validate({"plans": "any", **policy})
    return Participant(config.model_copy(update=changes), Recorder())


def _proposal(folder: Path, *, privacy: Mapping[str, object] | None = NOISE, **changes: object) -> Proposal:
    training = {"views": 2, "batch_size": 4, "local_epochs": 1, "privacy": privacy}
    federation = {"model": {"backbone": "tiny"}, "rounds": 2, "training": training, "local_only": False}
    return training_of(FederationConfig.model_validate({**federation, "runs": folder / "runs", **changes}))


def _accounts(site: Participant) -> list[Account]:
    return list(TrainingLedger(site.config.privacy))


def _round(
    plan: RunPlan, weights: FlatArray, *, number: int = 1, run: str = "run", **changes: Any
) -> TrainRound:
    return TrainRound(
        run_id=run,
        plan_digest=plan.digest,
        round=number,
        weights_digest=digest(weights, plan.tensors),
        **changes,
    )


def _joined(site: Participant, plan: RunPlan, *, run: str = "run") -> Participant:
    report, _ = site.answer(Describe(run_id=run, plan=plan), None)
    while report.kind == "preparing":
        report, _ = site.answer(Describe(run_id=run, plan=plan), None)
    assert report.kind == "site-description"
    return site


def _trained(site: Participant, question: TrainRound, weights: FlatArray) -> FlatArray:
    report, wire = site.answer(question, weights)
    assert isinstance(report, RoundReport)
    assert wire is not None
    return np.asarray(wire)


def _refusal(site: Participant, plan: RunPlan) -> str:
    report, _ = site.answer(Describe(run_id="run", plan=plan), None)
    while report.kind == "preparing":
        report, _ = site.answer(Describe(run_id="run", plan=plan), None)
    assert isinstance(report, Refusal)
    return report.reason


@pytest.mark.parametrize("transport", ["float32", "int8"])
def test_a_run_is_charged_as_the_plan_says(prepared: Path, tmp_path: Path, transport: str) -> None:
    """All rounds and both own models are trained with noise; each site's ledger ends at the plan's epsilon."""
    federation = FederationConfig.model_validate(
        {
            "model": {"backbone": "tiny"},
            "rounds": 2,
            "training": {"views": 2, "batch_size": 4, "local_epochs": 1, "privacy": PRIVACY},
            "transport": transport,
            "runs": tmp_path / "runs",
        }
    )
    sites = InProcessSites({name: _site(prepared, tmp_path, name) for name in ("center1", "center2")})
    proposal = training_of(federation, sites=sites.public_keys)
    run = RunFolder.begin(federation, proposal.plan)
    limits = RunLimits(min_sites=2, join_timeout_s=PATIENCE_S, round_timeout_s=PATIENCE_S)
    document = execute(
        proposal.plan, proposal.weights, run=run, sites=sites, limits=limits, observer=Recorder()
    )
    assert run.read_record()["status"] == "complete"
    assert set(document["local_only"]) == {"center1", "center2"}
    for site in sites.participants.values():
        (account,) = _accounts(site)
        assert account.sample_rate == 4 / 12
        assert [(one.what, one.steps) for one in account.charges] == [
            ("round 1", 3),
            ("round 2", 3),
            ("own model", 6),
        ]
        assert account.taken is not None
        assert 4.99 < epsilon_of([account.taken], delta=1e-3) <= 5.0
        (exact,) = [row["train_loss"] for row in run.read_rounds() if row["round"] == 1]
        assert set(exact.values()) == {None}  # a training loss has no noise


def test_the_same_question_has_the_same_answer_and_one_charge(prepared: Path, tmp_path: Path) -> None:
    """After a kill, in another run and in another process: bits are equal, and nothing is charged again."""
    proposal = _proposal(tmp_path)
    plan, weights = proposal.plan, proposal.weights
    first = _trained(_joined(_site(prepared, tmp_path), plan), _round(plan, weights), weights)
    later = _joined(_site(prepared, tmp_path), plan, run="again")
    second = _trained(later, _round(plan, weights, run="again"), weights)
    np.testing.assert_array_equal(first, second)
    (account,) = _accounts(later)
    assert len(account.charges) == 1
    assert account.runs == ("run", "again")


@pytest.mark.parametrize("change", ["weights", "learning_rate", "round"])
def test_another_question_has_other_noise_and_is_charged(prepared: Path, tmp_path: Path, change: str) -> None:
    """A server that asks a round again with something changed cannot subtract the noise."""
    proposal = _proposal(tmp_path, privacy={"noise_multiplier": 100.0, "delta": 1e-3}, rounds=5)
    plan, weights = proposal.plan, proposal.weights
    site = _joined(_site(prepared, tmp_path), plan)
    first = _trained(site, _round(plan, weights, number=2), weights)
    other = weights + np.float32(1e-6) if change == "weights" else weights
    asked: dict[str, Any] = {"number": 3} if change == "round" else {"number": 2}
    if change == "learning_rate":
        asked["learning_rate"] = plan.training.learning_rate * (1 - 1e-6)
    second = _trained(site, _round(plan, other, **asked), other)
    # With so much noise Adam's steps go by its signs: the same noise would give nearly the same steps.
    one, two = np.sign(first - weights), np.sign(second - other)
    assert abs(np.mean(one * two)) < 0.05
    assert len(_accounts(site)[0].charges) == 2


def test_a_kill_in_training_leaves_the_charge(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The charge is on the disk before the first step; the answer that comes afterwards is no second one."""
    from stic_core.training import private_gradients

    proposal = _proposal(tmp_path)
    plan, weights = proposal.plan, proposal.weights
    undisturbed = _trained(_joined(_site(prepared, tmp_path / "other"), plan), _round(plan, weights), weights)
    del undisturbed  # another site's secret: other bits
    site = _joined(_site(prepared, tmp_path), plan)
    seen: list[int] = []

    def killed(*_: object, **__: object) -> None:
        seen.append(len(_accounts(site)[0].charges))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(private_gradients, "clipped_sum", killed)
        with pytest.raises(KeyboardInterrupt):
            site.answer(_round(plan, weights), weights)
    assert seen == [1]
    again = _joined(_site(prepared, tmp_path), plan)
    first = _trained(again, _round(plan, weights), weights)
    np.testing.assert_array_equal(first, _trained(again, _round(plan, weights), weights))
    (account,) = _accounts(again)
    assert len(account.charges) == 1
    assert account.charges[0].answer == digest(first, plan.tensors)


def test_an_answer_that_does_not_repeat_does_not_leave(prepared: Path, tmp_path: Path) -> None:
    """Where the same noise gives other bits (another machine), the answer gets noise of its own, and is charged."""
    proposal = _proposal(tmp_path, privacy={"noise_multiplier": 20.0, "delta": 1e-3}, rounds=3)
    plan, weights = proposal.plan, proposal.weights
    site = _joined(_site(prepared, tmp_path), plan)
    first = _trained(site, _round(plan, weights), weights)
    ledger = TrainingLedger(site.config.privacy)
    (account,) = ledger
    changed = account.charges[0].model_copy(update={"answer": "0" * 64})
    ledger.keep(account.model_copy(update={"charges": (changed,)}))
    again = _joined(_site(prepared, tmp_path), plan)
    second = _trained(again, _round(plan, weights), weights)
    assert not np.array_equal(first, second)
    assert [charge.attempt for charge in _accounts(again)[0].charges] == [0, 1]
    np.testing.assert_array_equal(second, _trained(again, _round(plan, weights), weights))
    assert len(_accounts(again)[0].charges) == 2


def test_a_plan_costs_no_more_than_it_says(prepared: Path, tmp_path: Path) -> None:
    """Rounds that are asked for again with other weights eat up those that are left; then the site trains no more."""
    proposal = _proposal(tmp_path)  # two rounds
    plan, weights = proposal.plan, proposal.weights
    site = _joined(_site(prepared, tmp_path), plan)
    for step in range(2):
        other = weights + np.float32(1e-6 * step)
        _trained(site, _round(plan, other, number=2), other)
    report, wire = site.answer(_round(plan, weights), weights)
    assert isinstance(report, Refusal)
    assert wire is None
    assert "further training under this plan" in report.reason
    assert len(_accounts(site)[0].charges) == 2


def test_a_budget_counts_over_plans(prepared: Path, tmp_path: Path) -> None:
    """A second plan is refused with what is left, and a smaller one that fits is taken."""
    budget = {"epsilon": 6.0, "delta": 1e-3}
    proposal = _proposal(tmp_path, privacy=PRIVACY)
    site = _joined(_site(prepared, tmp_path, privacy_budget=budget), proposal.plan)
    weights = proposal.weights
    for number in (1, 2):
        _trained(site, _round(proposal.plan, weights, number=number), weights)
    assert "left 1" in _refusal(site, _proposal(tmp_path, seed=1, privacy=PRIVACY).plan)
    small = _proposal(tmp_path, seed=1, privacy={"noise_multiplier": 20.0, "delta": 1e-3})
    assert _joined(site, small.plan)


def test_a_budget_refuses_training_without_noise(prepared: Path, tmp_path: Path) -> None:
    """Nothing bounds what such a training costs, so no budget allows it."""
    plan = _proposal(tmp_path, privacy=None).plan
    for policy in ({"privacy_budget": {"epsilon": 100.0}}, {"max_epsilon": 100.0}):
        reason = _refusal(_site(prepared, tmp_path, **policy), plan)
        assert "training.privacy" in reason
        assert next(iter(policy)) in reason


def test_bounds_of_one_plan(prepared: Path, tmp_path: Path) -> None:
    """A plan above policy.max_epsilon is refused, also where it gives the noise; and a backbone that trains."""
    site = _site(prepared, tmp_path, max_epsilon=2.0)
    noisy = _proposal(tmp_path, privacy={"noise_multiplier": 0.5, "delta": 1e-3}).plan
    assert "policy.max_epsilon" in _refusal(site, noisy)
    model = noisy.model.model_copy(update={"trainable_blocks": 1})
    plan = noisy.model_copy(update={"model": model})
    assert "trainable_blocks" in _refusal(_site(prepared, tmp_path), plan)


def test_training_without_noise_is_noted_and_unchanged(prepared: Path, tmp_path: Path) -> None:
    """The ledger names it once; a backbone that trains, and weights by class, do not go with noise."""
    proposal = _proposal(tmp_path, privacy=None)
    site = _joined(_site(prepared, tmp_path), proposal.plan)
    _trained(site, _round(proposal.plan, proposal.weights), proposal.weights)
    _trained(site, _round(proposal.plan, proposal.weights, number=2), proposal.weights)
    (account,) = _accounts(site)
    assert account.noise_multiplier is None
    assert account.taken is None
    assert not (site.config.privacy / "secret").exists()


def test_a_damaged_ledger_stops_training(prepared: Path, tmp_path: Path) -> None:
    """A site that does not know what it spent spends nothing."""
    proposal = _proposal(tmp_path)
    site = _joined(_site(prepared, tmp_path), proposal.plan)
    _trained(site, _round(proposal.plan, proposal.weights), proposal.weights)
    (path,) = site.config.privacy.glob("*.json")
    path.write_text("{")
    report, wire = site.answer(_round(proposal.plan, proposal.weights, number=2), proposal.weights)
    assert isinstance(report, Failure)
    assert report.code == "DataError"
    assert wire is None
