"""Which pairs of patients in released bins are in order for certain, and which may be.

A bin is an interval of the grid: of two that do not overlap it is certain which patient scores
higher, of two that overlap it is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from stic_core.statistics.auc import Scores
from stic_core.statistics.histogram import ScoreHistogram

Cells = npt.NDArray[np.intp]


def patients_of(histograms: Sequence[ScoreHistogram]) -> tuple[int, int]:
    """Patients of the class, and of the others."""
    return sum(sum(h.positives) for h in histograms), sum(sum(h.negatives) for h in histograms)


def grid_of(histograms: Sequence[ScoreHistogram]) -> Scores:
    """Inner edges of all histograms together."""
    first = histograms[0].edges
    if all(histogram.edges is first or histogram.edges == first for histogram in histograms):
        return np.asarray(first, dtype=np.float64)
    return np.unique(np.concatenate([histogram.edges for histogram in histograms]))


def extent(histogram: ScoreHistogram, grid: Scores) -> tuple[Cells, Cells]:
    """First cell of the grid that each released bin covers, and the one after its last."""
    inside = np.asarray(histogram.starts[1:], dtype=np.intp)
    if len(histogram.edges) != len(grid):  # else the grid is its own
        inside = np.searchsorted(grid, np.asarray(histogram.edges)[inside - 1]) + 1
    return np.r_[0, inside].astype(np.intp), np.r_[inside, len(grid) + 1].astype(np.intp)


def certain_pairs(histograms: Sequence[ScoreHistogram], grid: Scores) -> tuple[float, float]:
    """Pairs that are in order for certain, and pairs that may be."""
    cells = len(grid) + 1
    lower, upper = extents(histograms, grid)
    p, n = (
        np.array(list(chain.from_iterable(counts)), dtype=np.float64)
        for counts in ([h.positives for h in histograms], [h.negatives for h in histograms])
    )
    return _sure(p, n, lower=lower, upper=upper, cells=cells)


def loose_pairs(histograms: Sequence[ScoreHistogram], grid: Scores) -> float:
    """Pairs of any two patients, each counted from both sides, whose order is open."""
    lower, upper = extents(histograms, grid)
    every = np.concatenate([np.add(h.positives, h.negatives) for h in histograms]).astype(np.float64)
    low, high = _sure(every, every, lower=lower, upper=upper, cells=len(grid) + 1)
    return high - low


def extents(histograms: Sequence[ScoreHistogram], grid: Scores) -> tuple[Cells, Cells]:
    """`extent` of the bins of all histograms, one after the other."""
    lower, upper = zip(*(extent(histogram, grid) for histogram in histograms), strict=True)
    return np.concatenate(lower), np.concatenate(upper)


def _sure(p: Scores, n: Scores, *, lower: Cells, upper: Cells, cells: int) -> tuple[float, float]:
    """Pairs of one of `p` and one of `n` that are in order for certain, and that may be, by the bins' extents."""
    ends = np.bincount(upper, weights=n, minlength=cells + 1)
    begins = np.bincount(lower, weights=n, minlength=cells + 1)
    # certain[t]: negatives whose bin ends at or before t; possible[t]: those that begin before t.
    certain, possible = np.cumsum(ends), np.cumsum(begins) - begins
    return float(p @ certain[lower]), float(p @ possible[upper])
