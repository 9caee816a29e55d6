"""Federated ROC: AUC, hard bounds and DeLong's variance from score histograms of several sites.

A site counts its patients in bins that were fixed before the held-out evaluation, merges
neighbours until each bin holds enough patients, and releases the counts. Sites merge
differently, so a bin is an interval: two bins that do not overlap say for certain which
patient scores higher, two that overlap say nothing. The pairs that are certain give hard
bounds on the AUC that pooled scores would give. The estimate between them spreads a merged
bin over the fine bins that it covers (`fine_counts`); within one fine bin a pair counts a half. For
bins that are equal at all sites that is the middle of the bounds, the AUC of the tied score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from stic_core.statistics.auc import NO_VARIANCE, Auc, Mask, Scores, absent_class
from stic_core.statistics.bounds import Count, Finite
from stic_core.statistics.logistic import Recalibration, logistic_fit
from stic_core.statistics.values import FORBID, NotEstimable


@dataclass(frozen=True)
class ScoreHistogram:
    """What a site releases of the scores of one class.

    Bin j holds scores s with lower_j <= s < upper_j; the first and the last are open ended.

    Args:
        edges: the b - 1 inner edges of the b fine bins, strictly increasing, equal at all sites.
        starts: the fine bin at which each released bin starts; the first is 0.
        positives, negatives: patients in each released bin, of the class and of the others.
        sums: sum of the scores in each released bin, for the slope of the calibration.
    """

    edges: tuple[Finite, ...]
    starts: tuple[Count, ...]
    positives: tuple[Count, ...]
    negatives: tuple[Count, ...]
    sums: tuple[Finite, ...]

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        lengths = {len(self.starts), len(self.positives), len(self.negatives), len(self.sums)}
        if len(lengths) != 1 or not self.starts:
            raise ValueError(f"histogram: got columns of {sorted(lengths)} bins, expected one length above 0")
        edges = np.asarray(self.edges, dtype=np.float64)
        if not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
            raise ValueError("histogram edges: expected finite and strictly increasing")
        if self.starts[0] != 0 or not all(a < b for a, b in pairwise((*self.starts, len(self.edges) + 1))):
            raise ValueError("histogram bins: expected starts that increase from 0 and stay within the edges")
        if min(self.positives) < 0 or min(self.negatives) < 0:
            raise ValueError("histogram counts: got a negative one")
        if not np.isfinite(self.sums).all():
            raise ValueError("histogram sums: expected finite numbers")

    @property
    def fine_bins(self) -> int:
        """Number of bins before merging."""
        return len(self.edges) + 1


def score_histogram(
    scores: Scores, *, positive: Mask, edges: Sequence[float] | Scores, min_cell: int
) -> ScoreHistogram:
    """Count scores in bins, and merge neighbours until each holds `min_cell` patients.

    Classes are counted together for that: asking each class for 0 or enough would cost .05
    to .4 of the AUC. At 100 patients and 5 a bin, merging costs .002.

    Args:
        scores: (n,).
        positive: (n,) True for patients of the class.
        edges: inner edges of the fine bins.
        min_cell: fewest patients in a released bin; with 1 or less nothing is merged. Fewer
            patients than this altogether give one bin, which the caller must not release.
    """
    cell = cells_of(scores, edges=edges)
    starts = merged_starts(np.bincount(cell, minlength=len(edges) + 1), minimum=min_cell)
    return counted(scores, positive=positive, edges=edges, starts=starts)


def cells_of(scores: Scores, *, edges: Sequence[float] | Scores) -> npt.NDArray[np.intp]:
    """The fine bin of each of (n,) scores."""
    return np.searchsorted(np.asarray(edges, dtype=np.float64), scores, side="right")


def counted(
    scores: Scores, *, positive: Mask, edges: Sequence[float] | Scores, starts: Sequence[int]
) -> ScoreHistogram:
    """Count (n,) scores in bins that start at given fine bins; see `ScoreHistogram`."""
    cell, bins = cells_of(scores, edges=edges), len(edges) + 1
    p = np.bincount(cell[positive], minlength=bins)
    n = np.bincount(cell[~positive], minlength=bins)
    sums = np.bincount(cell, weights=np.asarray(scores, dtype=np.float64), minlength=bins)
    return ScoreHistogram(
        edges=tuple(float(edge) for edge in edges),
        starts=tuple(starts),
        positives=tuple(int(x) for x in np.add.reduceat(p, starts)),
        negatives=tuple(int(x) for x in np.add.reduceat(n, starts)),
        sums=tuple(float(x) for x in np.add.reduceat(sums, starts)),
    )


def merged_starts(counts: npt.NDArray[np.integer], *, minimum: int) -> tuple[int, ...]:
    """Where bins start after merging neighbours, from the left, until each holds `minimum`.

    What is left over at the right end joins the last bin.

    Example:
        >>> merged_starts(np.array([3, 0, 2, 5, 1]), minimum=5)
        (0, 3)
    """
    if minimum <= 1:
        return tuple(range(len(counts)))
    starts, held = [0], 0
    for index, count in enumerate(counts):
        if held >= minimum:
            starts.append(index)
            held = 0
        held += int(count)
    if held < minimum and len(starts) > 1:
        starts.pop()
    return tuple(starts)


@dataclass(frozen=True)
class PooledAuc(Auc):
    """An AUC from histograms.

    Args:
        bounds: the AUC of the scores themselves lies between these, for certain.
    """

    bounds: tuple[float, float]


def pooled_auc(
    sites: Sequence[Sequence[ScoreHistogram]], *, exact: Sequence[float | None] = ()
) -> PooledAuc | NotEstimable:
    """AUC over the patients of all sites together.

    For equal bins without merging these are sum_k p_k (N_<k + n_k / 2) / (m n) and the bounds
    +- sum_k p_k n_k / (2 m n).

    Args:
        sites: each site's histogram of one class; for the micro average the histograms of
            all classes, which are compared on the union of their edges.
        exact: each site's own AUC, in the same order, None where it is not released. Pairs
            inside such a site are then counted exactly, and only pairs across sites through
            bins, which halves the error for two sites.
    """
    histograms = [histogram for site in sites for histogram in site]
    positives, negatives = _patients(histograms)
    if positives == 0 or negatives == 0:
        return absent_class(positives=positives, negatives=negatives)
    slope = _slope(histograms)
    p, n = fine_counts(histograms, slope=slope)
    above = (np.cumsum(n) - n / 2) / negatives
    below = 1 - (np.cumsum(p) - p / 2) / positives
    value = float(p @ above) / positives
    variance = _tied_variance(value, p=p, n=n, above=above, below=below)
    pairs = positives * negatives
    in_order = value * pairs
    low, high = _certain_pairs(histograms)
    for site, auc in zip(sites, exact, strict=False):
        if auc is not None:
            m, k = _patients(site)
            own_p, own_n = fine_counts(site, slope=slope)
            own_low, own_high = _certain_pairs(site)
            in_order += auc * m * k - float(own_p @ (np.cumsum(own_n) - own_n / 2))
            low += auc * m * k - own_low
            high += auc * m * k - own_high
    bounds = (max(low / pairs, 0.0), min(high / pairs, 1.0))
    return PooledAuc(
        # A sum that rounds to a hair below 1 would have an interval on the logit scale, from 0 to 1.
        value=min(max(in_order / pairs, bounds[0]), bounds[1]),
        variance=variance,
        positives=positives,
        negatives=negatives,
        bounds=bounds,
    )


def fine_counts(histograms: Sequence[ScoreHistogram], *, slope: float | None = None) -> tuple[Scores, Scores]:
    """Positives and negatives in each fine bin, summed.

    The patients of a merged bin are spread evenly over it, those of the class rather to its upper
    end: scores are log odds, and how steeply the share of the class rises with them is fitted on all
    bins. An outer bin is open ended: it is spread so far that its mean score lies in its middle.

    Args:
        slope: how steeply, where it was fitted on more bins than these.
    """
    grid = _grid(histograms)
    p, n = np.zeros(len(grid) + 1), np.zeros(len(grid) + 1)
    slope = _slope(histograms) if slope is None else slope
    centres = np.r_[grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]]
    for histogram in histograms:
        extents = _closed(histogram, grid, *_extent(histogram, grid))
        for lower, upper, of_class, of_others in zip(
            *extents, histogram.positives, histogram.negatives, strict=True
        ):
            share = _share(of_class, of_others, slope * centres[lower:upper])
            p[lower:upper] += (of_class + of_others) / (upper - lower) * share
            n[lower:upper] += (of_class + of_others) / (upper - lower) * (1 - share)
    return p, n


def mean_scores(histograms: Sequence[ScoreHistogram]) -> tuple[Scores, Scores, Scores]:
    """Mean score, patients of the class and of the others of each bin that holds any."""
    rows = [
        (total / (p + n), p, n)
        for histogram in histograms
        for p, n, total in zip(histogram.positives, histogram.negatives, histogram.sums, strict=True)
        if p + n
    ]
    x, p, n = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return x, p, n


def _slope(histograms: Sequence[ScoreHistogram]) -> float:
    """How steeply the log odds of the class rise with the score: at most as steeply as they say."""
    x, p, n = mean_scores(histograms)
    fit = logistic_fit(x, hits=p, misses=n) if len(x) else None
    return min(max(fit.slope, 0.0), 1.0) if isinstance(fit, Recalibration) else 1.0


def _share(of_class: int, of_others: int, rising: Scores) -> Scores:
    """Share of the class in each cell of a bin, logistic in `rising`, with the bin's own mean."""
    total = of_class + of_others
    if len(rising) == 1 or of_class == 0 or of_others == 0:
        return np.full(len(rising), of_class / max(total, 1))
    low, high = -rising.max() - 40.0, 40.0 - rising.min()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(middle + rising).mean() * total < of_class else (low, middle)
    share = expit((low + high) / 2 + rising)
    return share * (of_class / total / share.mean())


