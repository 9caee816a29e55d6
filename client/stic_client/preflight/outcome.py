"""What a check came to: a name, a status, what was found, how to fix it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Args:
        name: short and stable; programs go by it.
        found: what was found, a clause.
        remedy: what to do, a sentence; "" where there is nothing to do.
        patients: the rows of the prepared dataset that it is about, from 0. Rows, because `--json` goes to
            programs, which need no pseudonyms; the page and the terminal say who they are.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""
    patients: tuple[int, ...] = ()


def worst(name: str, *parts: Check | None, good: str) -> Check:
    """Several findings of one check as one: the worst status, and all that is not well.

    Args:
        parts: findings; None where there is nothing to say.
        good: what is said where all is well.
    """
    order: tuple[Status, ...] = ("problem", "warning", "skipped")
    bad = sorted(
        (part for part in parts if part and part.status != "ok"), key=lambda p: order.index(p.status)
    )
    if not bad:
        return Check(name, "ok", good)
    return Check(
        name,
        bad[0].status,
        "; ".join(part.found for part in bad),
        " ".join(dict.fromkeys(part.remedy for part in bad if part.remedy)),
        tuple(dict.fromkeys(row for part in bad for row in part.patients)),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """All checks of a site, in the order in which they were made."""

    site: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """No problem; warnings do not count."""
        return not self.count("problem")

    def count(self, status: Status) -> int:
        """Checks with this status."""
        return sum(check.status == status for check in self.checks)

    def document(self) -> dict[str, Any]:
        """For programs: patients as row numbers of the prepared dataset, from 1."""
        return {
            "schema": 1,
            "site": self.site,
            "passed": self.passed,
            "checks": [
                {**asdict(check), "patients": [row + 1 for row in check.patients]} for check in self.checks
            ],
        }


def percent(share: float) -> str:
    """A share as one reads it.

    Example:
        >>> percent(0.333), percent(0.002), percent(0.0)
        ('33 %', 'under 1 %', '0 %')
    """
    return "under 1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


def some(names: Sequence[str], *, most: int = 5) -> str:
    """A few names, and how many more."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def patients(count: int) -> str:
    """`1 patient`, `2 patients`."""
    return f"{count} patient" if count == 1 else f"{count} patients"
