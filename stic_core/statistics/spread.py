"""Where in a merged bin its patients lie: the one thing that is assumed, and how much of it sites' own AUCs tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stic_core.statistics.auc import Scores
from stic_core.statistics.bin_order import Cells, extent
from stic_core.statistics.histogram import ScoreHistogram
from stic_core.statistics.roots import root

_STEEPEST = (-2.0, 6.0)
"""Range of the steepness: beyond it all patients of the class lie on one side of each bin."""


def centres_of(edges: Scores) -> Scores:
    """Middle of each cell between inner edges; the open ones have their inner end."""
    return np.r_[edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]]


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """The released bins of all sites over the cells that they cover; a row for each cell of each bin.

    Args:
        sites, cells: how many there are.
        place: site x cells + cell of each row.
        starts: the first row of each bin.
        rows: of each bin.
        offset: how far, in asinh of the score, each row lies above the middle of its bin.
        positives, negatives: patients of each bin.
    """

    sites: int
    cells: int
    place: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    rows: npt.NDArray[np.intp]
    offset: Scores
    positives: Scores
    negatives: Scores

    @classmethod
    def of(cls, sites: Sequence[Sequence[ScoreHistogram]], edges: Scores) -> Spread:
        """Of each site's histograms, over the cells between inner `edges`."""
        cells = len(edges) + 1
        lower, upper, whose, p, n = [], [], [], [], []
        for index, histograms in enumerate(sites):
            for histogram in histograms:
                low, high = _closed(histogram, edges, *extent(histogram, edges))
                lower.append(low)
                upper.append(high)
                whose.append(np.full(len(low), index))
                p.append(np.asarray(histogram.positives, dtype=np.float64))
                n.append(np.asarray(histogram.negatives, dtype=np.float64))
        first, rows = np.concatenate(lower), np.concatenate(upper) - np.concatenate(lower)
        starts = np.cumsum(rows) - rows
        cell = np.arange(rows.sum()) - np.repeat(starts - first, rows)
        # The grid is even in asinh, so offsets there are the same for bins near 0 and far out.
        height = np.arcsinh(centres_of(edges))[cell]
        return cls(
            sites=len(sites),
            cells=cells,
            place=np.repeat(np.concatenate(whose), rows) * cells + cell,
            starts=starts,
            rows=rows,
            offset=height - np.repeat(np.add.reduceat(height, starts) / rows, rows),
            positives=np.concatenate(p),
            negatives=np.concatenate(n),
        )

    def counts(self, steepness: float) -> tuple[Scores, Scores]:
        """(sites, cells) positives and negatives, where they rise and fall by exp(steepness x offset)."""
        return self._placed(self.positives, steepness), self._placed(self.negatives, -steepness)

    def _placed(self, counts: Scores, steepness: float) -> Scores:
        exponent = steepness * self.offset
        weight = np.exp(exponent - np.repeat(np.maximum.reduceat(exponent, self.starts), self.rows))
        placed = weight * np.repeat(counts / np.add.reduceat(weight, self.starts), self.rows)
        flat = np.bincount(self.place, weights=placed, minlength=self.sites * self.cells)
        return np.asarray(flat, dtype=np.float64).reshape(self.sites, self.cells)

    def steepness(self, told: float, *, known: npt.NDArray[np.bool_]) -> float:
        """At which the pairs in order within the sites that are `known` are as many as `told`."""

        def missing(steepness: float) -> float:
            return float(in_order(*self.counts(steepness))[known].sum()) - told

        low, high = _STEEPEST
        if missing(low) >= 0:
            return low
        return high if missing(high) <= 0 else root(missing, low, high, accuracy=1e-4)


def in_order(p: Scores, n: Scores) -> Scores:
    """Pairs in order over the last axis; within one cell a pair counts a half."""
    return (p * (np.cumsum(n, axis=-1) - n / 2)).sum(axis=-1)


def _closed(
    histogram: ScoreHistogram, grid: Scores, lower: npt.NDArray[np.intp], upper: npt.NDArray[np.intp]
) -> tuple[Cells, Cells]:
    """The extents, the two open ones cut to twice the distance of their mean from their inner end."""
    if len(lower) > 1:
        means = np.asarray(histogram.sums) / np.maximum(
            np.asarray(histogram.positives) + np.asarray(histogram.negatives), 1
        )
        first, last = (int(cell) for cell in np.searchsorted(grid, means[[0, -1]], side="right"))
        lower[0] = min(max(2 * first - upper[0] + 1, 0), upper[0] - 1)
        upper[-1] = max(min(2 * last - lower[-1] + 1, len(grid) + 1), lower[-1] + 1)
    return lower, upper
