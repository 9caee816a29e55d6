"""The site decides: plans are approved once by a person, bounded by policy, and told apart in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stic_client.participation.approvals import PlanStore, check_beforehand, read_plan
from stic_client.participation.participant import Participant
from stic_client.participation.policy import check_plan
from stic_core.config import FederationConfig, PolicyConfig
from stic_core.errors import PlanRefusedError, SticError, UsageError
from stic_core.protocol.messages import (
    Describe,
    Failure,
    Refusal,
    RunPlan,
    SiteDescription,
    TrainLocal,
    TrainRound,
)
from stic_core.protocol.plan_summary import described, differences
from stic_core.tensors.flat import digest
from stic_server.federation.participants import Participants
from stic_server.federation.plan import training_of
from stic_server.federation.sites import RunLimits
from support.federation_kit import InProcessSites, Recorder, participant, write_site_dataset
from support.waiting import PATIENCE_S


def _federation(**changes: object) -> FederationConfig:
    return FederationConfig.model_validate(
        {"model": {"backbone": "tiny"}, "rounds": 3, "training": {"views": 1, "batch_size": 4}, **changes}
    )


@pytest.fixture(scope="module")
def plan() -> RunPlan:
    """Of a small federation that begins with zeros."""
    made = training_of(_federation()).plan
    zeros = np.zeros(sum(spec.size for spec in made.tensors), dtype=np.float32)
    return made.model_copy(update={"initial": digest(zeros, made.tensors), "warm_start": True})


def _other(**changes: object) -> RunPlan:
    made = training_of(_federation(**changes)).plan
    zeros = np.zeros(sum(spec.size for spec in made.tensors), dtype=np.float32)
    return made.model_copy(update={"initial": digest(zeros, made.tensors), "warm_start": True})


# ---- the hash and the words --------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 4},
        {"seed": 1},
        {"transport": "int8"},
        {"local_only": False},
        {"image": {"crop_mm": 100}},
        {"task": "hcc-icc"},
        {"training": {"views": 1, "batch_size": 4, "learning_rate": 0.01}},
        {"model": {"backbone": "tiny", "normalise": "imagenet"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_changes_the_computation_changes_the_hash(plan: RunPlan, changes: dict) -> None:
    """Another hash, and a line that says what differs."""
    other = _other(**changes)
    assert other.digest != plan.digest
    lines = differences(plan, other)
    assert any(line.startswith(next(iter(changes))) for line in lines)


def test_waiting_times_do_not_change_the_hash(plan: RunPlan) -> None:
    """How long the server waits and where it listens is not what a site agrees to."""
    assert _other(join_timeout_s=5, listen={"port": 1234}).digest == plan.digest


def test_a_difference_reads_as_old_and_new(plan: RunPlan) -> None:
    """One line a changed value, by its path in the configuration."""
    other = _other(training={"views": 1, "batch_size": 4, "learning_rate": 0.5})
    assert differences(plan, other) == ["training.learning_rate: 0.001 -> 0.5"]


def test_a_plan_is_described_with_what_leaves(plan: RunPlan) -> None:
    """The number of values is that of the tensors."""
    facts = dict(described(plan))
    assert f"{sum(spec.size for spec in plan.tensors):,} values" in facts["weights sent"]
    assert facts["plan"] == plan.digest


# ---- the store ---------------------------------------------------------------------------


def test_a_plan_waits_until_it_is_approved(tmp_path: Path, plan: RunPlan) -> None:
    """Held once, found by its hash, approved, and withdrawn again."""
    store = PlanStore(tmp_path)
    assert store.hold(plan)
    assert not store.hold(plan)
    assert store.waiting() == [store.find(plan.digest[:8])] == [plan]
    store.approve(plan)
    assert store.is_approved(plan)
    assert store.waiting() == []
    store.withdraw(plan)
    assert not store.is_approved(plan)


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    """Usage errors that say what was expected."""
    (tmp_path / "plan.json").write_text('{"name": 3}')
    with pytest.raises(UsageError, match="not a plan of this version"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(UsageError, match="does not exist"):
        read_plan(tmp_path / "none.json")
    with pytest.raises(UsageError, match="hash prefix 'abc' matches 0 plans"):
        PlanStore(tmp_path).find("abc")


# ---- bounds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        ({"tasks": ["hcc-icc"]}, "task; got malignant"),
        ({"architectures": ["naive-rgb"]}, "model.architecture; got stic"),
        ({"backbones": ["vgg16"]}, "model.backbone; got tiny"),
        ({"max_rounds": 2}, "rounds; got 3; expected at most 2"),
        ({"max_local_steps": 5}, "training.local_steps; got 7"),
        ({"max_learning_rate": 1e-4}, "training.learning_rate; got 0.001"),
        ({"max_batch_size": 2}, "training.batch_size; got 4"),
    ],
)
def test_a_plan_beyond_a_bound_is_refused(policy: dict, named: str) -> None:
    """Each bound of the policy, with what was asked and what is allowed."""
    plan = _other(training={"views": 1, "batch_size": 4, "local_steps": 7})
    with pytest.raises(PlanRefusedError, match=named):
        check_plan(plan, PolicyConfig.model_validate(policy))


# ---- a site ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": "benign-malignant"}, "no BENIGN, no MALIGNANT"),
        ({"image": {"crop_mm": 100}}, "crop_mm: None"),
        ({"rounds": 1001}, "rounds"),
        ({"task": {"name": "hcc-icc", "classes": ["HCC", "META"]}}, "classes of task hcc-icc"),
    ],
)
def test_what_cannot_work_is_not_approved(tmp_path: Path, changes: dict, named: str) -> None:
    """Beyond the policy, no patients, other images: said before the run instead of in it."""
    config = participant(tmp_path / "center1", site="center1", seed=0).config
    tasks = (*config.policy.tasks, "liver")
    config = config.model_copy(update={"policy": config.policy.model_copy(update={"tasks": tasks})})
    with pytest.raises(SticError, match=named):
        check_beforehand(_other(**changes), config)


def test_an_approval_shows_whose_patients_it_is_about(tmp_path: Path, plan: RunPlan) -> None:
    """A task's patients, and how many are left out; a site that has prepared nothing yet may approve."""
    config = participant(tmp_path / "center1", site="center1", seed=0).config
    assert check_beforehand(plan, config).startswith("train 6 (HCC 2, ICC 2, META 2)")
    told = check_beforehand(_other(task="hcc-icc"), config)
    assert (
        told
        == "train 4 (HCC 2, ICC 2); val 4 (HCC 2, ICC 2); test 8 (HCC 4, ICC 4); 8 of other classes left out"
    )
    write_site_dataset(config.dataset.prepared, seed=1, counts={"train": 2, "val": 2, "test": 2})
    assert check_beforehand(plan, config).endswith("; none of META")
    (config.dataset.prepared / "dataset.json").unlink()
    assert "not prepared yet" in check_beforehand(plan, config)


