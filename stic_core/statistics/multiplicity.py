"""Several tests at once: Holm's correction.

One comparison is named as primary before training and keeps its p value; the others share the
chance of a false alarm.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Adjusted p values of a family of tests (S. Holm, Scandinavian Journal of Statistics 1979, 6:65).

    Valid whatever the dependence between the tests, which here share their patients.

    Args:
        p_values: of each test, 0 to 1.

    Returns:
        By the same names in the same order; a test is significant at 5 % if its adjusted value is below .05.

    Example:
        >>> holm({"HCC": 0.01, "ICC": 0.04, "META": 0.03})
        {'HCC': 0.03, 'ICC': 0.06, 'META': 0.06}
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"p value of {name}: got {p}, expected 0 to 1")
    adjusted: dict[Name, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
