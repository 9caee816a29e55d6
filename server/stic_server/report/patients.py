"""Who took part: patients by hospital and split, from a run's record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from stic_core.data.dataset import SPLITS
from stic_core.errors import UsageError
from stic_core.protocol.messages import SplitCounts


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
