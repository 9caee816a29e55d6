"""FedAvg: the sites' weights averaged by their numbers of training patients.

Sums run in the order of the sites' names and in float64, so that equal reports give equal
bits whatever the order in which they arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stic_core.errors import SiteReportError
from stic_core.tensors import FlatArray


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one site brings to the average.

    Args:
        weights: its trained weights.
        examples: its training patients.
    """

    weights: FlatArray
    examples: int


def check(site: str, contribution: Contribution, *, size: int) -> None:
    """Refuse what must not enter the average.

    Raises:
        SiteReportError: another size or type, or a value that is not finite.
    """
    weights = contribution.weights
    if weights.dtype != np.float32 or weights.shape != (size,):
        raise SiteReportError(
            "weights of another form",
            site=site,
            got=f"{weights.dtype} {weights.shape}",
            expected=f"float32 ({size},)",
        )
    if not np.isfinite(weights).all():
        raise SiteReportError(
            "weights that are not finite",
            site=site,
            got=f"{int(np.count_nonzero(~np.isfinite(weights)))} NaN or infinite values",
            advice="Its training diverged: lower training.learning_rate, or look at its data.",
        )


def average(contributions: Mapping[str, Contribution]) -> FlatArray | None:
    """The mean weighted by training patients (McMahan et al. 2017, FedAvg).

    Args:
        contributions: by site, already checked.

    Returns:
        The average, or None where no site has a training patient.

    Example:
        >>> a, b = (np.array([v], dtype=np.float32) for v in (0.0, 4.0))
        >>> average({"a": Contribution(a, 3), "b": Contribution(b, 1)}).tolist()
        [1.0]
    """
    total = sum(contribution.examples for contribution in contributions.values())
    if total == 0:
        return None
    mean: np.ndarray | None = None
    for site in sorted(contributions):
        contribution = contributions[site]
        if contribution.examples == 0:
            continue
        part = contribution.weights.astype(np.float64) * (contribution.examples / total)
        mean = part if mean is None else mean + part
    assert mean is not None  # some site has examples
    return mean.astype(np.float32)
