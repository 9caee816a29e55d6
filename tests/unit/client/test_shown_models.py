"""Which models a site recognises, question by question, also after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from stic_client.participation.shown_models import ShownModels, shown_under
from stic_core.config import FederationConfig
from stic_core.errors import DataError, PlanRefusedError
from stic_core.protocol.messages import EvaluateHeldOut, RunPlan, TrainLocal, TrainRound, own_model_statement
from stic_core.system.keys import load_private, make_key_pair, sign
from stic_server.federation.plan import training_of

RUN = "r-1"
FEDERATION = FederationConfig.model_validate({"model": {"backbone": "tiny"}, "rounds": 3})


def model(number: int) -> str:
    """A digest that looks like one."""
    return f"{number:064x}"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Of another hospital, which the plan names as center2."""
    make_key_pair(tmp_path / "center2.key")
    return tmp_path / "center2.key"


@pytest.fixture
def plan(key: Path) -> RunPlan:
    """Three rounds that begin with model 0."""
    made = training_of(FEDERATION, sites={"center2": key.with_suffix(".pub").read_text().strip()}).plan
    return made.model_copy(update={"initial": model(0)})


def shown(folder: Path, plan: RunPlan, notes: list[str] | None = None) -> ShownModels:
    """As a client that was just started has it."""
    return ShownModels(folder, run_id=RUN, plan=plan, note=(notes if notes is not None else []).append)


def train(number: int, digest: str, plan: RunPlan) -> TrainRound:
    """A round's question."""
    return TrainRound(run_id=RUN, plan_digest=plan.digest, round=number, weights_digest=digest)


def look(name: str, digest: str | None, plan: RunPlan, **facts: object) -> EvaluateHeldOut:
    """A question about the held-out patients."""
    return EvaluateHeldOut(
        run_id=RUN,
        plan_digest=plan.digest,
        weights_digest=digest,
        model=name,
        test_fingerprint=model(9),
        **facts,
    )


def test_the_first_weights_are_the_plans(tmp_path: Path, plan: RunPlan) -> None:
    """In round 1 and for the site's own model; nothing else, and a refusal leaves nothing behind."""
    known = shown(tmp_path / "s", plan)
    for question in (
        train(1, model(5), plan),
        TrainLocal(run_id=RUN, plan_digest=plan.digest, weights_digest=model(5)),
    ):
        with pytest.raises(PlanRefusedError):
            known.check(question)
    assert not (tmp_path / "s").exists()
    known.check(train(1, model(0), plan))
    known.check(TrainLocal(run_id=RUN, plan_digest=plan.digest, weights_digest=model(0)))


def test_a_round_has_three_models_at_most_over_restarts_and_runs(tmp_path: Path, plan: RunPlan) -> None:
    """The same one as often as it is asked; others for a server that was restored and a run done again; no fourth."""
    for digest in (model(1), model(1), model(2), model(2), model(3)):
        shown(tmp_path / "s", plan).check(train(2, digest, plan))
    other = ShownModels(tmp_path / "s", run_id="r-2", plan=plan, note=[].append)
    for known in (shown(tmp_path / "s", plan), other):
        with pytest.raises(PlanRefusedError):
            known.check(train(2, model(4), plan))
    other.check(train(1, model(0), plan))
    (found,) = shown_under(tmp_path / "s")
    assert (found.rounds, found.runs) == ({1: [model(0)], 2: [model(1), model(2), model(3)]}, [RUN, "r-2"])


def test_no_new_model_in_a_round_once_the_held_out_set_was_opened(tmp_path: Path, plan: RunPlan) -> None:
    """What was shown may be asked again, as a server does that was restarted in the evaluation."""
    known = shown(tmp_path / "s", plan)
    known.check(train(2, model(1), plan))
    known.check(look("federated", model(1), plan, best_round=1))
    shown(tmp_path / "s", plan).check(train(2, model(1), plan))
    with pytest.raises(PlanRefusedError):
        shown(tmp_path / "s", plan).check(train(2, model(2), plan))
    with pytest.raises(PlanRefusedError):
        shown(tmp_path / "s", plan).check(train(3, model(2), plan))


