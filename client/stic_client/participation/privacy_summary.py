"""The ledger of training as a table, what is left of the budget, and what no noise covers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stic_core.config import PrivacyBudget
from stic_core.privacy.accounting import epsilon_of
from stic_core.privacy.training_ledger import Account, TrainingLedger

DELTA = 1e-5
"""For which epsilons are shown at a site without a budget."""

OUTSIDE = (
    "numbers of patients by split and class, exact, once per run",
    "validation patients: their loss and accuracy in each round, which choose the best round and may end the training",
    "held-out patients: the evaluation, which policy.held_out_models bounds (`stic-client audit` counts it)",
    "the figures of a privacy audit of training patients, if it was released",
    "how long a round takes",
    "a patient who is prepared again under another pseudonym: the ledger takes that for another patient",
    "predictions, cross-validation and reader studies, which stay at the site unless somebody sends them",
)
"""What leaves a site, or may, and gets no noise."""

_COLUMNS = ("since", "plan", "name", "runs", "patients", "noise", "sampled", "steps", "epsilon")
_WIDTHS = (16, 12, 16, 4, 8, 6, 7, 6, 7)


def ledger_in_words(folder: Path, *, budget: PrivacyBudget | None) -> str:
    """What training cost a site's patients.

    Args:
        folder: the site's `privacy` folder.
        budget: `policy.privacy_budget`.

    Raises:
        DataError: the ledger cannot be read.
    """
    return "\n".join(_lines(TrainingLedger(folder), budget))


def _lines(ledger: TrainingLedger, budget: PrivacyBudget | None) -> Iterator[str]:
    delta = DELTA if budget is None else budget.delta
    accounts = list(ledger)
    private = [one for one in accounts if one.noise_multiplier is not None]
    patients = tuple(dict.fromkeys(patient for one in private for patient in one.patients))
    spent = ledger.epsilon(patients, delta=delta)
    yield _total(spent, budget=budget, delta=delta)
    if private:
        yield ""
        yield _row(_COLUMNS)
        yield from (_row(_cells(one, delta=delta)) for one in private)
    without = [one for one in accounts if one.noise_multiplier is None]
    yield "\noutside of this ledger:"
    for one in without:
        yield (
            f"  training without noise, whose cost has no bound: plan {one.plan[:12]} ({one.name}) on "
            f"{len(one.patients)} patients since {one.charges[0].at[:10]}"
        )
    yield from (f"  {line}" for line in OUTSIDE)


def _total(spent: float, *, budget: PrivacyBudget | None, delta: float) -> str:
    told = (
        f"training patients: the one who was in most of it has spent epsilon {spent:.3g} at delta {delta:g}"
    )
    if budget is None:
        return f"{told}; this site has no budget (policy.privacy_budget)"
    return (
        f"{told}; {budget.epsilon:g} is allowed in all runs, {max(0.0, budget.epsilon - spent):.3g} is left"
    )


def _cells(account: Account, *, delta: float) -> tuple[str, ...]:
    taken = account.taken
    assert taken is not None  # accounts without noise have no row
    return (
        (account.charges[0].at if account.charges else "")[:16].replace("T", " "),
        account.plan[:12],
        account.name[:16],
        str(len(account.runs)),
        str(len(account.patients)),
        f"{taken.noise_multiplier:.3g}",
        f"{taken.sample_rate:.3g}",
        str(taken.steps),
        f"{epsilon_of([taken], delta=delta):.3g}",
    )


def _row(cells: tuple[str, ...]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()
