"""Federated ROC: AUC, hard bounds and DeLong's variance from score histograms of several sites.

Sites merge bins differently, so a bin is an interval: two bins that do not overlap say for
certain which patient scores higher, two that overlap leave it open. Pairs of patients of one
site are no question where that site released its AUC, which counts them exactly. So only pairs
across sites can be open, and certain and open pairs together give hard bounds on the AUC that
pooled scores would give.

Between the bounds the estimate spreads a merged bin evenly over the cells of the grid that it
covers, patients of the class rather to its upper end and the others to its lower end. How steeply
is not assumed: it is what makes the spread bins of each site agree with the AUCs that the sites
themselves counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from stic_core.statistics.auc import NO_VARIANCE, Auc, Scores, absent_class
from stic_core.statistics.bin_order import certain_pairs, grid_of, loose_pairs, patients_of
from stic_core.statistics.histogram import ScoreHistogram
from stic_core.statistics.spread import Spread, centres_of, in_order
from stic_core.statistics.values import NotEstimable

COARSEST = 0.4
"""Share of all pairs of patients that bins may leave open for a pooled AUC to be shown, where sites' own AUCs
say how scores lie within bins. Up to here its bias stays below .005 (`benchmarks/pooled_auc_coverage.py`)."""

COARSEST_ASSUMED = 0.1
"""The same where no site releases its AUC, so that how scores lie within bins is an assumption."""

ASSUMED_STEEPNESS = 0.5
"""Of scores that are calibrated log odds: the odds of the class then rise by exp(score)."""

_UNIFORM_VARIANCE = 1 / 12


@dataclass(frozen=True)
class PooledAuc(Auc):
    """An AUC from histograms.

    Args:
        bounds: the AUC of the scores themselves lies between these, for certain.
    """

    bounds: tuple[float, float]


@dataclass(frozen=True, eq=False)
class PooledScores:
    """The scores of one class over all sites, counted in the cells of one grid.

    Counts that are known exactly, as a sum over sites that no single site's counts can be told
    from, are a `PooledScores` as well: `of_counts`.

    Args:
        edges: inner edges of the cells.
        positives, negatives: (cells,) patients of the class and of the others, as they are expected.
        in_order: pairs of patients in order, as expected.
        certain, possible: pairs that are in order for certain, and that may be.
        open_by_bins: share of the pairs that the bins alone leave open, whatever sites' own AUCs say.
        coarse: share of the pairs of any two patients whose order is open. Unlike that of the pairs of two
            classes, it hardly depends on the AUC, so that what is shown does not depend on the result.
        bins: released bins that hold patients.
        assumed: no site's own AUC says how scores lie within bins.
    """

    edges: Scores
    positives: Scores
    negatives: Scores
    in_order: float
    certain: float
    possible: float
    open_by_bins: float
    coarse: float
    bins: int
    assumed: bool

    @classmethod
    def of_counts(
        cls, positives: Sequence[int] | Scores, negatives: Sequence[int] | Scores, *, edges: Scores
    ) -> PooledScores | NotEstimable:
        """Of exact counts in the cells of a grid, one more than its inner `edges`."""
        ones = ScoreHistogram(
            edges=tuple(float(edge) for edge in edges),
            starts=tuple(range(len(edges) + 1)),
            positives=tuple(int(x) for x in positives),
            negatives=tuple(int(x) for x in negatives),
            sums=(0.0,) * (len(edges) + 1),
        )
        return pool_scores([[ones]])

    @property
    def pairs(self) -> float:
        """Pairs of a patient of the class and another one."""
        return float(self.positives.sum() * self.negatives.sum())

    @property
    def bounds(self) -> tuple[float, float]:
        """Between these lies the AUC of any scores that were counted so, for certain."""
        return max(self.certain / self.pairs, 0.0), min(self.possible / self.pairs, 1.0)

    @property
    def open(self) -> float:
        """Share of the pairs whose order is not known."""
        low, high = self.bounds
        return max(high - low, 0.0)

    @property
    def too_open(self) -> NotEstimable | None:
        """Why the AUC is not shown: it would be what was assumed of scores within bins, not the sites' data."""
        if self.coarse <= (COARSEST_ASSUMED if self.assumed else COARSEST):
            return None
        low, high = self.bounds
        return NotEstimable(
            f"the released bins of scores leave the order of {100 * self.coarse:.0f} % of the pairs of patients open; "
            f"the AUC lies between {low:.3f} and {high:.3f} for certain"
        )

    @cached_property
    def centres(self) -> Scores:
        """(cells,) the score in the middle of each cell; the open ones have their inner end."""
        return centres_of(self.edges)

    def auc(self) -> PooledAuc:
        """The AUC over all patients, whether or not it is `too_open`.

        Its variance is DeLong's for the spread scores, plus that of open pairs, as if each bin put its
        share of them in order by a draw of its own, uniform within the bin.
        """
        m, k = self.positives.sum(), self.negatives.sum()
        above = (np.cumsum(self.negatives) - self.negatives / 2) / k
        below = 1 - (np.cumsum(self.positives) - self.positives / 2) / m
        low, high = self.bounds
        # A sum that rounds to a hair below 1 would have an interval on the logit scale, from 0 to 1.
        value = min(max(self.in_order / self.pairs, low), high)
        return PooledAuc(
            value=value,
            variance=self._variance(value, above=above, below=below),
            positives=round(m),
            negatives=round(k),
            bounds=(low, high),
        )

    def roc(self) -> tuple[Scores, Scores]:
        """Points of the ROC curve, false and true positive rates from (0, 0) to (1, 1)."""
        tpr = np.r_[0.0, np.cumsum(self.positives[::-1]) / self.positives.sum()]
        fpr = np.r_[0.0, np.cumsum(self.negatives[::-1]) / self.negatives.sum()]
        keep = np.r_[True, (np.diff(tpr) > 0) | (np.diff(fpr) > 0)]
        return np.minimum(fpr[keep], 1.0), np.minimum(tpr[keep], 1.0)

    def _variance(self, value: float, *, above: Scores, below: Scores) -> float | NotEstimable:
        m, k = self.positives.sum(), self.negatives.sum()
        if m < 2 or k < 2:
            return NotEstimable("a variance needs two patients of the class and two others")
        mean = float(self.positives @ above) / m
        of_positives = float(self.positives @ (above - mean) ** 2) / (m - 1)
        of_negatives = float(self.negatives @ (below - mean) ** 2) / (k - 1)
        variance = of_positives / m + of_negatives / k
        if not (variance > 0 and 0 < value < 1):
            return NO_VARIANCE
        return float(variance) + self._open_variance(value)

    def _open_variance(self, value: float) -> float:
        """Of the pairs that are open, by which share of them is in order."""
        low, _ = self.bounds
        if self.open == 0:
            return 0.0
        right = (value - low) / self.open
        return self.open**2 * right * (1 - right) * _UNIFORM_VARIANCE / self.bins


