"""The root of a function of one variable, typed: scipy's results carry no types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scipy.optimize import brentq


def root(function: Callable[[float], float], low: float, high: float, *, accuracy: float) -> float:
    """Where a continuous function changes its sign between `low` and `high` (Brent's method).

    Example:
        >>> round(root(lambda x: x * x - 2, 0, 2, accuracy=1e-9), 6)
        1.414214
    """
    found: Any = brentq(function, low, high, xtol=accuracy)
    return float(found)
