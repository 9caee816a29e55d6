"""FedAvg: the sites' weights averaged by their numbers of training patients.

Sums run in the order of the sites' names and in float64, so that equal reports give equal
bits whatever the order in which they arrived. What must not enter the average is refused
before: another form, values that are not finite, an update far outside the others'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

import numpy as np

from stic_core.errors import SiteReportError
from stic_core.tensors.flat import FlatArray


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


def update_norm(weights: FlatArray, start: FlatArray) -> float:
    """How far a site went from the weights that it was sent: the L2 norm of the difference."""
    return float(np.linalg.norm(np.subtract(weights, start, dtype=np.float64)))


def check_norm(
    site: str, norms: Mapping[str, float], *, past: Sequence[Mapping[str, float]], start: float, ratio: float
) -> None:
    """Refuse an update far outside the other sites'.

    The bound is `ratio` times what is usual among the others: the lower median of their norms in
    this round, or of those in the rounds before if that is more. A site's own past does not
    count, or it could raise its bound round by round. An update that is smaller than the model
    itself is never refused: sites may differ a lot in patients and steps, and a site that sends
    almost nothing must not be able to have the others refused.

    Args:
        norms: of this round's updates, by site, of sites that trained.
        past: the same of earlier rounds.
        start: norm of the weights that were sent out.
        ratio: `max_update_ratio` of the federation.

    Raises:
        SiteReportError: names the site, its norm and the bound.
    """
    now = [norm for other, norm in norms.items() if other != site]
    before = [norm for row in past for other, norm in row.items() if other != site]
    usual = [median_low(values) for values in (now, before) if values]
    if not usual:  # nobody to compare with
        return
    bound = max(ratio * max(usual), start)
    if norms[site] > bound:
        raise SiteReportError(
            "its update is far outside the other sites'",
            site=site,
            got=f"a norm of {norms[site]:.4g}",
            expected=f"at most {bound:.4g}, which is {ratio:g} times the others' or the norm of the model",
            advice="Ask that site what it trains on; max_update_ratio in federation.yaml is the factor.",
        )


def norm_of(weights: FlatArray) -> float:
    """L2 norm, summed in float64."""
    return math.sqrt(float(np.sum(np.square(weights, dtype=np.float64))))


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
