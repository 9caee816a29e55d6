"""The rules of release: at the bound a figure leaves, one patient below it does not."""

from __future__ import annotations

import pytest

from stic_core.config import PolicyConfig
from stic_core.privacy.release import (
    class_counts,
    rounded,
    small_class,
    small_count,
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


@pytest.mark.parametrize(
    ("count", "n", "kept"), [(0, 10, True), (4, 10, True), (5, 10, False), (6, 10, True), (5, 9, True)]
)
def test_a_count_is_bounded_on_both_sides(count: int, n: int, kept: bool) -> None:
    """Those counted and the rest of them are `min_cell` or more each."""
    assert (small_count(count, of=n, policy=POLICY) is not None) is kept
    assert small_count(count, of=n, policy=PolicyConfig(min_cell=1)) is None


def test_sums_leave_with_four_digits() -> None:
    """So that a number cannot hold a message about each of its patients."""
    assert [rounded(x) for x in (0.0, 41.23456, 0.000123456, 98765.4)] == [0.0, 41.23, 0.0001235, 98770.0]