def test_the_final_model_is_one_of_the_rounds(tmp_path: Path, plan: RunPlan) -> None:
    """Its digest came with the round after the one that made it; one model, whatever it is called."""
    known = shown(tmp_path / "s", plan)
    known.check(train(2, model(1), plan))
    for digest, number in ((model(7), 1), (model(1), None), (model(1), 0), (model(1), 4)):
        with pytest.raises(PlanRefusedError):
            known.check(look("federated", digest, plan, best_round=number))
    known.check(look("federated", model(1), plan, best_round=1))
    known.check(look("federated", model(1), plan, best_round=1))
    with pytest.raises(PlanRefusedError):
        known.check(look("federated", model(8), plan, best_round=2))


def test_a_site_that_missed_the_round_takes_one_final_model(tmp_path: Path, plan: RunPlan) -> None:
    """Its operator is told; a second one is refused."""
    notes: list[str] = []
    known = shown(tmp_path / "s", plan, notes)
    known.check(look("federated", model(4), plan, best_round=2))
    assert len(notes) == 1
    with pytest.raises(PlanRefusedError):
        known.check(look("federated", model(5), plan, best_round=3))


def test_an_evaluations_model_is_the_plans(tmp_path: Path, plan: RunPlan) -> None:
    """Nothing is trained: the digest is part of what was approved."""
    of_one = plan.model_copy(update={"evaluates": model(6), "rounds": 0, "local_only": False})
    known = shown(tmp_path / "s", of_one)
    with pytest.raises(PlanRefusedError):
        known.check(look("federated", model(7), of_one))
    known.check(look("federated", model(6), of_one))


def test_another_hospitals_model_needs_its_signature(tmp_path: Path, plan: RunPlan, key: Path) -> None:
    """Of this model, this run and this plan, by the key that the plan names; the site's own needs none."""
    known = shown(tmp_path / "s", plan)

    def signature(run_id: str = RUN, digest: str = model(2), of: RunPlan = plan) -> str:
        statement = own_model_statement(run_id=run_id, plan_digest=of.digest, weights_digest=digest)
        return sign(load_private(key), statement)

    make_key_pair(tmp_path / "other.key")
    statement = own_model_statement(run_id=RUN, plan_digest=plan.digest, weights_digest=model(2))
    for forged in (
        None,
        signature(run_id="r-2"),
        signature(digest=model(3)),
        signature(of=plan.model_copy(update={"seed": 1})),
        sign(load_private(tmp_path / "other.key"), statement),
        "00" * 96,
    ):
        with pytest.raises(PlanRefusedError):
            known.check(look("center2", model(2), plan, signature=forged))
    with pytest.raises(PlanRefusedError):
        known.check(look("center9", model(2), plan, signature=signature()))
    known.check(look("center2", model(2), plan, signature=signature()))
    known.trained(model(3))
    known.check(look("center1", model(3), plan))
    # The ensemble is of these, and of nothing else.
    known.check(look("ensemble", None, plan, members=(model(2), model(3))))
    for members in ((), (model(2), model(4))):
        with pytest.raises(PlanRefusedError):
            known.check(look("ensemble", None, plan, members=members))


def test_a_damaged_file_is_an_error(tmp_path: Path, plan: RunPlan) -> None:
    """What was shown must not be forgotten because a file cannot be read."""
    shown(tmp_path / "s", plan).check(train(1, model(0), plan))
    (path,) = (tmp_path / "s").iterdir()
    assert path.stat().st_mode & 0o077 == 0
    path.write_text(path.read_text()[:-5])
    with pytest.raises(DataError):
        shown(tmp_path / "s", plan)
