"""Which bins of a score histogram a site may release: enough patients in each, and no decision told by an edge.

The edges are the protocol's (`statistics.SCORE_GRID`), so only their merging is decided here.
Whoever has the counts on both sides of the score at which a class is predicted has the confusion
matrix, whatever was hidden in it. So the bins around that score are merged until they hold
`min_cell` patients of the class and as many of the others: each count of the matrix that the
histogram speaks of keeps a range that wide.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stic_core.statistics import CELLS, SCORE_GRID, Mask, Scores, cells_of, merged_starts

Starts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decided:
    """What bins say of the patients that a model takes for a class.

    Args:
        right: least and most patients of the class that are taken for it.
        wrong: least and most patients of other classes that are taken for it.
    """

    right: tuple[int, int]
    wrong: tuple[int, int]


def score_bins(scores: Scores, *, positive: Mask, classes: int, min_cell: int) -> Starts:
    """Where the bins that may be released start, as cells of the grid.

    Args:
        scores: (n,) log odds of the class.
        positive: (n,) True for patients of the class.
        classes: of the task.
        min_cell: fewest patients in a bin; with 1 or less every cell of the grid is a bin.
    """
    cell = cells_of(scores, edges=SCORE_GRID)
    starts = merged_starts(np.bincount(cell, minlength=CELLS), minimum=min_cell)
    if min_cell <= 1:
        return starts
    inside = np.searchsorted(starts, cell, side="right") - 1
    of_class = np.bincount(inside[positive], minlength=len(starts))
    of_others = np.bincount(inside[~positive], minlength=len(starts))
    first, last = _undecided(starts, classes=classes)
    enough = (min(min_cell, int(of_class.sum())), min(min_cell, int(of_others.sum())))
    merged = first > last
    if merged:  # an edge lies just where the decision does: the bins on both sides of it become one
        first, last = last, first
    while True:
        held = (int(of_class[first : last + 1].sum()), int(of_others[first : last + 1].sum()))
        if held[0] >= enough[0] and held[1] >= enough[1]:
            break
        # Patients of the class score high, the others low.
        upward = last + 1 < len(starts) and (held[0] < enough[0] or first == 0)
        first, last, merged = (first, last + 1, True) if upward else (first - 1, last, True)
    return tuple(s for index, s in enumerate(starts) if not (merged and first < index <= last))


def mirrored(starts: Starts) -> Starts:
    """The bins of the second class of two, whose score is the first one's with the other sign.

    Were they merged on their own, from the other end, the two sets of bins would cut each other
    and show single patients.

    Example:
        >>> mirrored((0, 14, 500))
        (0, 14, 500)
    """
    return (0, *(CELLS - start for start in reversed(starts[1:])))


def decided(
    starts: Starts, positives: npt.NDArray[np.integer], negatives: npt.NDArray[np.integer], *, classes: int
) -> Decided:
    """What the counts of a class's bins say of the confusion matrix.

    Args:
        starts: as `score_bins` gives them.
        positives, negatives: (b,) patients of the class and of the others in each bin.
        classes: of the task.
    """
    first, last = _undecided(starts, classes=classes)
    above, within = slice(last + 1, None), slice(first, last + 1)

    def span(counts: npt.NDArray[np.integer]) -> tuple[int, int]:
        least = int(counts[above].sum())
        return least, least + int(counts[within].sum())

    return Decided(right=span(positives), wrong=span(negatives))


def moved(before: npt.NDArray[np.integer], after: npt.NDArray[np.integer]) -> int:
    """How many patients must be left out for two ways of binning them to be the same groups.

    Args:
        before, after: (n,) each patient's bin.
    """
    table = np.zeros((int(before.max(initial=0)) + 1, int(after.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(table, (before, after), 1)
    return int(table.sum()) - int(min(table.max(axis=0).sum(), table.max(axis=1).sum()))


def out_of_order(before: Scores, after: Scores) -> int:
    """How many patients must be left out for two models to order them alike.

    Args:
        before, after: (n,) each patient's score.

    Example:
        >>> out_of_order(np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 40.0, 20.0, 30.0]))
        1
    """
    ends: list[float] = []  # of the best rising sequence of each length
    for score in after[np.lexsort((after, before))]:
        place = bisect_right(ends, score)
        ends[place : place + 1] = [score]
    return len(after) - len(ends)


def _undecided(starts: Starts, *, classes: int) -> tuple[int, int]:
    """First and last bin in which the score does not tell whether the class is predicted.

    From log odds 0 on it is, and below those of 1 / classes it is not. The first is after the
    last where an edge lies just there.
    """
    inner = SCORE_GRID[np.asarray(starts[1:], dtype=np.intp) - 1]
    never = -np.log(classes - 1.0)
    return int(np.searchsorted(inner, never, side="right")), int(np.searchsorted(inner, 0.0, side="left"))
