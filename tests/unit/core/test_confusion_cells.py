"""Small cells of a confusion matrix, and the counts that would give them away."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stic_core.privacy.confusion_cells import Releasable, ranges, releasable
from stic_core.privacy.score_bins import Decided

confusions = st.integers(2, 3).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 14), min_size=k, max_size=k), min_size=k, max_size=k)
)


def _agreeing(counts: np.ndarray, released: Releasable, said: list[Decided] | None) -> np.ndarray:
    """Every matrix that agrees with what is released, one after the other by brute force."""
    rows = []
    for row, shown in zip(counts, released.cells, strict=True):
        ways = [
            way
            for way in itertools.product(range(int(row.sum()) + 1), repeat=len(row))
            if sum(way) == row.sum()
            and all(a == b for a, b, seen in zip(way, row, shown, strict=True) if seen)
        ]
        rows.append(ways)
    every = np.array(list(itertools.product(*rows)))
    diagonal = np.diagonal(every, axis1=1, axis2=2)
    wrong = every.sum(axis=1) - diagonal
    fits = np.ones(len(every), dtype=bool)
    if released.accuracy:
        fits &= diagonal.sum(axis=1) == np.trace(counts)
    for k in np.flatnonzero(released.columns):
        fits &= wrong[:, k] == counts[:, k].sum() - counts[k, k]
    for k, one in enumerate(said or ()):
        fits &= (one.right[0] <= diagonal[:, k]) & (diagonal[:, k] <= one.right[1])
        fits &= (one.wrong[0] <= wrong[:, k]) & (wrong[:, k] <= one.wrong[1])
    return every[fits]


@settings(deadline=None, max_examples=40)
@given(rows=confusions, min_cell=st.integers(2, 6))
def test_hidden_cells_stay_hidden(rows: list[list[int]], min_cell: int) -> None:
    """What leaves keeps each hidden cell's range `min_cell` wide, or as wide as its class has patients."""
    counts = np.array(rows)
    released = releasable(counts, min_cell=min_cell)
    assert not released.cells[counts < min_cell].any()
    low, high = ranges(counts, released=released)
    assert (low <= counts).all()
    assert (counts <= high).all()
    wide = np.minimum(min_cell, counts.sum(axis=1, keepdims=True))
    assert (high - low >= wide)[~released.cells].all()
    if released.accuracy:
        right = np.trace(counts)
        assert min(right, counts.sum() - right) >= min_cell


def test_ranges_are_those_of_trying_everything() -> None:
    """The auditor is exact: every count in a range, and none beyond, agrees with what is released."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        k = int(rng.integers(2, 4))
        counts = rng.integers(0, 4, (k, k))
        released = Releasable(rng.random((k, k)) < 0.4, bool(rng.random() < 0.5), rng.random(k) < 0.3)
        said = None
        if rng.random() < 0.5:
            said = [
                Decided(
                    right=(max(int(counts[j, j]) - 1, 0), int(counts[j, j]) + 1),
                    wrong=(0, int(counts[:, j].sum() - counts[j, j]) + 1),
                )
                for j in range(k)
            ]
        low, high = ranges(counts, released=released, said=said)
        every = _agreeing(counts, released, said)
        for place in np.argwhere(~released.cells):
            seen = every[:, place[0], place[1]]
            assert (seen.min(), seen.max()) == (low[tuple(place)], high[tuple(place)])


def test_min_cell_one_hides_nothing() -> None:
    """A site that says min_cell: 1 releases its counts as they are."""
    found = releasable(np.array([[1, 0], [0, 1]]), min_cell=1)
    assert found.cells.all()
    assert found.accuracy
    assert found.columns.all()


@pytest.mark.parametrize(
    ("rows", "shown", "accuracy"),
    [
        ([[5, 5], [5, 5]], ["oo", "oo"], True),
        # Nine and one: the row says one where the nine is shown, and the diagonal says nine then, too.
        ([[9, 1], [9, 9]], ["..", ".."], True),
        # Two wrong of 20: whoever knew the accuracy knew that.
        ([[9, 1], [1, 9]], ["..", ".."], False),
        # Three and two: five that may be either's, so their sum may be known.
        ([[20, 3, 2], [8, 30, 7], [6, 9, 10]], ["o..", "ooo", "ooo"], True),
    ],
)
def test_what_goes_with_a_small_cell(rows: list[list[int]], shown: list[str], accuracy: bool) -> None:
    """Fewer than 5 are hidden, and what would give them away; by hand."""
    found = releasable(np.array(rows), min_cell=5)
    assert ["".join(".o"[int(cell)] for cell in row) for row in found.cells] == shown
    assert found.accuracy is accuracy


def test_what_the_histograms_say_counts() -> None:
    """A sum that only the extremes of both classes' bins give tells both: the auditor keeps it back."""
    counts = np.array([[10, 4], [4, 20]])
    free = releasable(counts, min_cell=5)
    assert free.accuracy
    # Both diagonal cells are the most that their bins allow, and so is their sum.
    said = [Decided(right=(5, 10), wrong=(4, 9)), Decided(right=(15, 20), wrong=(4, 9))]
    told = releasable(counts, min_cell=5, said=said)
    assert not told.accuracy
    assert not told.cells.any()


def test_a_specificity_needs_patients_on_both_sides() -> None:
    """Few false positives, or few that were told apart from the class, are nobody's to know."""
    found = releasable(np.array([[40, 9, 9], [20, 2, 0], [20, 1, 1]]), min_cell=5)
    assert not found.columns[0]
    found = releasable(np.array([[40, 9, 9], [1, 30, 9], [1, 9, 30]]), min_cell=5)
    assert not found.columns[0]


@pytest.mark.parametrize("rows", [[[1, 2, 3], [4, 5, 6]], [1, 2], [[1, -1], [1, 1]]])
def test_what_is_no_confusion_is_refused(rows: list) -> None:
    """Not square, one axis, a negative count."""
    with pytest.raises(ValueError, match="confusion"):
        releasable(np.array(rows), min_cell=5)


def test_a_class_without_patients_ends() -> None:
    """Its row sum says that its cells are 0, whatever else is hidden: the search for more comes to an end."""
    found = releasable(np.array([[0, 0, 0], [9, 9, 9], [9, 9, 9]]), min_cell=5)
    assert not found.cells[0].any()
    assert found.cells[1:].any()
