"""Patients of those who took part, by hospital and split, from a run's facts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from stic_core.data.dataset import SPLITS
from stic_core.errors import UsageError
from stic_core.evaluation.run_facts import RunFacts
from stic_core.protocol.messages import SplitCounts


def patients_of(facts: RunFacts) -> dict[str, Any]:
    """`sites` (counts by hospital and split, those of classes where they are not suppressed), `totals`, `all`.

    `trained_on` and `evaluated_on` count the patients from whom the model learned and on whom it was evaluated.
    `unknown` names hospitals whose counts the run does not record; they are in none of the others.

    Raises:
        UsageError: a hospital's counts are not what a run writes.
    """
    try:
        table: dict[str, dict[str, SplitCounts]] = {
            site: {split: SplitCounts.model_validate(part.description["patients"][split]) for split in SPLITS}
            for site, part in facts.sites.items()
            if part.description
        }
    except (KeyError, ValidationError) as error:
        raise UsageError(
            "record.json is not in the format that a run writes",
            got=type(error).__name__,
            expected="patients of every hospital by split",
        ) from None

    def total(split: str, sites: Iterable[str]) -> int:
        return sum(table[site][split].n for site in sites if site in table)

    totals = {split: total(split, table) for split in SPLITS}
    return {
        "sites": table,
        "unknown": [site for site in facts.sites if site not in table],
        "totals": totals,
        "all": sum(totals.values()),
        "trained_on": total("train", facts.in_the_model),
        "evaluated_on": total("test", facts.evaluated_by),
    }
