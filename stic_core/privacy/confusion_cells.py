"""Which counts of a confusion matrix may leave: none that is small, and none that gives a small one away.

A reader of a site's release knows more than the matrix: how many patients each class has (the
row sums), perhaps how many were diagnosed right (the sum of the diagonal) or wrongly taken for a
class (a column beside the diagonal), and what the score histograms say of those who were taken
for a class. So after hiding the small cells an auditor asks what all of that still says: the
least and the greatest count of each hidden cell that agrees with it, over whole numbers. Where
they lie less than `min_cell` apart another cell is hidden; when no cell is left, the accuracy.

What the class counts themselves say is no secret: a class of three patients has no cell above
three, and its cells need no range wider than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from stic_core.privacy.score_bins import Decided

Counts = npt.NDArray[np.integer]
Hidden = npt.NDArray[np.bool_]
Columns = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Releasable:
    """What of a confusion matrix may leave together.

    Args:
        cells: (k, k) True where the cell may leave.
        accuracy: whether the sum of the diagonal may.
        columns: (k,) of which classes the false positives may, and with them the specificity.
    """

    cells: Hidden
    accuracy: bool
    columns: Columns


def releasable(
    confusion: Counts, *, min_cell: int, said: Sequence[Decided] | None = None, accuracy: bool = True
) -> Releasable:
    """Choose what may leave.

    Cells below `min_cell` are hidden, 0 included: were zeros shown, every hidden cell would
    be known to hold at least one patient.

    Args:
        confusion: (k, k), rows are the true classes.
        min_cell: with 1 or less everything may leave.
        said: what each class's score histogram says, where histograms leave.
        accuracy: False where the policy keeps the accuracy back.

    Example:
        >>> found = releasable(np.array([[20, 9, 6], [8, 30, 7], [6, 9, 10]]), min_cell=5)
        >>> bool(found.cells.all()), found.accuracy, found.columns.tolist()
        (True, True, [True, True, True])
        >>> found = releasable(np.array([[20, 3, 2], [8, 30, 7], [6, 9, 10]]), min_cell=5)
        >>> found.cells.astype(int).tolist(), found.accuracy, found.columns.tolist()
        ([[1, 0, 0], [1, 1, 1], [1, 1, 1]], True, [True, False, False])
    """
    counts = np.asarray(confusion, dtype=np.int64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or (counts < 0).any():
        raise ValueError(f"confusion: got shape {counts.shape}, expected (k, k) counts")
    k = len(counts)
    if min_cell <= 1:
        return Releasable(np.ones((k, k), dtype=np.bool_), accuracy, np.ones(k, dtype=np.bool_))
    none = np.zeros(k, dtype=np.bool_)
    right = int(np.diag(counts).sum())
    # Those diagnosed right and those diagnosed wrong are counts of patients as well.
    accuracy = accuracy and min(right, int(counts.sum()) - right) >= min_cell
    audit = _Audit(counts, min_cell=min_cell, said=said, accuracy=accuracy)
    hidden = _hidden(audit, counts < min_cell)
    if accuracy and audit.narrow(hidden, none).any():
        audit, accuracy = replace(audit, accuracy=False), False
        hidden = _hidden(audit, counts < min_cell)
    columns = none
    for column in range(k):
        trial = columns.copy()
        trial[column] = True
        wrong = int(counts[:, column].sum() - counts[column, column])
        apart = int(counts.sum() - counts[:, column].sum() - counts[column].sum() + counts[column, column])
        if min(wrong, apart) >= min_cell and not audit.narrow(hidden, trial).any():
            columns = trial
    return Releasable(~hidden, accuracy, columns)


def ranges(
    confusion: Counts,
    *,
    released: Releasable,
    said: Sequence[Decided] | None = None,
) -> tuple[Counts, Counts]:
    """Least and greatest count that each cell can have, given the class counts and what is released.

    Args:
        confusion: (k, k) as it is.
        released: of it.
        said: what the released score histograms say.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    audit = _Audit(counts, min_cell=int(counts.sum()) + 1, said=said, accuracy=released.accuracy)
    low, high = counts.copy(), counts.copy()
    for place in map(tuple, np.argwhere(~released.cells)):
        low[place], high[place] = audit.span(place, ~released.cells, released.columns)
    return low, high