def test_a_task_that_nobody_here_belongs_to_is_this_sites_failure(tmp_path: Path) -> None:
    """Also where the policy asks nobody: the reason stays here, its kind is answered."""
    seen = Recorder()
    site = participant(tmp_path / "center1", site="center1", seed=0)
    site.observer = seen
    report, _ = site.answer(Describe(run_id="r", plan=_other(task="benign-malignant")), None)
    assert isinstance(report, Failure)
    assert report.code == "DataError"
    assert any("no BENIGN, no MALIGNANT" in note for note in seen.notes)


def _careful(made: Participant, **policy: object) -> Participant:
    changed = made.config.policy.model_copy(update={"plans": "approved", **policy})
    made.config = made.config.model_copy(update={"policy": changed})
    return made


@pytest.fixture
def site(tmp_path: Path) -> Participant:
    """A site that asks a person."""
    return _careful(participant(tmp_path / "center1", site="center1", seed=0))


def test_a_site_takes_part_once_somebody_approved(tmp_path: Path, site: Participant, plan: RunPlan) -> None:
    """Pending, and nothing computed; after the approval a description."""
    asked = Describe(run_id="r", plan=plan)
    report, _ = site.answer(asked, None)
    assert isinstance(report, Refusal)
    assert report.pending
    assert not list((tmp_path / "center1" / "prepared").glob("features*"))
    PlanStore(site.config.plans).approve(plan)
    assert isinstance(site.answer(asked, None)[0], SiteDescription)


def test_a_hash_in_the_policy_is_an_approval(site: Participant, plan: RunPlan) -> None:
    """For those who keep site.yaml under version control."""
    careful = _careful(site, approved=(plan.digest,))
    assert isinstance(careful.answer(Describe(run_id="r", plan=plan), None)[0], SiteDescription)


def test_a_plan_that_changed_after_the_approval_is_not_taken(site: Participant, plan: RunPlan) -> None:
    """The refusal says what differs from what was approved."""
    PlanStore(site.config.plans).approve(plan)
    changed = _other(rounds=2)
    report, _ = site.answer(Describe(run_id="r", plan=changed), None)
    assert isinstance(report, Refusal)
    assert "rounds: 3 -> 2" in report.reason


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda q: q.model_copy(update={"learning_rate": 0.5}), "learning_rate of this round; got 0.5"),
        (lambda q: q.model_copy(update={"round": 9}), "round; got 9"),
        (lambda q: q.model_copy(update={"plan_digest": "0" * 64}), "plan; got 000000000000"),
    ],
)
def test_a_round_beyond_the_accepted_plan_is_refused(
    site: Participant, plan: RunPlan, spoil: Callable[[TrainRound], TrainRound], named: str
) -> None:
    """What was approved bounds every message of the run."""
    PlanStore(site.config.plans).approve(plan)
    site.answer(Describe(run_id="r", plan=plan), None)
    weights = np.zeros(sum(spec.size for spec in plan.tensors), dtype=np.float32)
    question = TrainRound(
        run_id="r", plan_digest=plan.digest, round=1, weights_digest=digest(weights, plan.tensors)
    )
    report, trained = site.answer(spoil(question), weights)
    assert isinstance(report, Refusal)
    assert report.reason.startswith(named)
    assert trained is None


