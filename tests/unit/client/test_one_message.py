"""A site whose process answers one message, as on stock Flower: the next one takes up the run from the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stic_client.participation.participant import Participant
from stic_core.config import FederationConfig, SiteConfig
from stic_core.protocol.messages import Describe, Refusal, RunPlan, SiteDescription, TrainRound, Unprepared
from stic_core.tensors.flat import digest
from stic_server.federation.plan import training_of
from support.federation_kit import participant, write_site_dataset

PROPOSAL = training_of(
    FederationConfig.model_validate(
        {"model": {"backbone": "tiny"}, "rounds": 2, "training": {"views": 1, "batch_size": 4}}
    )
)


@pytest.fixture
def plan() -> RunPlan:
    """Two rounds of the demo's model."""
    return PROPOSAL.plan


@pytest.fixture
def config(tmp_path: Path) -> SiteConfig:
    """Of a site with a prepared dataset."""
    return participant(tmp_path / "center1", site="center1", seed=0).config


def _asked(plan: RunPlan, run_id: str = "r") -> tuple[TrainRound, np.ndarray]:
    weights = PROPOSAL.weights.copy()
    question = TrainRound(
        run_id=run_id, plan_digest=plan.digest, round=1, weights_digest=digest(weights, plan.tensors)
    )
    return question, weights


def test_the_next_process_answers_as_the_first_one_would(config: SiteConfig, plan: RunPlan) -> None:
    """The same update, bit for bit; a process of our own client is told the plan again instead."""
    first = Participant(config, one_message=True)
    assert isinstance(first.answer(Describe(run_id="r", plan=plan), None)[0], SiteDescription)
    question, weights = _asked(plan)
    _, there = first.answer(question, weights.copy())
    report, here = Participant(config, one_message=True).answer(question, weights.copy())
    assert report.kind == "round-report"
    np.testing.assert_array_equal(here, there)
    assert isinstance(Participant(config).answer(question, weights.copy())[0], Unprepared)


def test_other_data_are_not_taken_up(config: SiteConfig, plan: RunPlan) -> None:
    """Prepared anew in the meantime: the server is asked for the plan, and sees that the data changed."""
    Participant(config, one_message=True).answer(Describe(run_id="r", plan=plan), None)
    write_site_dataset(config.dataset.prepared, seed=9)
    question, weights = _asked(plan)
    assert isinstance(Participant(config, one_message=True).answer(question, weights)[0], Unprepared)


def test_an_unknown_run_is_not_taken_up(config: SiteConfig, plan: RunPlan) -> None:
    """Nobody here accepted its plan."""
    Participant(config, one_message=True).answer(Describe(run_id="r", plan=plan), None)
    question, weights = _asked(plan, run_id="another")
    assert isinstance(Participant(config, one_message=True).answer(question, weights)[0], Unprepared)


def test_a_policy_that_changed_meanwhile_holds(config: SiteConfig, plan: RunPlan) -> None:
    """What was accepted is checked again by each process."""
    Participant(config, one_message=True).answer(Describe(run_id="r", plan=plan), None)
    policy = config.policy.model_copy(update={"max_rounds": 1})
    stricter = Participant(config.model_copy(update={"policy": policy}), one_message=True)
    question, weights = _asked(plan)
    report, trained = stricter.answer(question, weights)
    assert isinstance(report, Refusal)
    assert trained is None