def _hidden(audit: _Audit, hidden: Hidden) -> Hidden:
    """Hide further cells until none that is hidden is too well known, or all are hidden."""
    none = np.zeros(len(hidden), dtype=np.bool_)
    while not hidden.all():
        narrow = audit.narrow(hidden, none)
        if not narrow.any():
            break
        hidden = hidden.copy()
        hidden[_next_to_hide(audit.counts, hidden=hidden, narrow=narrow)] = True
    return hidden


def _next_to_hide(counts: Counts, *, hidden: Hidden, narrow: Hidden) -> tuple[int, int]:
    """The smallest cell still shown, in a row that is too well known if there is one."""
    candidates = ~hidden & narrow.any(axis=1, keepdims=True)
    if not candidates.any():
        # Whole rows are hidden and their diagonal still tells: widen it with another one.
        candidates = ~hidden & np.eye(len(counts), dtype=np.bool_)
    if not candidates.any():
        candidates = ~hidden
    shown = np.where(candidates, counts, np.iinfo(np.int64).max)
    row, column = np.unravel_index(int(shown.argmin()), shown.shape)
    return int(row), int(column)


@dataclass(frozen=True, slots=True, eq=False)
class _Audit:
    """What can be told of hidden cells; exact, over whole numbers."""

    counts: Counts
    min_cell: int
    said: Sequence[Decided] | None
    accuracy: bool

    def narrow(self, hidden: Hidden, columns: Columns) -> Hidden:
        """(k, k) True for hidden cells whose possible counts lie less than `min_cell` apart."""
        places = [tuple(place) for place in np.argwhere(hidden)]
        known = self._known(places, columns)
        wide = np.array([min(self.min_cell, int(self.counts[row].sum())) for row, _ in places])
        # Each matrix that the solver finds is a witness for every cell, which spares most searches.
        low = high = np.array([self.counts[place] for place in places])
        found = np.zeros(hidden.shape, dtype=np.bool_)
        for index, place in enumerate(places):
            for sign in (1, -1):
                if (high - low)[index] < wide[index]:
                    matrix = self._extreme(index, len(places), known, sign=sign)
                    low, high = np.minimum(low, matrix), np.maximum(high, matrix)
            found[place] = (high - low)[index] < wide[index]
        return found

    def span(self, cell: tuple[int, ...], hidden: Hidden, columns: Columns) -> tuple[int, int]:
        """Least and greatest count of a hidden cell."""
        places = [tuple(place) for place in np.argwhere(hidden)]
        known, index = self._known(places, columns), places.index(tuple(cell))
        least, most = (self._extreme(index, len(places), known, sign=sign)[index] for sign in (1, -1))
        return int(least), int(most)

    def _extreme(self, index: int, size: int, known: LinearConstraint, *, sign: int) -> Counts:
        """The hidden cells of a matrix that agrees with what is known and has least (1) or most (-1) in one."""
        found = milp(
            sign * (np.arange(size) == index).astype(np.float64),
            constraints=known,
            integrality=np.ones(size),
            bounds=Bounds(0, float(self.counts.sum())),
        )
        if found.x is None:  # the truth agrees with what is known, so there is a solution
            raise ArithmeticError(f"the auditor found no matrix: {found.message}")
        return np.rint(found.x).astype(np.int64)

    def _known(self, places: Sequence[tuple[int, ...]], columns: Columns) -> LinearConstraint:
        """Row sums, and what else is said, about the hidden cells alone."""
        truth = np.array([self.counts[place] for place in places], dtype=np.float64)
        k = len(self.counts)
        rows: list[list[bool]] = []
        low: list[float] = []
        high: list[float] = []

        def say(mask: list[bool], least: float | None = None, most: float | None = None) -> None:
            hidden_part = float(truth[mask].sum())
            rows.append(mask)
            low.append(hidden_part if least is None else least)
            high.append(hidden_part if most is None else most)

        for row in range(k):
            say([r == row for r, _ in places])
        if self.accuracy:
            say([r == c for r, c in places])
        for column in np.flatnonzero(columns):
            say([c == column != r for r, c in places])
        for index, one in enumerate(self.said or ()):
            for mask, (least, most), total in (
                ([r == c == index for r, c in places], one.right, self.counts[index, index]),
                (
                    [c == index != r for r, c in places],
                    one.wrong,
                    self.counts[:, index].sum() - self.counts[index, index],
                ),
            ):
                shown = float(total) - float(truth[mask].sum())
                say(mask, least - shown, most - shown)
        return LinearConstraint(
            np.array(rows, dtype=np.float64),
            np.array(low),  # pyright: ignore[reportArgumentType]
            np.array(high),  # pyright: ignore[reportArgumentType]
        )
