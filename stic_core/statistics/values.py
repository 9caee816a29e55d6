"""What a statistic says when there is no number: a value of its own, with the reason.

Neither is ever 0, None or NaN, in memory, on the wire or in a report. Both serialise as
an object with one key, and pydantic reads that object back into the value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

from pydantic import Field

Interval: TypeAlias = tuple[float, float]
"""Lower and upper end of a confidence interval."""

Reason = Annotated[str, Field(pattern=r"^[A-Za-z0-9]")]
"""Words for a reader; as a cell of a table it must be no formula to a spreadsheet, as what begins with `=` is."""

FORBID: dict[str, str] = {"extra": "forbid"}
"""Pydantic's configuration of the values that travel: unknown keys are refused."""


@dataclass(frozen=True)
class NotEstimable:
    """The data cannot give this figure, whoever asks.

    Example:
        >>> NotEstimable("no patients").reason
        'no patients'
    """

    not_estimable: Reason

    word: ClassVar[str] = "not estimable"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    @property
    def reason(self) -> str:
        """Why, in words for a reader of the report."""
        return self.not_estimable


@dataclass(frozen=True)
class Suppressed:
    """A site's policy keeps this figure inside the hospital.

    Example:
        >>> Suppressed("fewer than 5 patients").reason
        'fewer than 5 patients'
    """

    suppressed: Reason

    word: ClassVar[str] = "suppressed"
    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    @property
    def reason(self) -> str:
        """Why, in words for a reader of the report."""
        return self.suppressed


Absent: TypeAlias = NotEstimable | Suppressed
"""Stands where a figure would stand."""