def pooled_roc(histograms: Sequence[ScoreHistogram]) -> tuple[Scores, Scores] | NotEstimable:
    """Points of the pooled ROC curve, false and true positive rates from (0, 0) to (1, 1).

    The area under the straight lines between them is `pooled_auc` without `exact`.
    """
    p, n = fine_counts(histograms)
    if p.sum() == 0 or n.sum() == 0:
        return absent_class(positives=int(p.sum() > 0), negatives=int(n.sum() > 0))
    tpr, fpr = np.r_[0.0, np.cumsum(p[::-1]) / p.sum()], np.r_[0.0, np.cumsum(n[::-1]) / n.sum()]
    keep = np.r_[True, (np.diff(tpr) > 0) | (np.diff(fpr) > 0)]
    return np.minimum(fpr[keep], 1.0), np.minimum(tpr[keep], 1.0)


def _patients(histograms: Sequence[ScoreHistogram]) -> tuple[int, int]:
    return sum(sum(h.positives) for h in histograms), sum(sum(h.negatives) for h in histograms)


def _grid(histograms: Sequence[ScoreHistogram]) -> Scores:
    first = histograms[0].edges
    if all(histogram.edges == first for histogram in histograms):
        return np.asarray(first, dtype=np.float64)
    return np.unique(np.concatenate([histogram.edges for histogram in histograms]))