def pool_scores(
    sites: Sequence[Sequence[ScoreHistogram]], *, exact: Sequence[float | None] = ()
) -> PooledScores | NotEstimable:
    """Count the scores of all sites on one grid.

    Args:
        sites: each site's histogram of one class; for the micro average the histograms of
            all classes, which are compared on the union of their edges.
        exact: each site's own AUC, in the same order, None where it is not released.
    """
    own = [*exact, *[None] * (len(sites) - len(exact))]
    histograms = list(chain.from_iterable(sites))
    positives, negatives = patients_of(histograms)
    if positives == 0 or negatives == 0:
        return absent_class(positives=positives, negatives=negatives)
    edges = grid_of(histograms)
    low, high = certain_pairs(histograms, edges)
    pairs = positives * negatives
    open_by_bins, loose = (high - low) / pairs, loose_pairs(histograms, edges)
    for site, auc in zip(sites, own, strict=True):
        if auc is not None:
            m, k = patients_of(site)
            own_low, own_high = certain_pairs(site, edges)
            low += auc * m * k - own_low
            high += auc * m * k - own_high
            loose -= loose_pairs(site, edges)
    known = np.array(
        [auc is not None and min(patients_of(site)) > 0 for site, auc in zip(sites, own, strict=True)]
    )
    spread = Spread.of(sites, edges)
    told = sum(
        auc * patients_of(site)[0] * patients_of(site)[1]
        for site, auc in zip(sites, own, strict=True)
        if auc is not None
    )
    steepness = spread.steepness(told, known=known) if known.any() else ASSUMED_STEEPNESS
    p, n = spread.counts(steepness)
    within = in_order(p, n)[known].sum()
    p, n = p.sum(axis=0), n.sum(axis=0)
    return PooledScores(
        edges=edges,
        positives=p,
        negatives=n,
        in_order=float(in_order(p, n) + told - within),
        certain=low,
        possible=high,
        open_by_bins=open_by_bins,
        coarse=loose / (positives + negatives) ** 2,
        bins=sum(int(np.count_nonzero(np.add(h.positives, h.negatives))) for h in histograms),
        assumed=not known.any(),
    )


def pooled_auc(
    sites: Sequence[Sequence[ScoreHistogram]], *, exact: Sequence[float | None] = ()
) -> PooledAuc | NotEstimable:
    """AUC over the patients of all sites together, whatever bins leave open; see `pool_scores`.

    For equal bins without merging these are sum_k p_k (N_<k + n_k / 2) / (m n) and the bounds
    +- sum_k p_k n_k / (2 m n).
    """
    pooled = pool_scores(sites, exact=exact)
    return pooled.auc() if isinstance(pooled, PooledScores) else pooled


def auc_bounds(histograms: Sequence[ScoreHistogram]) -> tuple[float, float] | NotEstimable:
    """Between these lies the AUC of any scores that the histograms count, for certain."""
    positives, negatives = patients_of(histograms)
    if positives == 0 or negatives == 0:
        return absent_class(positives=positives, negatives=negatives)
    low, high = certain_pairs(histograms, grid_of(histograms))
    pairs = positives * negatives
    return low / pairs, high / pairs
