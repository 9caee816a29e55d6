"""How a site trains under a plan: a round, or a model of its own; with noise and charged where the plan says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from stic_core.config import PolicyConfig
from stic_core.data.dataset import SiteDataset
from stic_core.models.parameters import get_flat
from stic_core.privacy import looks
from stic_core.privacy.training_ledger import TrainingLedger
from stic_core.protocol.messages import RunPlan
from stic_core.tensors.flat import FlatArray, digest
from stic_core.training.objectives import objective_of
from stic_core.training.private_training import (
    PrivateTraining,
    PrivateWork,
    TrainingPrivacy,
    account_of,
    check_affordable,
    private_work,
)
from stic_core.training.setup import TrainingSetup
from stic_core.training.trainer import FitOutcome, Trainer, TrainOutcome, fit

_T = TypeVar("_T")


class SiteTraining:
    """Training in one run at one site.

    Args:
        site: its name, which is part of its seed so that sites do not draw alike.
        setup: the model with the patients; trained in place.
        kept: the site's ledger and secret.

    Raises:
        PlanRefusedError: it costs a patient more than the site allows.
    """

    def __init__(
        self,
        site: str,
        run_id: str,
        plan: RunPlan,
        dataset: SiteDataset,
        setup: TrainingSetup,
        *,
        policy: PolicyConfig,
        kept: TrainingPrivacy,
    ) -> None:
        self._site, self._plan, self._setup, self._ledger = site, plan, setup, kept.ledger
        patients = training_patients(dataset, plan)
        work = check_training(plan, dataset, policy=policy, ledger=kept.ledger)
        self._account = account_of(plan, work, run_id=run_id, patients=patients)
        self._private = work and PrivateTraining(
            work,
            self._account,
            kept=kept,
            fingerprint=dataset.fingerprint_for(plan.task),
            budget=policy.privacy_budget,
        )

    def round(self, number: int, weights: FlatArray, *, rate: float | None) -> TrainOutcome:
        """Train for a round; the module then has the trained weights.

        Args:
            weights: as they arrived, and as the module has them.
            rate: learning rate; None is the plan's own.

        Raises:
            PlanRefusedError: beyond what the plan may cost, or the site's budget.
        """
        return self._trained(
            _Work(
                f"round {number}",
                rounds=1,
                salt=number,
                rate=rate,
                train=lambda trainer: trainer.run(
                    trainer.config.local_epochs, steps=trainer.config.local_steps, learning_rate=rate
                ),
                weights_of=lambda _: get_flat(self._setup.module),
            ),
            weights,
        )

    def own_model(
        self,
        weights: FlatArray,
        *,
        validate: Callable[[], float | None],
        on_epoch: Callable[[int, int], None],
    ) -> FitOutcome:
        """As many epochs as the federation's, one optimiser throughout, the best by own validation.

        Args:
            weights: as they arrived, and as the module has them.
            validate, on_epoch: see `fit`.

        Raises:
            PlanRefusedError: beyond what the plan may cost, or the site's budget.
        """
        rounds = self._plan.rounds
        return self._trained(
            _Work(
                "own model",
                rounds=rounds,
                salt=0,
                rate=None,
                train=lambda trainer: fit(trainer, rounds=rounds, validate=validate, on_epoch=on_epoch),
                weights_of=lambda outcome: outcome.best,
            ),
            weights,
        )

    @property
    def is_private(self) -> bool:
        """Whether training has noise, so that what is exact about the training patients must stay here."""
        return self._plan.training.privacy is not None

    def _trained(self, work: _Work[_T], weights: FlatArray) -> _T:
        private = self._private
        if private is None:
            if self._account.patients:
                self._ledger.note_unprotected(self._account)
            return work.train(self._trainer(work.salt))

        def attempt(label: str) -> tuple[_T, str]:
            self._setup.load_weights(weights)  # an attempt before this one has trained them
            outcome = work.train(self._trainer(work.salt, label=label))
            return outcome, digest(work.weights_of(outcome), self._plan.tensors)

        asked: dict[str, object] = {"weights": digest(weights, self._plan.tensors), "rate": work.rate}
        return private.answer(work.what, rounds=work.rounds, asked=asked, train=attempt)

    def _trainer(self, salt: int, *, label: str = "") -> Trainer:
        """A fresh optimiser.

        Args:
            label: of the noise, where the plan adds some.
        """
        module, batches, device = self._setup.module, self._setup.batches["train"], self._setup.device
        config, gradients = self._plan.training, None
        objective = objective_of(self._plan.algorithm, module, batches.labels, config=config, device=device)
        if self._private is not None:
            config = config.model_copy(update={"local_steps": self._private.work.steps_per_round})
            gradients = self._private.gradients(
                module, batches, objective=objective, label=label, device=device
            )
        return Trainer(
            module,
            batches,
            config=config,
            seed=[self._plan.seed, salt, int.from_bytes(self._site.encode(), "big")],
            device=device,
            objective=objective,
            gradients=gradients,
        )


@dataclass(frozen=True, slots=True)
class _Work(Generic[_T]):
    """Something that is trained.

    Args:
        what: for the ledger.
        rounds: that it counts as.
        salt: sets its draws apart from those of other work of the run.
        rate: learning rate; None is the plan's own.
        train: trains, and says what came of it.
        weights_of: what that made of the weights.
    """

    what: str
    rounds: int
    salt: int
    rate: float | None
    train: Callable[[Trainer], _T]
    weights_of: Callable[[_T], FlatArray]


def training_patients(dataset: SiteDataset, plan: RunPlan) -> tuple[str, ...]:
    """What stands for the training patients in the ledger."""
    return looks.patients_of(dataset.subjects[row] for row in dataset.indices("train", plan.task))


def check_training(
    plan: RunPlan, dataset: SiteDataset, *, policy: PolicyConfig, ledger: TrainingLedger
) -> PrivateWork | None:
    """What a plan does to a site's training patients; None where it adds no noise.

    Raises:
        PlanRefusedError: it costs a patient more than the site allows.
        DataError: the ledger cannot be read.
    """
    patients = training_patients(dataset, plan)
    work = private_work(plan, patients=len(patients), policy=policy)
    check_affordable(plan, work, patients=patients, policy=policy, ledger=ledger)
    return work
