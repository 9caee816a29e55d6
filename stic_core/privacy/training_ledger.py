"""The ledger of training: what noisy training has cost a site's patients, over all plans and runs.

- A charge is written before anything of it is computed, and its answer's digest before that leaves. So a kill
  at any point leaves too much in the ledger rather than too little.
- The same question again has the same noise and thus the same answer, which tells nothing new: it is not
  charged again. Where its answer is not the same to the last bit (another machine, for example), it gets new
  noise and is charged as a new one.
- What was spent is counted by patient: each patient has been in the runs that it was in, whichever way the
  dataset was prepared, and the patient who was in most counts for all. Removing a patient, or adding others,
  gives nothing back.
- The bound that a plan states holds for all runs of the plan together, since one approval serves them all.

A ledger holds hashes of pseudonyms, and stays at the hospital.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from stic_core.config import PrivacyBudget
from stic_core.errors import DataError, PlanRefusedError
from stic_core.privacy.accounting import NoisySteps, epsilon_of
from stic_core.privacy.ledger_folder import LedgerFolder

_ROUNDING = 1e-9


class Charge(BaseModel):
    """One answer that training gave, or was about to give.

    Args:
        at: when, UTC.
        what: in words, such as `round 3`.
        question: hash of all that determines the answer but for the noise's attempt.
        attempt: 0, and one more each time that the same question had another answer.
        steps: of noisy training.
        answer: digest of the trained weights; None until there are some, and nothing left before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: str
    what: str
    question: str
    attempt: int = 0
    steps: int
    answer: str | None = None


