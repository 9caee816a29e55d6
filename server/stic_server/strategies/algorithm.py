"""The seam of algorithms: what one keeps between rounds, and what it makes of a round's contributions.

An algorithm is a file in this folder with a pure pair, as in fedjax (`core/federated_algorithm.py`).
What it keeps are named arrays, which checkpoints save whatever their names are; so momentum or control
variates survive a crash as the weights do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from stic_core.tensors.flat import FlatArray

Arrays: TypeAlias = Mapping[str, FlatArray]
"""What an algorithm keeps, by name; `WEIGHTS` is always among them."""

WEIGHTS = "weights"
"""The global model."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one site brings to a round.

    Args:
        weights: its trained weights, float32 (p,).
        examples: its training patients.
    """

    weights: FlatArray
    examples: int


@dataclass(frozen=True, slots=True)
class Algorithm:
    """How rounds are put together.

    Args:
        init: from the first weights to the arrays that round 1 begins with.
        aggregate: from the arrays that a round began with, and its contributions by site, to the
            arrays after it, and figures about them for `rounds.jsonl`. The contributions were
            screened, and some site has a training patient. Equal contributions give equal bits,
            whatever the order of the mapping.
        from_mean: the same from the mean change of the sites' weights, weighted by training patients, float64
            (p,): all that secure aggregation leaves. None where the algorithm needs each site's own.
    """

    init: Callable[[FlatArray], Arrays]
    aggregate: Callable[[Arrays, Mapping[str, Contribution]], tuple[Arrays, Mapping[str, float]]]
    from_mean: Callable[[Arrays, np.ndarray], tuple[Arrays, Mapping[str, float]]] | None = None
