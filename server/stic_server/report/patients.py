"""Who took part: patients by hospital and split, from a run's record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from stic_core.data.dataset import SPLITS
from stic_core.errors import UsageError
from stic_core.evaluation import listed
from stic_core.protocol.messages import SplitCounts
from stic_server.report.wording import thousands


def who_took_part(record: Mapping[str, Any], *, rounds: int, trained: int) -> str:
    """One sentence: which hospitals did what.

    Args:
        rounds: that the run trained.
        trained: training patients of all hospitals.
    """
    sites = sorted(record["sites"])
    who = listed(sites) if sites else "No hospital"
    if record.get("evaluates"):
        return f"{who} evaluated a model that was trained before; nothing was trained in this run."
    if len(sites) == 1:
        return f"{who} trained a model over {_rounds(rounds)}, on {thousands(trained)} training patients."
    return f"{who} trained one model together over {_rounds(rounds)}, on {thousands(trained)} training patients in all."


def _rounds(count: int) -> str:
    return f"{count} round{'' if count == 1 else 's'}"


def patients_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """`sites` (counts by hospital and split, those of classes where they are not suppressed), `totals`, `all`.

    Raises:
        UsageError: a hospital's counts are not what a run writes.
    """
    try:
        table = {
            site: {split: SplitCounts.model_validate(facts["patients"][split]) for split in SPLITS}
            for site, facts in record["sites"].items()
        }
    except (KeyError, ValidationError) as error:
        raise UsageError(
            "record.json is not in the format that a run writes",
            got=type(error).__name__,
            expected="patients of every hospital by split",
        ) from None
    totals = {split: sum(counts[split].n for counts in table.values()) for split in SPLITS}
    return {"sites": table, "totals": totals, "all": sum(totals.values())}