class Account(BaseModel):
    """A plan on one set of training patients.

    Args:
        plan: hash of the plan.
        name: of the plan.
        runs: ids under which it was asked for.
        patients: a hash of each training patient's pseudonym (`looks.patients_of`).
        sample_rate: the probability that a patient takes part in a step.
        noise_multiplier: standard deviation of the noise over `max_grad_norm`; None of training without noise, whose
            cost has no bound.
        max_grad_norm: bound on what a patient contributes to a step.
        charges: in the order in which they were made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: str
    name: str
    runs: tuple[str, ...]
    patients: tuple[str, ...]
    sample_rate: float
    noise_multiplier: float | None
    max_grad_norm: float | None
    charges: tuple[Charge, ...] = ()

    @property
    def steps(self) -> int:
        """Of noisy training, so far."""
        return sum(charge.steps for charge in self.charges)

    @property
    def taken(self) -> NoisySteps | None:
        """What a patient of it has been in; None of training without noise."""
        if self.noise_multiplier is None:
            return None
        return NoisySteps(self.noise_multiplier, self.sample_rate, self.steps)

    @property
    def key(self) -> str:
        """Under which it lies."""
        parts = [self.plan, self.sample_rate.hex(), str(self.noise_multiplier), str(self.max_grad_norm)]
        return hashlib.sha256("\n".join([*parts, *self.patients]).encode()).hexdigest()[:40]


class TrainingLedger:
    """What training cost at one site.

    Args:
        folder: holds a file for each account; None keeps them in memory, where all data are in one place anyway.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._files = LedgerFolder(folder, read=_read)

    def alone(self) -> AbstractContextManager[None]:
        """Know all charges, and let nobody else charge meanwhile; see `LedgerFolder.alone`."""
        return self._files.alone()

    def __iter__(self) -> Iterator[Account]:
        """All accounts, the oldest first."""
        return iter(
            sorted(self._files.entries.values(), key=lambda one: one.charges[0].at if one.charges else "")
        )

    def find(self, account: Account) -> Account:
        """What is kept of an account, or the account as it is."""
        return self._files.entries.get(account.key, account)

    def keep(self, account: Account) -> None:
        """Write an account down; it is on the disk when this returns."""
        self._files.keep(account.key, account, text=account.model_dump_json())

    def epsilon(
        self,
        patients: Sequence[str],
        *,
        delta: float,
        plan: str | None = None,
        more: NoisySteps | None = None,
    ) -> float:
        """What the patient who has been in most of it has spent, noisy training alone.

        Args:
            patients: hashes of their pseudonyms.
            plan: count this plan alone.
            more: steps that are to come, for all of these patients.
        """
        coming = [] if more is None else [more]
        return max(epsilon_of([*taken, *coming], delta=delta) for taken in self._spent(patients, plan=plan))

    def _spent(self, patients: Sequence[str], *, plan: str | None) -> set[tuple[NoisySteps, ...]]:
        """Of each patient; those who have been in the same are one."""
        by_patient: dict[str, list[NoisySteps]] = {patient: [] for patient in patients}
        for account in self:
            taken = account.taken
            if taken is None or taken.steps == 0 or plan not in {None, account.plan}:
                continue
            for patient in account.patients:
                if patient in by_patient:
                    by_patient[patient].append(taken)
        return {tuple(taken) for taken in by_patient.values()} or {()}

    def without_noise(self, patients: Sequence[str]) -> list[Account]:
        """Training without noise that any of these patients was in."""
        wanted = set(patients)
        return [one for one in self if one.noise_multiplier is None and not wanted.isdisjoint(one.patients)]

    def note_unprotected(self, account: Account) -> None:
        """Write down, once, that a plan trains on these patients without noise."""
        if account.key in self._files.entries:
            return
        with self.alone():
            if account.key not in self._files.entries:
                self.keep(account)

    def charge(
        self, account: Account, charge: Charge, *, bound: tuple[float, float], budget: PrivacyBudget | None
    ) -> Charge:
        """Charge a question before it is answered, unless it was charged already.

        Args:
            account: the plan's, with the run that asks.
            bound: epsilon and delta that the plan states.
            budget: of the site.

        Returns:
            What is in the ledger: the latest attempt at this question.

        Raises:
            PlanRefusedError: beyond what the plan states, or beyond the budget.
            DataError: an account cannot be read.
        """
        with self.alone():
            before = self.find(account)
            asked = [one for one in before.charges if one.question == charge.question]
            runs = tuple(dict.fromkeys((*before.runs, *account.runs)))
            if asked and asked[-1].attempt >= charge.attempt:
                if runs != before.runs:
                    self.keep(before.model_copy(update={"runs": runs}))
                return asked[-1]
            assert account.noise_multiplier is not None  # else nothing is charged
            more = NoisySteps(account.noise_multiplier, account.sample_rate, charge.steps)
            epsilon, delta = bound
            if (
                self.epsilon(account.patients, delta=delta, plan=account.plan, more=more)
                > epsilon + _ROUNDING
            ):
                raise PlanRefusedError(
                    "further training under this plan",
                    got=f"what would cost a patient more than the plan's epsilon of {epsilon:.3g}",
                    expected="what was approved; a round that is asked for again with other weights counts again",
                    advice="Make a new plan (another seed or name) and have it approved.",
                )
            if budget is not None:
                self.check_budget(account.patients, more=more, budget=budget)
            self.keep(before.model_copy(update={"runs": runs, "charges": (*before.charges, charge)}))
            return charge

    def check_budget(self, patients: Sequence[str], *, more: NoisySteps, budget: PrivacyBudget) -> None:
        """Refuse steps that would exceed the site's budget.

        Raises:
            PlanRefusedError: says what was spent and what is left.
        """
        total = self.epsilon(patients, delta=budget.delta, more=more)
        if total <= budget.epsilon + _ROUNDING:
            return
        spent = self.epsilon(patients, delta=budget.delta)
        alone = epsilon_of([more], delta=budget.delta)
        raise PlanRefusedError(
            "training.privacy",
            got=f"epsilon {alone:.3g} for {more.steps} steps, with which {total:.3g} would be spent",
            expected=f"at most {budget.epsilon:g} at delta {budget.delta:g} in all runs (policy.privacy_budget); "
            f"spent {spent:.3g}, left {max(0.0, budget.epsilon - spent):.3g}",
            advice="Plan a smaller epsilon or fewer rounds, or ask the hospital for a larger budget.",
        )

    def answered(self, account: Account, charge: Charge, answer: str) -> bool:
        """Write down what a question's answer is, before it leaves.

        Returns:
            False if it had another answer before: this one must not leave.
        """
        with self.alone():
            before = self.find(account)
            kept = next(one for one in before.charges if _same(one, charge))
            if kept.answer is not None:
                return kept.answer == answer
            charges = tuple(
                one.model_copy(update={"answer": answer}) if _same(one, charge) else one
                for one in before.charges
            )
            self.keep(before.model_copy(update={"charges": charges}))
            return True


def _same(one: Charge, other: Charge) -> bool:
    return (one.question, one.attempt) == (other.question, other.attempt)


def _read(path: Path) -> Account:
    try:
        return Account.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path.parent.name}/{path.name}, an account of the privacy ledger, cannot be read",
            got=type(error).__name__,
            advice="Restore it from a backup: without it the site cannot know what training cost these patients.",
        ) from None
