"""FedAvg: the sites' weights averaged by their numbers of training patients (McMahan et al. 2017).

Sums run in the order of the sites' names and in float64, so that equal contributions give equal
bits whatever the order in which they arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np

from stic_core.tensors.flat import FlatArray
from stic_server.strategies.algorithm import WEIGHTS, Algorithm, Arrays, Contribution


def init(weights: FlatArray) -> Arrays:
    """Nothing but the weights."""
    return {WEIGHTS: weights}


def aggregate(
    arrays: Arrays, contributions: Mapping[str, Contribution]
) -> tuple[Arrays, Mapping[str, float]]:
    """The average replaces the weights.

    Returns:
        The arrays; and `step_norm`, the L2 norm of what the round changed.
    """
    mean = average(contributions)
    step = np.subtract(mean, arrays[WEIGHTS], dtype=np.float64)
    return {WEIGHTS: mean}, {"step_norm": float(np.linalg.norm(step))}


def from_mean(arrays: Arrays, change: np.ndarray) -> tuple[Arrays, Mapping[str, float]]:
    """The same from the mean change, where no site's own weights are known.

    Args:
        change: float64 (p,).

    Returns:
        See `aggregate`.
    """
    mean = np.add(arrays[WEIGHTS], change, dtype=np.float64).astype(np.float32)
    step = np.subtract(mean, arrays[WEIGHTS], dtype=np.float64)
    return {WEIGHTS: mean}, {"step_norm": float(np.linalg.norm(step))}


def average(contributions: Mapping[str, Contribution]) -> FlatArray:
    """The mean weighted by training patients.

    Args:
        contributions: by site, screened; some site has a training patient.

    Example:
        >>> a, b = (np.array([v], dtype=np.float32) for v in (0.0, 4.0))
        >>> average({"a": Contribution(a, 3), "b": Contribution(b, 1)}).tolist()
        [1.0]
    """
    total = sum(contribution.examples for contribution in contributions.values())
    parts = (
        one.weights.astype(np.float64) * (one.examples / total)
        for _, one in sorted(contributions.items())
        if one.examples
    )
    return reduce(np.add, parts).astype(np.float32)


FED_AVG = Algorithm(init, aggregate, from_mean)
