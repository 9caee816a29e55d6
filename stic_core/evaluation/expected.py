"""What a held-out set of a given size can show: the intervals to expect, before anybody is trained or looked at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stic_core.errors import UsageError
from stic_core.statistics import Absent, Interval, expected_auc_interval, expected_proportion_interval

HOPED_FOR = (0.8, 0.9, 0.95)
"""Values for which the intervals are shown: nobody knows the result beforehand."""


@dataclass(frozen=True, slots=True)
class ExpectedIntervals:
    """One class.

    Args:
        name: of the class.
        patients, others: held-out patients of the class, and of all other classes.
        auc, sensitivity, specificity: the interval to expect at each value of `HOPED_FOR`.
    """

    name: str
    patients: int
    others: int
    auc: Mapping[float, Interval | Absent]
    sensitivity: Mapping[float, Interval | Absent]
    specificity: Mapping[float, Interval | Absent]


def expected_intervals(counts: Mapping[str, int]) -> list[ExpectedIntervals]:
    """The intervals to expect of each class.

    Args:
        counts: held-out patients by class, over all hospitals.
    """
    n = sum(counts.values())
    return [
        ExpectedIntervals(
            name=name,
            patients=of_class,
            others=n - of_class,
            auc={
                value: expected_auc_interval(value, positives=of_class, negatives=n - of_class)
                for value in HOPED_FOR
            },
            sensitivity={value: expected_proportion_interval(value, total=of_class) for value in HOPED_FOR},
            specificity={
                value: expected_proportion_interval(value, total=n - of_class) for value in HOPED_FOR
            },
        )
        for name, of_class in counts.items()
    ]


def class_counts(text: str, *, classes: Sequence[str]) -> dict[str, int]:
    """Read `HCC=60,ICC=40,META=50`.

    Raises:
        UsageError: another form, or not each class of the task once.
    """
    parts = [re.fullmatch(r"\s*([A-Za-z0-9_-]+)\s*=\s*([0-9]{1,6})\s*", part) for part in text.split(",")]
    found = {part[1]: int(part[2]) for part in parts if part}
    if None in parts or len(found) < len(parts) or set(found) != set(classes):
        raise UsageError(
            "held-out patients by class cannot be read",
            got=text[:80],
            expected=",".join(f"{name}=NUMBER" for name in classes),
        )
    return {name: found[name] for name in classes}
