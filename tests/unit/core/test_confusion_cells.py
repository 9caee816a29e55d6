"""Small cells of a confusion matrix, and the cells that would give them away."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stic_core.privacy.confusion_cells import feasible, hidden_cells, releasable_columns

confusions = st.integers(2, 4).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 14), min_size=k, max_size=k), min_size=k, max_size=k)
)


@settings(deadline=None, max_examples=150)
@given(rows=confusions, min_cell=st.integers(2, 6))
def test_hidden_cells_stay_hidden(rows: list[list[int]], min_cell: int) -> None:
    """Small cells are hidden, and what is released leaves every hidden cell more than one value."""
    counts = np.array(rows)
    hidden = hidden_cells(counts, min_cell=min_cell)
    assert hidden[counts < min_cell].all()
    if not hidden.all():
        low, high = feasible(counts, hidden=hidden)
        assert (low <= counts).all()
        assert (counts <= high).all()
        assert (high > low)[hidden].all()


def test_ranges_are_those_of_trying_everything() -> None:
    """The ranges of hidden cells are exact: every count in them, and none beyond, is possible."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        counts = rng.integers(0, 4, (2, 2)) if rng.random() < 0.5 else rng.integers(0, 3, (3, 3))
        k = len(counts)
        hidden = np.isin(np.arange(k * k).reshape(k, k), rng.permutation(k * k)[: rng.integers(1, 6)])
        low, high = feasible(counts, hidden=hidden)
        places = list(zip(*np.nonzero(hidden), strict=True))
        seen = {place: set() for place in places}
        for values in itertools.product(range(int(counts.sum(axis=1).max()) + 1), repeat=len(places)):
            trial = counts.copy()
            for place, value in zip(places, values, strict=True):
                trial[place] = value
            if (trial.sum(axis=1) == counts.sum(axis=1)).all() and np.trace(trial) == np.trace(counts):
                for place, value in zip(places, values, strict=True):
                    seen[place].add(value)
        for place in places:
            assert seen[place] == set(range(low[place], high[place] + 1))


def test_a_lone_hidden_cell_takes_others_with_it() -> None:
    """One small cell in a row is hidden together with a neighbour that makes up for it."""
    hidden = hidden_cells(np.array([[20, 9, 1], [8, 30, 7], [6, 9, 10]]), min_cell=5)
    assert hidden.tolist() == [[False, True, True], [False] * 3, [False] * 3]


def test_min_cell_one_hides_nothing() -> None:
    """A site that says min_cell: 1 releases its counts as they are."""
    assert not hidden_cells(np.array([[1, 0], [0, 1]]), min_cell=1).any()


@pytest.mark.parametrize(
    ("rows", "hidden"),
    [
        ([[5, 5], [5, 5]], ["..", ".."]),
        ([[9, 8, 1], [9, 9, 9], [9, 9, 9]], [".##", "...", "..."]),
        # 1 tells itself by its row; so does the first diagonal cell by the diagonal, until another one goes.
        ([[9, 1, 9], [9, 9, 9], [9, 9, 9]], ["###", "##.", "..."]),
        # The whole first row is small: the smallest diagonal cell goes, and the smallest in its row.
        ([[1, 1, 1], [9, 8, 7], [6, 20, 30]], ["###", ".##", "..."]),
        ([[4, 9], [9, 9]], ["##", "##"]),
    ],
)
def test_what_goes_with_a_small_cell(rows: list[list[int]], hidden: list[str]) -> None:
    """Fewer than 5 are hidden, and the smallest cells that keep them from being recomputed; by hand."""
    found = hidden_cells(np.array(rows), min_cell=5)
    assert ["".join(".#"[int(cell)] for cell in row) for row in found] == hidden


@pytest.mark.parametrize("rows", [[[1, 2, 3], [4, 5, 6]], [1, 2], [[1, -1], [1, 1]]])
def test_what_is_no_confusion_is_refused(rows: list) -> None:
    """Not square, one axis, a negative count."""
    with pytest.raises(ValueError, match="confusion"):
        hidden_cells(np.array(rows), min_cell=5)


def test_zero_is_a_small_cell_from_two_on() -> None:
    """With a bound of 2 zeros are hidden; with 1 or 0 nothing is."""
    counts = np.array([[9, 0], [0, 9]])
    assert hidden_cells(counts, min_cell=2).all()
    for min_cell in (1, 0):
        assert not hidden_cells(counts, min_cell=min_cell).any()


def _columns_by_trying(counts: np.ndarray, hidden: np.ndarray) -> list[bool]:
    """Every table that agrees with what is shown, the row sums and the diagonal's; then column by column."""
    places = list(zip(*np.nonzero(hidden), strict=True))
    tables = []
    for values in itertools.product(range(int(counts.sum(axis=1).max()) + 1), repeat=len(places)):
        table = counts.copy()
        for place, value in zip(places, values, strict=True):
            table[place] = value
        if (table.sum(axis=1) == counts.sum(axis=1)).all() and np.trace(table) == np.trace(counts):
            tables.append(table)
    secret = [place for place in places if len({int(table[place]) for table in tables}) > 1]
    taken = []
    for column in range(len(counts)):
        false = [table[:, column].sum() - table[column, column] for table in tables]
        mine = counts[:, column].sum() - counts[column, column]
        left = [table for table, positives in zip(tables, false, strict=True) if positives == mine]
        taken.append(all(len({int(table[place]) for table in left}) > 1 for place in secret))
        tables = left if taken[-1] else tables
    return taken


def test_columns_are_those_of_trying_everything() -> None:
    """False positives leave where every table that agrees with them keeps each hidden cell open."""
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(40):
        k = int(rng.integers(2, 4))
        counts = rng.integers(0, 4, (k, k))
        hidden = np.isin(np.arange(k * k).reshape(k, k), rng.permutation(k * k)[: rng.integers(2, 6)])
        expected = _columns_by_trying(counts, hidden)
        assert releasable_columns(counts, hidden=hidden).tolist() == expected
        seen.update(expected)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("rows", "hidden", "columns"),
    [
        ([[0, 1, 1], [3, 0, 2], [1, 0, 3]], ["#.#", "#.#", "..#"], [False, True, False]),
        ([[0, 2, 3], [1, 1, 3], [2, 2, 2]], ["###", ".##", "..."], [True, False, False]),
    ],
)
def test_the_diagonals_sum_counts_too(rows: list[list[int]], hidden: list[str], columns: list[bool]) -> None:
    """Without it these columns would leave, and give a cell away."""
    counts, mask = np.array(rows), np.array([[cell == "#" for cell in row] for row in hidden])
    assert releasable_columns(counts, hidden=mask).tolist() == columns
    assert _columns_by_trying(counts, mask) == columns


def test_a_class_without_patients_ends() -> None:
    """Its row sum says that its cells are 0, whatever else is hidden: the search for more comes to an end."""
    assert hidden_cells(np.array([[0, 0, 0], [9, 9, 9], [9, 9, 9]]), min_cell=5)[0].all()
