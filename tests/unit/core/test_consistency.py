"""Figures of one report that cannot all be true of the same patients, one contradiction at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stic_core import statistics
from stic_core.evaluation import consistency
from stic_core.statistics import Auc, Estimate, NotEstimable, ScoreHistogram, Suppressed

COUNTS = {"a": 4, "b": 6}
HIDDEN = Suppressed("few")
ABSENT = NotEstimable("no")

GOOD = Auc(0.75, 0.02, positives=4, negatives=6)
OTHER = Auc(0.5, 0.03, positives=6, negatives=4)
HISTOGRAM = ScoreHistogram((0.0,), (0, 1), positives=(1, 3), negatives=(4, 2), sums=(-3.0, 2.0))
"""Of class a: 3 of 4 above 0, and 4 of 6 others below, so an AUC from 12 / 24 to 22 / 24."""


def _aucs(**changes: object) -> None:
    consistency.check_aucs(
        {"a": Auc(**{"value": 0.75, "variance": 0.02, "positives": 4, "negatives": 6, **changes})},  # pyright: ignore[reportArgumentType]
        n=10,
        counts=COUNTS,
    )


def _histogram(auc: Auc = GOOD, *, micro: object = ABSENT, **changes: object) -> None:
    parts = {name: getattr(HISTOGRAM, name) for name in ("edges", "starts", "positives", "negatives", "sums")}
    consistency.check_histograms(
        {"a": ScoreHistogram(**{**parts, **changes})},  # pyright: ignore[reportArgumentType]
        n=10,
        counts=COUNTS,
        aucs={"a": auc},
        micro=micro,  # pyright: ignore[reportArgumentType]
    )


def _confusion(*rows: tuple[int | Suppressed, ...], correct: int | None = 7) -> None:
    consistency.check_confusion(rows, n=10, counts=COUNTS, correct=correct)


def _probabilities(of_a: tuple[float, ...], of_b: tuple[float, ...]) -> None:
    mirrored = ScoreHistogram((0.0,), (0, 1), positives=(2, 4), negatives=(3, 1), sums=(-2.0, 3.0))
    consistency.check_probabilities({"a": of_a, "b": of_b}, histograms={"a": HISTOGRAM, "b": mirrored}, n=10)


def _wrong(
    of_a: int | Suppressed,
    of_b: int | Suppressed,
    *,
    table: tuple[tuple[int | Suppressed, ...], ...] | None = ((3, 1), (2, 4)),
    correct: int | None = 7,
) -> None:
    consistency.check_false_positives((of_a, of_b), table=table, n=10, counts=COUNTS, correct=correct)


def _macro(
    macro: object, *, interpolated: object = 0.63, aucs: tuple[object, object] = (GOOD, OTHER)
) -> None:
    both = dict(zip("ab", aucs, strict=True))
    consistency.check_macro(both, macro=macro, interpolated=interpolated)  # pyright: ignore[reportArgumentType]


TRUE: dict[str, Callable[[], None]] = {
    "a whole confusion": lambda: _confusion((3, 1), (2, 4)),
    "a confusion with hidden cells": lambda: _confusion((HIDDEN, HIDDEN), (2, 4)),
    "a hidden diagonal": lambda: _confusion((HIDDEN, 1), (2, HIDDEN)),
    "no accuracy": lambda: _confusion((4, 0), (0, 6), correct=None),
    "an AUC": _aucs,
    "an AUC of 1": lambda: _aucs(value=1.0, variance=ABSENT),
    "an AUC of half a pair": lambda: _aucs(value=1 / 48, variance=ABSENT),
    "the least variance": lambda: _aucs(variance=0.25 / 24**2),
    "a histogram": _histogram,
    "an AUC at its lower bound": lambda: _histogram(Auc(12 / 24, 0.02, positives=4, negatives=6)),
    "an AUC at its upper bound": lambda: _histogram(Auc(22 / 24, 0.02, positives=4, negatives=6)),
    "a macro average": lambda: _macro(Estimate(0.625, 0.02)),
    "no macro average": lambda: _macro(HIDDEN, interpolated=HIDDEN, aucs=(GOOD, HIDDEN)),
    "probabilities to four digits": lambda: _probabilities((0.8, 3.304), (1.7, 4.2)),
    "a sum at its most": lambda: consistency.check_sum(20.0, n=10, most=2.0),
    "false positives": lambda: _wrong(2, 1),
    "false positives beside hidden cells": lambda: _wrong(2, 1, table=((3, HIDDEN), (HIDDEN, HIDDEN))),
    "hidden false positives": lambda: _wrong(HIDDEN, 1),
    "discordant patients": lambda: consistency.check_discordant(3, 7, n=10, correct=7),
    "nobody": lambda: consistency.check_nobody(0, [HIDDEN, ABSENT]),
}

FALSE: dict[str, Callable[[], None]] = {
    "a row of other patients": lambda: _confusion((3, 2), (1, 4)),
    "more in a row than there are": lambda: _confusion((5, HIDDEN), (HIDDEN, HIDDEN)),
    "a diagonal beside another accuracy": lambda: _confusion((3, 1), (2, 4), correct=6),
    "more right than the accuracy": lambda: _confusion((HIDDEN, HIDDEN), (2, 4), correct=3),
    "an AUC of more patients": lambda: _aucs(positives=5),
    "an AUC of another class's patients": lambda: _aucs(positives=6, negatives=4),
    "an AUC of a hundredth of a pair": lambda: _aucs(value=0.01 / 24, variance=ABSENT),
    "an AUC of nearly 1": lambda: _aucs(value=1 - 0.01 / 24, variance=ABSENT),
    "a variance at 1": lambda: _aucs(value=1.0),
    "a variance too small for the pairs": lambda: _aucs(variance=1e-6),
    "a variance too large for an AUC": lambda: _aucs(variance=0.2),
    "a histogram of more patients": lambda: _histogram(positives=(1, 4)),
    "a histogram of another class's patients": lambda: _histogram(positives=(3, 3), negatives=(3, 1)),
    "scores beyond their bin": lambda: _histogram(sums=(3.0, 2.0)),
    "an AUC below its histogram": lambda: _histogram(Auc(0.4, 0.02, positives=4, negatives=6)),
    "an AUC above its histogram": lambda: _histogram(Auc(0.95, 0.02, positives=4, negatives=6)),
    "a micro average above its histograms": lambda: _histogram(micro=Estimate(0.95, 0.02)),
    "a macro average that is no mean": lambda: _macro(Estimate(0.7, 0.02)),
    "a macro average that varies too much": lambda: _macro(Estimate(0.625, 0.04)),
    "a macro average of one class": lambda: _macro(Estimate(0.75, 0.02), aucs=(GOOD, HIDDEN)),
    "an interpolated average of one class": lambda: _macro(HIDDEN, aucs=(GOOD, HIDDEN)),
    "probabilities beyond their bin": lambda: _probabilities((2.8, 1.3), (1.7, 4.2)),
    "probabilities of more patients": lambda: _probabilities((0.8, 3.3), (1.9, 4.3)),
    "a Brier score above 2": lambda: consistency.check_sum(20.1, n=10, most=2.0),
    "false positives beside another confusion": lambda: _wrong(1, 1, correct=None),
    "more false positives than others": lambda: _wrong(7, 1, table=None, correct=None),
    "fewer false positives than are shown": lambda: _wrong(1, HIDDEN, correct=None),
    "false positives beside another accuracy": lambda: _wrong(2, 1, correct=6),
    "more discordant patients than patients": lambda: consistency.check_discordant(6, 5, n=10, correct=None),
    "more only right than right": lambda: consistency.check_discordant(0, 8, n=10, correct=7),
    "more only wrong than wrong": lambda: consistency.check_discordant(4, 0, n=10, correct=7),
    "a difference of other patients": lambda: consistency.check_pairs_of(4, 5, name="a", n=10, counts=COUNTS),
    "a figure of nobody": lambda: consistency.check_nobody(0, [HIDDEN, 0.5]),
}


@pytest.mark.parametrize("name", TRUE)
def test_what_can_be_true_is_taken(name: str) -> None:
    """Up to the bounds, and whatever is hidden."""
    TRUE[name]()


@pytest.mark.parametrize("name", FALSE)
def test_what_cannot_be_true_is_refused(name: str) -> None:
    """Each contradiction alone."""
    with pytest.raises(ValueError):  # noqa: PT011  (the kind that makes a message break the protocol)
        FALSE[name]()


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(4, 60),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.0, 1e-9, 0.5, 3.0, 1e4]),
    ties=st.booleans(),
    min_cell=st.integers(1, 10),
)
def test_true_figures_are_never_refused(n: int, seed: int, scale: float, ties: bool, min_cell: int) -> None:
    """AUC, variance, macro average and histograms of any scores pass, tied and perfect ones too."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    logits = rng.normal(0, scale, (n, 3)) if scale else np.zeros((n, 3))
    logits[np.arange(n), labels] += rng.choice([0.0, 1.0, 30.0])
    if ties:
        logits = np.round(logits)
    scores = statistics.margins(logits)
    counts = dict(zip("abc", np.bincount(labels, minlength=3).tolist(), strict=True))
    aucs = dict(zip("abc", statistics.one_vs_rest(scores, labels=labels), strict=True))
    consistency.check_aucs(aucs, n=n, counts=counts)
    macro, interpolated = (
        found(scores, labels=labels) for found in (statistics.macro, statistics.macro_interpolated)
    )
    assert isinstance(interpolated, float | NotEstimable)
    assert isinstance(macro, Estimate | NotEstimable)
    consistency.check_macro(aucs, macro=macro, interpolated=interpolated)
    histograms = {
        name: statistics.score_histogram(
            scores[:, k], positive=labels == k, edges=statistics.SCORE_GRID, min_cell=min_cell
        )
        for k, name in enumerate("abc")
    }
    consistency.check_histograms(
        histograms, n=n, counts=counts, aucs=aucs, micro=statistics.micro(scores, labels=labels)
    )
