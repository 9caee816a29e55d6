"""Types of the numbers that travel: every one is finite and has bounds, so that no sum of them overflows.

pydantic holds them wherever a message or a report is read; arithmetic inside a program does not look.
The bounds are far beyond what any honest site says. They are there for those that are not.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MOST = 10_000_000
"""Patients, epochs or steps in one figure: products of two and sums of many stay exact in a double."""

LARGEST = 1e12
"""Size of a loss, a score or a sum of them: squares and sums of many stay finite."""

YEAR_S = 366 * 24 * 3600.0

Count = Annotated[int, Field(ge=0, le=MOST)]
Some = Annotated[int, Field(ge=1, le=MOST)]
"""A count of at least one."""

Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Seconds = Annotated[float, Field(ge=0, le=YEAR_S)]
Share = Annotated[float, Field(ge=0, le=1)]
"""0 to 1, such as an AUC."""

Difference = Annotated[float, Field(ge=-1, le=1)]
"""Of two shares."""

Variance = Annotated[float, Field(gt=0, le=4)]
"""Of a share; what is 0 in these patients is a `NotEstimable`."""
