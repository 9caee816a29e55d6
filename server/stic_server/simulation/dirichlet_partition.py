"""Dealing patients out to sites so that the sites' classes differ: a Dirichlet draw for each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stic_core.data.dataset import Split
from stic_core.errors import UsageError
from stic_core.tensors.array_types import LabelVector

LEAST = 5
"""Patients that every site gets of each split at least: fewer, and its policy would release nothing."""

_DRAWS = 1000


def dirichlet_partition(
    labels: Sequence[str], splits: Sequence[Split], *, sites: int, alpha: float, seed: int, least: int = LEAST
) -> LabelVector:
    """Which site each patient goes to.

    Each class is shared out by one draw of a symmetric Dirichlet distribution (Hsu, Qi and
    Brown 2019), the same in every split, so that a site is held out on the mix that it trains
    on. A small alpha gives sites of almost one class; a large one gives sites alike.

    Args:
        labels: one class per patient.
        splits: a patient's split, which it keeps.
        sites: how many.
        alpha: of the distribution.
        seed: equal seeds deal alike.
        least: a draw that gives a site fewer patients of a split than this is drawn again.

    Returns:
        A site's number, from 0, for each patient.

    Raises:
        UsageError: no sites, no such alpha, or no draw that gives every site enough patients.
    """
    if sites < 2:
        raise UsageError("too few sites to distribute patients to", got=sites, expected="2 or more")
    if not 0 < alpha < np.inf:
        raise UsageError(
            "unsuitable alpha of the Dirichlet distribution", got=alpha, expected="a number above 0"
        )
    rng = np.random.default_rng([seed, sites])
    label_of, split_of = np.array(labels), np.array(splits)
    for _ in range(_DRAWS):
        dealt = _draw(label_of, split_of, sites=sites, alpha=alpha, rng=rng)
        counts = [np.bincount(dealt[split_of == split], minlength=sites) for split in np.unique(split_of)]
        if min(int(count.min()) for count in counts) >= least:
            return dealt
    raise UsageError(
        f"none of {_DRAWS} draws gives every site {least} patients in each split",
        got=f"{len(labels)} patients for {sites} sites with alpha {alpha:g}",
        advice="Use fewer sites or a larger alpha.",
    )


def _draw(
    labels: np.ndarray, splits: np.ndarray, *, sites: int, alpha: float, rng: np.random.Generator
) -> LabelVector:
    dealt = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        shares = rng.dirichlet(np.full(sites, alpha))
        for split in np.unique(splits):
            rows = rng.permutation(np.flatnonzero((labels == label) & (splits == split)))
            dealt[rows] = np.repeat(np.arange(sites), _whole(shares, len(rows)))
    return dealt


def _whole(shares: np.ndarray, total: int) -> np.ndarray:
    """Shares of a total as whole numbers that add up to it: largest remainders."""
    counts = np.floor(shares * total).astype(np.int64)
    order = np.argsort(counts - shares * total, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts
