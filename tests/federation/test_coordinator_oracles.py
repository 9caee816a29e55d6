"""What a coordinator's questions tell beside the figures: refusals, failures, and runs of a plan that was approved once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stic_client.participation.participant import Participant
from stic_core.config import FederationConfig
from stic_core.data.dataset import load_dataset
from stic_core.models.parameters import get_flat
from stic_core.models.stic import build_head
from stic_core.privacy.looks import HeldOutLooks
from stic_core.protocol.messages import (
    Describe,
    EvaluateHeldOut,
    HeldOutAnswer,
    Refusal,
    Report,
    RoundReport,
    SiteDescription,
    TrainRound,
)
from stic_core.statistics import Auc
from stic_core.tensors.flat import FlatArray, digest
from stic_server.federation.plan import Proposal, training_of
from support.federation_kit import InProcessSites, participant

ROUNDS = 3


class Coordinator:
    """Asks one site about weights of its own making, each as the final model of a run of its own."""

    def __init__(self, folder: Path, *, test: int = 30) -> None:
        counts = {"train": 6, "val": 12, "test": test}
        self.site: Participant = participant(folder / "center1", site="center1", seed=3, counts=counts)
        federation = FederationConfig.model_validate(
            {"model": {"backbone": "tiny"}, "rounds": ROUNDS, "training": {"views": 0}}
        )
        sites = InProcessSites({"center1": self.site}).public_keys
        self.proposal: Proposal = training_of(federation, sites=sites)
        self.plan = self.proposal.plan
        dataset = load_dataset(folder / "center1" / "prepared")
        rows = dataset.indices("test")
        self.clinical = np.asarray(dataset.clinical)[rows]
        self.labels = dataset.label_indices("test", self.plan.task)
        self.test_fingerprint = dataset.fingerprint_for(self.plan.task, "test")
        self.runs = 0

    def new_run(self) -> str:
        """Describe a run: the plan is the approved one every time."""
        self.runs += 1
        run_id = f"run-{self.runs}"
        report, _ = self.site.answer(Describe(run_id=run_id, plan=self.plan), None)
        assert isinstance(report, SiteDescription)
        return run_id

    def held_out(self, weights: FlatArray) -> Report:
        """The weights as the final model of a new run."""
        question = EvaluateHeldOut(
            run_id=self.new_run(),
            plan_digest=self.plan.digest,
            weights_digest=digest(weights, self.plan.tensors),
            model="federated",
            best_round=ROUNDS,
            test_fingerprint=self.test_fingerprint,
        )
        return self.site.answer(question, weights)[0]

    def validation(self, weights: FlatArray) -> Report:
        """The weights as the model of round 2 of a new run."""
        question = TrainRound(
            run_id=self.new_run(),
            plan_digest=self.plan.digest,
            round=2,
            weights_digest=digest(weights, self.plan.tensors),
            train=False,
        )
        return self.site.answer(question, weights)[0]


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    """Of a federation with one site."""
    return Coordinator(tmp_path)


def of_columns(
    columns: np.ndarray, *, state: float = 1.0, bias: tuple[float, float, float] = (0, 0, 0)
) -> FlatArray:
    """Weights whose first class rises with clinical columns.

    Args:
        columns: (20,) log odds.
        state: factor on what the images give.
        bias: of the classes.
    """
    head = build_head(channels=32, classes=3, seed=1)
    with torch.no_grad():
        head.classifier.output.weight[:, :-20] *= state
        head.classifier.output.weight[:, -20:] = 0.0
        head.classifier.output.weight[0, -20:] = torch.from_numpy(columns).float()
        head.classifier.output.bias.copy_(torch.tensor(bias))
    return get_flat(head)


def test_refused_models_tell_nothing_and_are_counted(coordinator: Coordinator) -> None:
    """A refusal that is told from the held-out patients is a look at them: the same words, and the budget's."""
    reasons = set()
    for column in range(8):
        columns = np.zeros(20)
        columns[column] = 10.0
        report = coordinator.held_out(of_columns(columns, state=0.3))
        assert isinstance(report, Refusal | HeldOutAnswer)
        if isinstance(report, Refusal) and "a second model" not in report.reason:
            reasons.add(report.reason)
    assert len(reasons) <= 1
    # One final model a plan, whatever became of it and under whichever run.
    assert len(list(HeldOutLooks(coordinator.site.config.held_out))) == 1


def test_a_model_that_fails_on_some_patients_is_a_look_as_well(coordinator: Coordinator) -> None:
    """Logits that overflow for the patients with one column: whether there are any is one bit, and it is counted."""
    columns = np.zeros(20)
    columns[:2] = 3e38
    refused = coordinator.held_out(of_columns(columns))  # from the weights alone: nobody was looked at
    assert isinstance(refused, Refusal)
    assert not list(HeldOutLooks(coordinator.site.config.held_out))


def test_a_refusal_for_the_scores_is_a_look(tmp_path: Path) -> None:
    """All patients tied: told in the same words whatever the scores are, without a figure, and counted."""
    coordinator = Coordinator(tmp_path)
    report = coordinator.held_out(of_columns(np.zeros(20), state=0.0, bias=(1.0, 0.0, 0.0)))
    assert isinstance(report, Refusal)
    assert not any(figure in report.reason for figure in "0123456789")
    (look,) = HeldOutLooks(coordinator.site.config.held_out)
    assert look.report is None


def test_one_model_does_not_tell_the_class_of_one_patient(coordinator: Coordinator) -> None:
    """A head within both bounds that sets apart one patient, whose columns are known: the AUCs say their class."""
    target = 5
    signs = np.where(coordinator.clinical[target] > 0, 14.0, -14.0)
    # Beside 2^32 a float32 has steps of 512: all logits of a class are equal but the target's.
    weights = of_columns(signs, state=0.0, bias=(2.0**32, 2.0**32, 2.0**32))
    head_bias = 257 - 14.0 * float(coordinator.clinical[target].sum())
    weights = _with_constant(weights, head_bias)
    report = coordinator.held_out(weights)
    if isinstance(report, Refusal):
        return
    assert isinstance(report, HeldOutAnswer)
    auc = report.report.auc["HCC"]
    told = isinstance(auc, Auc) and auc.value != 0.5
    assert not told, f"AUC {auc}: the patient's class is {coordinator.labels[target]}"


def _with_constant(weights: FlatArray, value: float) -> FlatArray:
    """A constant on the first class's logit that passes through the GRU: its first unit is saturated."""
    from stic_core.models.parameters import set_flat

    head = build_head(channels=32, classes=3, seed=1)
    set_flat(head, weights)
    encoder = head.temporal_encoder
    with torch.no_grad():
        encoder.kernel.zero_()
        encoder.recurrent.zero_()
        encoder.bias.zero_()
        encoder.bias[0] = -100.0  # update gate: the state is the candidate
        encoder.bias[64] = 100.0  # the candidate is 1
        head.classifier.output.weight[:, :-20] = 0.0
        head.classifier.output.weight[0, 0] = value
    return get_flat(head)


def test_validation_is_bounded_by_the_plan_whatever_the_number_of_runs(coordinator: Coordinator) -> None:
    """One approval, many runs: no more different models than one run could ask about."""
    answered = 0
    for column in range(20):
        columns = np.zeros(20)
        columns[column] = 9.0
        answered += isinstance(coordinator.validation(of_columns(columns)), RoundReport)
    assert answered <= 2 * (ROUNDS + 1)