def _extent(histogram: ScoreHistogram, grid: Scores) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """First fine bin of the grid that each released bin covers, and the one after its last."""
    inner = np.asarray(histogram.edges, dtype=np.float64)[np.asarray(histogram.starts[1:], dtype=np.intp) - 1]
    inside = np.searchsorted(grid, inner) + 1
    return np.r_[0, inside].astype(np.intp), np.r_[inside, len(grid) + 1].astype(np.intp)


def _closed(
    histogram: ScoreHistogram, grid: Scores, lower: npt.NDArray[np.intp], upper: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The extents, the two open ones cut to twice the distance of their mean from their inner end."""
    if len(lower) > 1:
        means = np.asarray(histogram.sums) / np.maximum(
            np.asarray(histogram.positives) + np.asarray(histogram.negatives), 1
        )
        first, last = (int(cell) for cell in np.searchsorted(grid, means[[0, -1]], side="right"))
        lower[0] = min(max(2 * first - upper[0] + 1, 0), upper[0] - 1)
        upper[-1] = max(min(2 * last - lower[-1] + 1, len(grid) + 1), lower[-1] + 1)
    return lower, upper


def auc_bounds(histograms: Sequence[ScoreHistogram]) -> tuple[float, float] | NotEstimable:
    """Between these lies the AUC of any scores that the histograms count, for certain."""
    positives, negatives = _patients(histograms)
    if positives == 0 or negatives == 0:
        return absent_class(positives=positives, negatives=negatives)
    low, high = _certain_pairs(histograms)
    pairs = positives * negatives
    return low / pairs, high / pairs


def _certain_pairs(histograms: Sequence[ScoreHistogram]) -> tuple[float, float]:
    """Pairs that are in order for certain, and pairs that may be."""
    grid = _grid(histograms)
    cells = len(grid) + 1
    ends, begins = np.zeros(cells + 1), np.zeros(cells + 1)
    extents = [_extent(histogram, grid) for histogram in histograms]
    for histogram, (lower, upper) in zip(histograms, extents, strict=True):
        counts = np.asarray(histogram.negatives, dtype=np.float64)
        ends += np.bincount(upper, weights=counts, minlength=cells + 1)
        begins += np.bincount(lower, weights=counts, minlength=cells + 1)
    # certain[t]: negatives whose bin ends at or before t; possible[t]: those that begin before t.
    certain, possible = np.cumsum(ends), np.cumsum(begins) - begins
    low = high = 0.0
    for histogram, (lower, upper) in zip(histograms, extents, strict=True):
        counts = np.asarray(histogram.positives, dtype=np.float64)
        low += float(counts @ certain[lower])
        high += float(counts @ possible[upper])
    return low, high


def _tied_variance(
    value: float, *, p: Scores, n: Scores, above: Scores, below: Scores
) -> float | NotEstimable:
    m, k = p.sum(), n.sum()
    if m < 2 or k < 2:
        return NotEstimable("a variance needs two patients of the class and two others")
    of_positives = float(p @ (above - value) ** 2) / (m - 1)
    of_negatives = float(n @ (below - value) ** 2) / (k - 1)
    variance = of_positives / m + of_negatives / k
    return float(variance) if variance > 0 and 0 < value < 1 else NO_VARIANCE
