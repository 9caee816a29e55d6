"""Bins of scores that may be released: enough patients in each, and no decision told by an edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stic_core.privacy.score_bins import decided, mirrored, moved, score_bins
from stic_core.statistics import CELLS, EDGES, cells_of, counted


def _counts(
    scores: np.ndarray, positive: np.ndarray, starts: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    found = counted(scores, positive=positive, edges=EDGES, starts=starts)
    return np.array(found.positives), np.array(found.negatives)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=5, max_size=80),
    st.integers(2, 4),
    st.integers(2, 8),
)
def test_no_bin_is_small_and_none_decides(
    rows: list[tuple[float, bool]], classes: int, min_cell: int
) -> None:
    """Each bin holds enough patients, and those of unknown decision are enough of both kinds."""
    scores, positive = np.array([s for s, _ in rows]), np.array([y for _, y in rows])
    starts = score_bins(scores, positive=positive, classes=classes, min_cell=min_cell)
    p, n = _counts(scores, positive, starts)
    assert (p + n).sum() == len(rows)
    assert (p + n).min() >= min_cell or len(starts) == 1
    said = decided(starts, p, n, classes=classes)
    for (least, most), of in ((said.right, positive), (said.wrong, ~positive)):
        assert most - least >= min(min_cell, of.sum())
        taken = int((scores[of] > 0).sum())  # of two classes, these are predicted
        if classes == 2:
            assert least <= taken <= most


def test_the_decision_of_two_classes_lies_inside_one_bin() -> None:
    """Scores well apart: without the rule an edge at 0 would give the confusion matrix away."""
    scores = np.r_[np.linspace(-4, -1, 30), np.linspace(1, 4, 30)]
    positive = np.arange(60) >= 28
    starts = score_bins(scores, positive=positive, classes=2, min_cell=5)
    edges = [EDGES[start - 1] for start in starts[1:]]
    assert not any(-1 < edge < 1 for edge in edges)
    p, n = _counts(scores, positive, starts)
    assert decided(starts, p, n, classes=2).right[1] - decided(starts, p, n, classes=2).right[0] >= 5


def test_bins_of_two_classes_mirror_each_other() -> None:
    """The second class's bins are the first's, so that both cut the patients into the same groups."""
    rng = np.random.default_rng(1)
    scores, positive = rng.normal(0, 2, 70), rng.random(70) < 0.5
    starts = score_bins(scores, positive=positive, classes=2, min_cell=5)
    p, n = _counts(scores, positive, starts)
    other_p, other_n = _counts(-scores, ~positive, mirrored(starts))
    assert other_p.tolist() == n[::-1].tolist()
    assert other_n.tolist() == p[::-1].tolist()
    assert mirrored(mirrored(starts)) == starts


def test_min_cell_one_merges_nothing() -> None:
    """Every cell of the grid is a bin."""
    assert score_bins(np.zeros(3), positive=np.ones(3, dtype=bool), classes=3, min_cell=1) == tuple(
        range(CELLS)
    )


@pytest.mark.parametrize(
    ("before", "after", "patients"),
    [
        ([0, 0, 1, 1, 2], [0, 0, 1, 1, 2], 0),
        ([0, 0, 1, 1, 2], [2, 2, 0, 0, 1], 0),  # the same groups under other names
        ([0, 0, 1, 1, 2], [0, 0, 1, 2, 2], 1),
        ([0, 0, 0, 0], [0, 0, 1, 1], 2),
    ],
)
def test_moved_counts_patients(before: list[int], after: list[int], patients: int) -> None:
    """How many must be left out for both to be the same groups; by hand."""
    assert moved(np.array(before), np.array(after)) == patients


def test_cells_are_counted_from_the_open_end() -> None:
    """A score on an edge counts above it."""
    assert cells_of(np.array([-1e9, EDGES[0], 0.0, 1e9]), edges=EDGES).tolist() == [0, 1, 257, 513]