def test_a_site_may_keep_its_own_model(site: Participant, plan: RunPlan) -> None:
    """`policy.local_only: false`: the model that was trained here alone does not leave."""
    careful = _careful(site, plans="any", local_only=False)
    careful.answer(Describe(run_id="r", plan=plan), None)
    weights = np.zeros(sum(spec.size for spec in plan.tensors), dtype=np.float32)
    question = TrainLocal(run_id="r", plan_digest=plan.digest, weights_digest=digest(weights, plan.tensors))
    report, trained = careful.answer(question, weights)
    assert isinstance(report, Refusal)
    assert trained is None


def test_first_weights_are_fresh_unless_the_plan_says_otherwise(site: Participant, plan: RunPlan) -> None:
    """Weights of the coordinator's making under a plan that calls them fresh: refused, in rounds and for the own model."""
    careful, claimed = _careful(site, plans="any"), plan.model_copy(update={"warm_start": False})
    careful.answer(Describe(run_id="r", plan=claimed), None)
    weights = np.zeros(sum(spec.size for spec in plan.tensors), dtype=np.float32)
    asked = {"run_id": "r", "plan_digest": claimed.digest, "weights_digest": digest(weights, plan.tensors)}
    for question in (TrainRound(**asked, round=1), TrainLocal(**asked)):
        report, trained = careful.answer(question, weights)
        assert isinstance(report, Refusal)
        assert "seed" in report.reason
        assert trained is None


def test_what_the_policy_does_not_release_is_suppressed(site: Participant, plan: RunPlan) -> None:
    """Only the training loss is listed: validation is kept back, and says so."""
    careful = _careful(site, plans="any", release=("training-loss",))
    careful.answer(Describe(run_id="r", plan=plan), None)
    weights = np.zeros(sum(spec.size for spec in plan.tensors), dtype=np.float32)
    question = TrainRound(
        run_id="r", plan_digest=plan.digest, round=1, weights_digest=digest(weights, plan.tensors)
    )
    report, _ = careful.answer(question, weights)
    assert report.train_loss is not None
    assert report.validation.correct.reason == "this site's policy releases no validation"


# ---- the server --------------------------------------------------------------------------


def _participants(plan: RunPlan, sites: InProcessSites, recorder: Recorder, **limits: object) -> Participants:
    made = RunLimits(
        **{
            "min_sites": 2,
            "join_timeout_s": PATIENCE_S,
            "round_timeout_s": PATIENCE_S,
            "ask_again_s": 0.01,
            **limits,
        }
    )
    return Participants(plan, run_id="r", sites=sites, limits=made, observer=recorder)


def test_the_server_asks_again_until_the_plan_is_approved(
    tmp_path: Path, site: Participant, plan: RunPlan
) -> None:
    """Said once, asked several times, and described as soon as somebody said yes."""
    second = participant(tmp_path / "center2", site="center2", seed=1)
    sites, recorder = InProcessSites({"center1": site, "center2": second}), Recorder()
    ask, calls = sites.ask, 0

    def approving(questions: dict, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            PlanStore(site.config.plans).approve(plan)
        return ask(questions, **kwargs)

    sites.ask = approving
    participants = _participants(plan, sites, recorder)
    participants.gather()
    assert list(participants.descriptions) == ["center1", "center2"]
    assert sum("is not approved at this site yet" in note for note in recorder.notes) == 1


def test_a_site_that_approves_late_joins_late(tmp_path: Path, site: Participant, plan: RunPlan) -> None:
    """The others begin without it where they are enough, and it joins before a round once somebody approved."""
    second = participant(tmp_path / "center2", site="center2", seed=1)
    sites, recorder = InProcessSites({"center1": site, "center2": second}), Recorder()
    participants = _participants(plan, sites, recorder, min_sites=1, grace_s=0.05)
    participants.gather()
    assert list(participants.descriptions) == ["center2"]
    assert any("the run begins without center1, which has to approve plan" in note for note in recorder.notes)
    PlanStore(site.config.plans).approve(plan)
    time.sleep(0.02)  # `ask_again_s`
    participants.admit_late_sites()
    assert list(participants.descriptions) == ["center1", "center2"]


def test_a_plan_of_another_version_is_not_in_the_way(tmp_path: Path, plan: RunPlan) -> None:
    """After an upgrade or a downgrade: plans that cannot be read are named, and others are approved as usual."""
    store = PlanStore(tmp_path)
    for folder in ("approved", "pending"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{'a' * 64}.json").write_text('{"of_another_version": 1}')
    store.hold(plan)
    assert [one.digest for one in store.waiting()] == [plan.digest]
    assert store.differences(plan) == []
    store.approve(plan)
    assert [one.digest for one in store.approved()] == [plan.digest]
    assert {path.parent.name for path in store.unreadable()} == {"approved", "pending"}
