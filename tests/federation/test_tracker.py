"""A curious coordinator's questions, two thousand of them: what a site answers, and what the answers determine."""

from __future__ import annotations

import numpy as np
import pytest

from stic_client.participation.participant import Participant
from stic_core.config import FederationConfig
from stic_core.data.dataset import load_dataset
from stic_core.evaluation import HeldOutReport
from stic_core.privacy.confusion_cells import Releasable, ranges
from stic_core.privacy.looks import HeldOutLooks, Look
from stic_core.privacy.score_bins import decided
from stic_core.protocol.messages import Describe, Report, SiteDescription
from stic_core.tensors.flat import FlatArray
from stic_server.federation.plan import training_of
from support.federation_kit import InProcessSites, participant
from support.tracker import Tracker

COUNTS = {"train": 6, "val": 12, "test": 80}


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tracker, Participant]:
    """The attack on one site with 80 held-out patients; its clinical columns are known to the attacker."""
    folder = tmp_path_factory.mktemp("tracker")
    site = participant(folder / "center1", site="center1", seed=3, counts=COUNTS)
    federation = FederationConfig.model_validate(
        {"model": {"backbone": "tiny"}, "rounds": 3, "training": {"views": 0}}
    )
    proposal = training_of(federation, sites=InProcessSites({"center1": site}).public_keys)
    described: dict[str, SiteDescription] = {}

    def ask(question: object, weights: FlatArray | None) -> Report:
        if question.run_id not in described:  # pyright: ignore[reportAttributeAccessIssue]
            report, _ = site.answer(Describe(run_id=question.run_id, plan=proposal.plan), None)  # pyright: ignore[reportAttributeAccessIssue]
            assert isinstance(report, SiteDescription)
            described[question.run_id] = report  # pyright: ignore[reportAttributeAccessIssue]
        return site.answer(question, weights)[0]  # pyright: ignore[reportArgumentType]

    dataset = load_dataset(folder / "center1" / "prepared")
    made = Tracker(
        proposal.plan,
        proposal.weights,
        dataset.fingerprint_for(proposal.plan.task, "test"),
        ask,
        np.asarray(dataset.clinical)[dataset.indices("test")],
    )
    made.run(questions=2_000)
    return made, site


def told(site: Participant) -> list[Look]:
    """The looks of which something left."""
    found = [look for look in HeldOutLooks(site.config.held_out) if look.report is not None]
    assert found
    return found


def test_two_thousand_questions_open_the_held_out_set_once_a_model(
    attack: tuple[Tracker, Participant],
) -> None:
    """Beyond the plan's number there are refusals, whatever run they come under; an answer is given again unchanged."""
    tracker, site = attack
    plan = tracker.plan
    models = {answer.report.model_dump_json() for answer in tracker.held_out}
    assert 0 < len(models) <= plan.held_out_models
    looks = list(HeldOutLooks(site.config.held_out))
    assert len(looks) <= plan.held_out_models
    # Of what could be sent as a model of the federation one was taken a run; none of what needs a signature.
    assert {look.name for look in looks} == {"federated"}
    assert tracker.refused > 1_500


def test_a_head_that_ignores_the_images_is_never_answered(attack: tuple[Tracker, Participant]) -> None:
    """The textbook's model is refused with a figure; what was answered are models whose images count."""
    _, site = attack
    for look in told(site):
        assert np.abs(look.scores).max() < 40


def test_what_was_answered_determines_no_patient(attack: tuple[Tracker, Participant]) -> None:
    """The auditor: every hidden count keeps its range, every bin its patients, and no two looks differ by a few."""
    _, site = attack
    for look in told(site):
        report = HeldOutReport.model_validate(look.report)
        assert isinstance(report.histograms, dict)
        said = []
        for name in look.classes:
            bins = report.histograms[name]
            p, n = np.array(bins.positives), np.array(bins.negatives)
            assert (p + n).min() >= 5
            said.append(decided(bins.starts, p, n, classes=3))
        labels, predicted = np.array(look.labels), look.scores.argmax(axis=1)
        truth = np.bincount(labels * 3 + predicted, minlength=9).reshape(3, 3)
        assert isinstance(report.confusion, tuple)
        assert isinstance(report.false_positives, dict)
        released = Releasable(
            np.array([[isinstance(cell, int) for cell in row] for row in report.confusion]),
            hasattr(report.accuracy, "correct"),
            np.array([isinstance(report.false_positives[name], int) for name in look.classes]),
        )
        low, high = ranges(truth, released=released, said=said)
        wide = np.minimum(5, truth.sum(axis=1, keepdims=True))
        assert (high - low >= wide)[~released.cells].all()
        assert (truth[released.cells] >= 5).all()


def test_validation_says_a_bounded_number_of_bits(attack: tuple[Tracker, Participant]) -> None:
    """A loss of four digits and a count that is nobody's own, of two models a round at most."""
    tracker, _ = attack
    runs = len({answer.round for answer in tracker.rounds})
    assert runs <= tracker.plan.rounds + 1
    for report in tracker.rounds:
        loss, correct = report.validation.loss_sum, report.validation.correct
        assert isinstance(loss, float)
        assert loss == float(f"{loss:.4g}") <= 10 * report.validation.n
        assert not isinstance(correct, int) or 5 <= correct <= report.validation.n - 5
