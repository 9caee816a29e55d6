"""A plan's `training.privacy` at one site: how many steps, how much noise, and each answer charged to the ledger."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from stic_core.config import PolicyConfig, PrivacyBudget, TrainingPrivacyConfig
from stic_core.errors import PlanRefusedError
from stic_core.privacy.accounting import NoiseLevel, NoisySteps, epsilon_of, noise_for
from stic_core.privacy.keyed_random import SECRET_BYTES, site_secret
from stic_core.privacy.looks import now
from stic_core.privacy.training_ledger import Account, Charge, TrainingLedger
from stic_core.protocol.messages import RunPlan
from stic_core.training.batches import AnyBatches, FeatureBatches
from stic_core.training.gradients import Gradients
from stic_core.training.objectives import Objective

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TrainingPrivacy:
    """What a site keeps of its training from run to run.

    Args:
        ledger: what training cost the patients before.
        secret: what noise comes from; by default one that nobody knows.
    """

    ledger: TrainingLedger = field(default_factory=TrainingLedger)
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES))


def site_privacy(folder: Path, plan: RunPlan) -> TrainingPrivacy:
    """What lies in a site's folder; a secret is made where there is none and the plan needs one.

    Raises:
        DataError: the ledger or the secret is damaged.
    """
    ledger = TrainingLedger(folder)
    return (
        TrainingPrivacy(ledger)
        if plan.training.privacy is None
        else TrainingPrivacy(ledger, site_secret(folder / "secret"))
    )


@dataclass(frozen=True, slots=True)
class PrivateWork:
    """What a plan does to a site's training patients.

    Args:
        level: of sampling, bound and noise.
        steps_per_round: the same in every round.
        rounds: of the federation and, where the site's own model is trained too, as many again.
        delta: of the plan.
    """

    level: NoiseLevel
    steps_per_round: int
    rounds: int
    delta: float

    @property
    def planned(self) -> NoisySteps:
        """All steps, if nothing ends the training before."""
        return NoisySteps(
            self.level.noise_multiplier, self.level.sample_rate, self.steps_per_round * self.rounds
        )

    @property
    def epsilon(self) -> float:
        """What all of it costs a patient."""
        return epsilon_of([self.planned], delta=self.delta)


def private_work(plan: RunPlan, *, patients: int, policy: PolicyConfig) -> PrivateWork | None:
    """What a plan does to a number of training patients; None where it adds no noise, or there is nobody.

    A round draws each patient as often, on average, as it has epochs. Where the site's own model is trained
    too (`policy.local_only`), that costs as much as all rounds.
    """
    training = plan.training
    privacy = training.privacy
    if privacy is None or patients == 0 or plan.rounds == 0:
        return None
    sample_rate = min(1.0, training.batch_size / patients)
    a_round = training.local_steps or math.ceil(training.local_epochs / sample_rate)
    rounds = plan.rounds * (2 if plan.local_only and policy.local_only else 1)
    level = NoiseLevel(
        sample_rate, _noise(privacy, sample_rate=sample_rate, steps=a_round * rounds), privacy.max_grad_norm
    )
    return PrivateWork(level, a_round, rounds, privacy.delta)


def _noise(privacy: TrainingPrivacyConfig, *, sample_rate: float, steps: int) -> float:
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    assert privacy.epsilon is not None  # one of the two
    return noise_for(privacy.epsilon, delta=privacy.delta, sample_rate=sample_rate, steps=steps)


def check_affordable(
    plan: RunPlan,
    work: PrivateWork | None,
    *,
    patients: tuple[str, ...],
    policy: PolicyConfig,
    ledger: TrainingLedger,
) -> None:
    """Refuse a plan that costs a patient more than the site allows, before anything is computed.

    Args:
        work: of the plan here; None where it adds no noise.
        patients: hashes of the training patients' pseudonyms.

    Raises:
        PlanRefusedError: says the bound, and what is left of it.
        DataError: the ledger cannot be read.
    """
    if work is None:
        return
    if work.delta * len(patients) >= 1:
        raise PlanRefusedError(
            "training.privacy.delta",
            got=work.delta,
            expected="less than 1 / training patients of this site, or it allows one patient to be given away",
        )
    if policy.max_epsilon is not None and work.epsilon > policy.max_epsilon:
        raise PlanRefusedError(
            "training.privacy",
            got=f"epsilon {work.epsilon:.3g} at delta {work.delta:g}",
            expected=f"at most {policy.max_epsilon:g} (policy.max_epsilon)",
        )
    if policy.privacy_budget is None:
        return
    with ledger.alone():
        # Steps of this plan that all of these patients have been charged for are not to come again.
        done = min(
            sum(one.steps for one in ledger if one.plan == plan.digest and patient in one.patients)
            for patient in patients
        )
        left = work.planned
        more = NoisySteps(left.noise_multiplier, left.sample_rate, max(0, left.steps - done))
        ledger.check_budget(patients, more=more, budget=policy.privacy_budget)


def account_of(plan: RunPlan, work: PrivateWork | None, *, run_id: str, patients: tuple[str, ...]) -> Account:
    """Where a plan's training is written down; without noise it is once, since no number says what it costs."""
    level = None if work is None else work.level
    unprotected = Charge(at=now(), what="training without noise", question="", steps=0)
    return Account(
        plan=plan.digest,
        name=plan.name,
        runs=(run_id,),
        patients=patients,
        sample_rate=1.0 if level is None else level.sample_rate,
        noise_multiplier=None if level is None else level.noise_multiplier,
        max_grad_norm=None if level is None else level.max_grad_norm,
        charges=(unprotected,) if level is None else (),
    )


