"""Confusion counts without small cells, and without the cells that would give them away.

A reader of a site's release knows more than the matrix: how many patients each class has
(the row sums) and how many were diagnosed right (the sum of the diagonal). So after hiding
the small cells we ask what those sums still say: for each hidden cell, the range of counts
that agrees with everything released. Where a single count agrees, the cell could be
recomputed, so another one is hidden, until none could be or nothing is left to hide. That
last case gives away no more than the class counts and the accuracy do by themselves. (A wider
range would hide nearly every row of a good model on a few dozen patients, and with it the
sensitivities that the matrix is there for.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

Counts = npt.NDArray[np.integer]
Hidden = npt.NDArray[np.bool_]
Ranges = npt.NDArray[np.int64]


def hidden_cells(confusion: Counts, *, min_cell: int) -> Hidden:
    """Which cells of a confusion matrix must not be released.

    Cells below `min_cell` are hidden, 0 included: were zeros shown, every hidden cell would
    be known to hold at least one patient.

    Args:
        confusion: (k, k), rows are the true classes.
        min_cell: with 1 or less nothing is hidden.

    Returns:
        (k, k) True where hidden.

    Example:
        >>> int(hidden_cells(np.array([[20, 9, 1], [8, 30, 7], [6, 9, 10]]), min_cell=5).sum())
        2
    """
    counts = np.asarray(confusion, dtype=np.int64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any():
        raise ValueError(f"confusion: got shape {counts.shape}, expected (k, k) counts")
    if min_cell <= 1:
        return np.zeros(counts.shape, dtype=np.bool_)
    hidden: Hidden = np.less(counts, min_cell)
    while not hidden.all():
        low, high = feasible(counts, hidden=hidden)
        told = hidden & (high == low)
        if not told.any():
            break
        hidden[_next_to_hide(counts, hidden=hidden, told=told)] = True
    return hidden


def feasible(counts: Counts, *, hidden: Hidden) -> tuple[Ranges, Ranges]:
    """Least and greatest count that each cell can have, given what is released.

    Released are the cells that are not hidden, all row sums and the sum of the diagonal.
    The ranges are exact: rows depend on one another through the diagonal alone, and within
    a row the cells beside it can share what is left in any way.
    """
    k = len(counts)
    low, high = counts.astype(np.int64), counts.astype(np.int64)
    left = np.where(hidden, counts, 0).sum(axis=1)
    beside: Hidden = np.logical_and(hidden, ~np.eye(k, dtype=np.bool_))
    on_diagonal = np.flatnonzero(np.diag(hidden))
    known_sum = int(np.diag(counts)[on_diagonal].sum())
    # Of a hidden diagonal cell the row alone says: all that is left, unless it can be shared.
    most = left[on_diagonal]
    least = np.where(beside[on_diagonal].any(axis=1), 0, most)
    for place, row in enumerate(on_diagonal):
        low[row, row] = max(least[place], known_sum - (most.sum() - most[place]))
        high[row, row] = min(most[place], known_sum - (least.sum() - least[place]))
    for row in range(k):
        columns = np.flatnonzero(beside[row])
        diagonal_hidden = row in on_diagonal
        least_here = int(low[row, row]) if diagonal_hidden else 0
        most_here = int(high[row, row]) if diagonal_hidden else 0
        high[row, columns] = left[row] - least_here
        low[row, columns] = left[row] - most_here if len(columns) == 1 else 0
    return low, high


def _next_to_hide(counts: Counts, *, hidden: Hidden, told: Hidden) -> tuple[int, int]:
    """The smallest cell still shown, in a row that is told if there is one."""
    candidates = ~hidden & told.any(axis=1, keepdims=True)
    if not candidates.any():
        # Whole rows are hidden and their diagonal still tells: widen it with another one.
        candidates = ~hidden & np.eye(len(counts), dtype=np.bool_)
    if not candidates.any():
        candidates = ~hidden
    shown = np.where(candidates, counts, np.iinfo(np.int64).max)
    row, column = np.unravel_index(int(shown.argmin()), shown.shape)
    return int(row), int(column)


def releasable_columns(confusion: Counts, *, hidden: Hidden) -> npt.NDArray[np.bool_]:
    """Of which classes the false positives may be released beside what `hidden_cells` leaves.

    The false positives of a class are the cells of its column that are off the diagonal. One
    class after the other is taken in, and stays where no hidden cell has a single count left
    that agrees with everything released: row sums, the diagonal's sum, the cells that are
    shown, and the false positives of the classes taken in so far.

    Args:
        confusion: (k, k), rows are the true classes.
        hidden: as `hidden_cells` found it.

    Returns:
        (k,) True where they may be released.

    Example:
        >>> counts = np.array([[20, 3, 1], [2, 18, 1], [1, 2, 18]])
        >>> releasable_columns(counts, hidden=hidden_cells(counts, min_cell=5)).tolist()
        [True, True, True]
        >>> counts = np.array([[20, 4, 0], [3, 18, 0], [2, 3, 18]])
        >>> releasable_columns(counts, hidden=hidden_cells(counts, min_cell=5)).tolist()
        [True, False, False]
    """
    counts = np.asarray(confusion, dtype=np.int64)
    k = len(counts)
    low, high = feasible(counts, hidden=hidden)
    # Where the rows and the diagonal tell a cell already, the columns give nothing away.
    secret = [(int(row), int(column)) for row, column in np.argwhere(hidden & (low < high))]
    taken = np.zeros(k, dtype=np.bool_)
    for column in range(k):
        trial = taken.copy()
        trial[column] = True
        if all(_ambiguous(counts, cell=cell, hidden=hidden, columns=trial) for cell in secret):
            taken = trial
    return taken


def _ambiguous(
    counts: Counts, *, cell: tuple[int, int], hidden: Hidden, columns: npt.NDArray[np.bool_]
) -> bool:
    """Whether more than one count of a cell agrees with what is released; exact, over whole numbers."""
    k = len(counts)
    places = [(int(row), int(column)) for row, column in np.argwhere(hidden)]
    truth = np.array([counts[place] for place in places], dtype=np.float64)
    sums = [[row == r for r, _ in places] for row in range(k)]
    sums.append([r == c for r, c in places])
    sums += [[c == column != r for r, c in places] for column in np.flatnonzero(columns)]
    known = np.array(sums, dtype=np.float64)
    totals = known @ truth
    released = LinearConstraint(known, totals, totals)  # pyright: ignore[reportArgumentType]
    wanted = np.array([place == cell for place in places], dtype=np.float64)
    for sign in (1.0, -1.0):
        found = milp(
            sign * wanted,
            constraints=released,
            integrality=np.ones(len(places)),
            bounds=Bounds(0, float(counts.sum())),
        )
        if found.x is not None and round(float(wanted @ found.x)) != counts[cell]:
            return True
    return False
