"""The rules of release: at the bound a figure leaves, one patient below it does not."""

from __future__ import annotations

import numpy as np
import pytest

from stic_core.config import PolicyConfig
from stic_core.privacy.confusion_cells import hidden_cells, releasable_columns
from stic_core.privacy.release import (
    class_counts,
    released_confusion,
    released_rates,
    small_class,
    tells_mean,
    too_few,
    too_few_for_auc,
    withheld,
)
from stic_core.statistics import NotEstimable, Suppressed

POLICY = PolicyConfig(min_cell=5, min_class=10)


@pytest.mark.parametrize(
    ("n", "kept"),
    [
        (0, NotEstimable("no held-out patients")),
        (1, Suppressed("fewer than 5 patients")),
        (4, Suppressed("fewer than 5 patients")),
        (5, None),
    ],
)
def test_a_count_needs_min_cell(n: int, kept: object) -> None:
    """Nobody is not estimable, few are suppressed, enough are neither."""
    assert too_few(n, policy=POLICY) == kept


def test_a_kind_needs_to_be_named() -> None:
    """What the policy's list lacks is withheld by name, and nothing else is."""
    policy = PolicyConfig(release=("auc",))
    assert withheld("auc", policy=policy) is None
    assert withheld("confusion", policy=policy) == Suppressed("this site's policy releases no confusion")


@pytest.mark.parametrize(
    ("n", "named", "tells"), [(0, True, False), (4, True, False), (5, True, True), (5, False, False)]
)
def test_a_mean_needs_both(n: int, named: bool, tells: bool) -> None:
    """A loss leaves only where its kind may and enough patients stand behind it."""
    policy = PolicyConfig(min_cell=5, release=("training-loss",) if named else ("validation",))
    assert tells_mean("training-loss", n=n, policy=policy) is tells


@pytest.mark.parametrize(
    ("counts", "leaves"), [((0, 0), True), ((3, 1), False), ((4, 1), True), ((5, 0), True)]
)
def test_class_counts_go_by_all_patients(counts: tuple[int, int], leaves: bool) -> None:
    """The sum decides, not each class; an empty split may be said."""
    named = dict(zip("AB", counts, strict=True))
    assert class_counts(named, policy=POLICY) == (named if leaves else Suppressed("fewer than 5 patients"))


@pytest.mark.parametrize(
    ("positives", "negatives", "reason"),
    [
        (10, 10, None),
        (9, 10, "fewer than 10 patients of this class"),
        (10, 9, "fewer than 10 patients of other classes"),
        (0, 0, "fewer than 10 patients of this class"),
    ],
)
def test_an_auc_needs_min_class_on_both_sides(positives: int, negatives: int, reason: str | None) -> None:
    """Both sides are bounded, and the reason says which one is small."""
    found = small_class(positives=positives, negatives=negatives, policy=POLICY)
    assert found == (None if reason is None else Suppressed(reason))


def test_an_auc_over_all_classes_needs_min_class() -> None:
    """The micro AUC is bounded by all patients together."""
    assert too_few_for_auc(9, policy=POLICY) == Suppressed("fewer than 10 patients")
    assert too_few_for_auc(10, policy=POLICY) is None


def test_a_confusion_leaves_without_hidden_cells() -> None:
    """Shown cells keep their place and their count; hidden ones are values with a reason, never 0."""
    confusion = np.array([[20, 9, 1], [8, 30, 7], [6, 9, 10]])
    hidden = hidden_cells(confusion, min_cell=5)
    found = released_confusion(confusion, policy=POLICY)
    assert hidden.any()
    for place in np.ndindex(3, 3):
        cell = found[place[0]][place[1]]
        assert isinstance(cell, Suppressed) if hidden[place] else cell == confusion[place]
    whole = released_confusion(confusion, policy=PolicyConfig(min_cell=1))
    assert whole == tuple(tuple(row) for row in confusion.tolist())


def test_rates_follow_the_cells_that_they_give_away() -> None:
    """A hidden diagonal hides its sensitivity; few told apart from a class hide its specificity."""
    confusion = np.array([[3, 10, 11], [6, 8, 6], [7, 7, 9]])
    hidden = hidden_cells(confusion, min_cell=5)
    sensitivity, specificity = released_rates(confusion, policy=POLICY)
    assert sensitivity.tolist() == [not gone for gone in np.diag(hidden)]
    assert not sensitivity[0]
    assert specificity.tolist() == releasable_columns(confusion, hidden=hidden).tolist()
    both = released_rates(confusion, policy=PolicyConfig(min_cell=1))
    assert all(rate.all() for rate in both)


def test_few_told_apart_from_a_class_stay() -> None:
    """The first column gives no hidden cell away, but only four patients are told apart from its class."""
    confusion = np.array([[40, 9, 9], [20, 2, 0], [20, 1, 1]])
    hidden = hidden_cells(confusion, min_cell=5)
    assert releasable_columns(confusion, hidden=hidden)[0]
    assert not released_rates(confusion, policy=POLICY)[1][0]
    assert released_rates(confusion, policy=PolicyConfig(min_cell=4))[1][0]
    one = np.array([[3, 3, 6], [6, 0, 1], [5, 0, 0]])
    assert releasable_columns(one, hidden=hidden_cells(one, min_cell=2))[0]
    assert not released_rates(one, policy=PolicyConfig(min_cell=2))[1][0]


def test_with_min_cell_one_every_rate_leaves() -> None:
    """A policy that hides nothing releases a specificity of 0 too: nobody was told apart from the first class."""
    both = released_rates(np.array([[3, 0], [2, 0]]), policy=PolicyConfig(min_cell=1))
    assert [rate.tolist() for rate in both] == [[True, True], [True, True]]