class PrivateTraining:
    """Noisy training of one run at one site.

    Args:
        work: what the plan does here.
        account: where it is charged.
        kept: the ledger that this account is in, and what sampling and noise come from.
        fingerprint: of the patients with their images and values.
        budget: of the site.
    """

    def __init__(
        self,
        work: PrivateWork,
        account: Account,
        *,
        kept: TrainingPrivacy,
        fingerprint: str,
        budget: PrivacyBudget | None,
    ) -> None:
        self.work = work
        self._account, self._ledger, self._secret = account, kept.ledger, kept.secret
        self._fingerprint, self._budget = fingerprint, budget

    def answer(
        self, what: str, *, rounds: int, asked: dict[str, object], train: Callable[[str], tuple[_T, str]]
    ) -> _T:
        """Train, charged beforehand; the same question again gives the same answer and costs nothing.

        Args:
            what: in words, such as `round 3`.
            rounds: as many rounds' steps are charged.
            asked: all that the question says: weights, rates, number of the round.
            train: trains with noise of a label, and returns what came of it and the digest of the weights.

        Raises:
            PlanRefusedError: beyond what the plan states, or beyond the site's budget.
        """
        question = self._question(what, asked)
        steps = rounds * self.work.steps_per_round
        attempt = 0
        while True:
            charge = self._ledger.charge(
                self._account,
                Charge(at=now(), what=what, question=question, attempt=attempt, steps=steps),
                bound=(self.work.epsilon, self.work.delta),
                budget=self._budget,
            )
            outcome, answer = train(f"{question}\n{charge.attempt}")
            if self._ledger.answered(self._account, charge, answer):
                return outcome
            attempt = charge.attempt + 1

    def _question(self, what: str, asked: dict[str, object]) -> str:
        """Hash of everything that an answer depends on. The run is not in it: the same plan gets the same answer."""
        level = self.work.level
        content = {
            "what": what,
            "plan": self._account.plan,
            "fingerprint": self._fingerprint,
            "level": [level.sample_rate.hex(), level.noise_multiplier.hex(), level.max_grad_norm.hex()],
            "steps": self.work.steps_per_round,
            **asked,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def gradients(
        self,
        module: nn.Module,
        batches: AnyBatches,
        *,
        objective: Objective,
        label: str,
        device: torch.device,
    ) -> Gradients:
        """What training steps by, with noise of a label."""
        from stic_core.training.private_gradients import PrivateGradients  # Opacus takes seconds to import

        assert isinstance(batches, FeatureBatches)  # a plan with a backbone that trains is refused
        return PrivateGradients(
            module,
            batches,
            objective=objective,
            level=self.work.level,
            secret=self._secret,
            label=label,
            device=device,
        )
