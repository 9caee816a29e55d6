"""Screening: what must not enter an average is refused before, by site, with the reason.

Refused are weights of the wrong shape or dtype, values that are not finite, and an update far
outside the other sites'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

import numpy as np

from stic_core.errors import SiteReportError
from stic_core.tensors.flat import FlatArray
from stic_server.strategies.algorithm import Contribution


@dataclass(frozen=True, slots=True)
class Screened:
    """What is left of a round's contributions.

    Args:
        usable: by site, in the order of names.
        refused: why, by site.
        norms: L2 norm of each update that could be had, the refused ones' too.
    """

    usable: Mapping[str, Contribution]
    refused: Mapping[str, SiteReportError]
    norms: Mapping[str, float]


def screen(
    contributions: Mapping[str, Contribution],
    *,
    start: FlatArray,
    past_norms: Sequence[Mapping[str, float]] = (),
    max_update_ratio: float | None = None,
) -> Screened:
    """Separate what may be averaged from what is refused.

    Args:
        contributions: by site.
        start: the weights that were sent out.
        past_norms: of the updates in earlier rounds, by site.
        max_update_ratio: how many times the others' norm a site's may be; None does not look.
    """
    usable: dict[str, Contribution] = {}
    refused: dict[str, SiteReportError] = {}
    for site in sorted(contributions):
        try:
            check(site, contributions[site], size=len(start))
        except SiteReportError as error:
            refused[site] = error
        else:
            usable[site] = contributions[site]
    norms = {site: update_norm(one.weights, start) for site, one in usable.items() if one.examples}
    if max_update_ratio is not None:
        norm = norm_of(start)
        for site in norms:
            try:
                check_norm(site, norms, past=past_norms, start=norm, ratio=max_update_ratio)
            except SiteReportError as error:
                refused[site] = error
                del usable[site]
    return Screened(usable, refused, norms)


def check(site: str, contribution: Contribution, *, size: int) -> None:
    """Refuse what must not enter the average.

    Raises:
        SiteReportError: another size or type, or a value that is not finite.
    """
    weights = contribution.weights
    if weights.dtype != np.float32 or weights.shape != (size,):
        raise SiteReportError(
            "weights have the wrong dtype or shape",
            site=site,
            got=f"{weights.dtype} {weights.shape}",
            expected=f"float32 ({size},)",
        )
    if not np.isfinite(weights).all():
        raise SiteReportError(
            "weights are not finite",
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
            advice="Ask that site what it trains on; max_update_ratio in federation.yaml sets the bound.",
        )


def norm_of(weights: FlatArray) -> float:
    """L2 norm, summed in float64."""
    return math.sqrt(float(np.sum(np.square(weights, dtype=np.float64))))
