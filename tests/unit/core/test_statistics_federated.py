"""What holds across sites from aggregates alone: histograms and edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stic_core.privacy.score_bins import score_bins
from stic_core.statistics import (
    EDGES,
    Auc,
    NotEstimable,
    PooledAuc,
    PooledScores,
    ScoreHistogram,
    counted,
    delong,
    margins,
    pool_scores,
    pooled_auc,
    recalibration,
    score_histogram,
    stratified,
)
from support.samples import sample

patients = st.lists(st.tuples(st.floats(-8, 8), st.booleans()), min_size=1, max_size=60)
edge_lists = st.lists(st.floats(-8, 8), min_size=1, max_size=20, unique=True).map(sorted)


def columns(rows: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and classes of these patients."""
    return np.array([score for score, _ in rows]), np.array([flag for _, flag in rows], dtype=bool)


@settings(deadline=None, max_examples=100)
@given(sites=st.lists(patients, min_size=1, max_size=3), edges=edge_lists, min_cell=st.integers(1, 8))
def test_bounds_hold_the_exact_auc(
    sites: list[list[tuple[float, bool]]], edges: list[float], min_cell: int
) -> None:
    """However sites merge, the AUC of the pooled scores lies within the bounds; so does the estimate."""
    arrays = [columns(rows) for rows in sites]
    histograms = [score_histogram(s, positive=y, edges=edges, min_cell=min_cell) for s, y in arrays]
    whole = delong(np.concatenate([s for s, _ in arrays]), positive=np.concatenate([y for _, y in arrays]))
    own = [delong(s, positive=y) for s, y in arrays]
    exact = [auc.value if isinstance(auc, Auc) else None for auc in own]
    for known in ((), exact):
        pooled = pooled_auc([[histogram] for histogram in histograms], exact=known)
        if isinstance(whole, NotEstimable):
            assert isinstance(pooled, NotEstimable)
            continue
        assert isinstance(pooled, PooledAuc)
        lower, upper = pooled.bounds
        assert lower - 1e-12 <= whole.value <= upper + 1e-12
        assert lower - 1e-12 <= pooled.value <= upper + 1e-12
        assert (pooled.positives, pooled.negatives) == (whole.positives, whole.negatives)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_unmerged_histogram_of_distinct_scores_is_exact(data: st.DataObject) -> None:
    """With an edge between any two scores, AUC and variance are DeLong's, and the bounds meet."""
    scores = np.array(
        data.draw(st.lists(st.integers(-500, 500), min_size=4, max_size=40, unique=True)), dtype=float
    )
    positive = np.arange(len(scores)) % 2 == 0
    edges = (np.sort(scores)[1:] + np.sort(scores)[:-1]) / 2
    pooled = pooled_auc([[score_histogram(scores, positive=positive, edges=edges, min_cell=1)]])
    exact = delong(scores, positive=positive)
    assert isinstance(pooled, PooledAuc)
    assert isinstance(exact, Auc)
    assert pooled.value == pytest.approx(exact.value)
    assert pooled.bounds == (pytest.approx(exact.value), pytest.approx(exact.value))
    if isinstance(exact.variance, float):
        assert pooled.variance == pytest.approx(exact.variance)


@settings(deadline=None, max_examples=60)
@given(first=patients, second=patients, edges=edge_lists)
def test_two_sites_are_the_pooled_patients(
    first: list[tuple[float, bool]], second: list[tuple[float, bool]], edges: list[float]
) -> None:
    """Unmerged histograms of two sites give what one histogram of all their patients gives."""
    apart = [columns(first), columns(second)]
    together = columns(first + second)

    def histogram(rows: tuple[np.ndarray, np.ndarray]) -> ScoreHistogram:
        return score_histogram(rows[0], positive=rows[1], edges=edges, min_cell=1)

    left, right = pooled_auc([[histogram(rows)] for rows in apart]), pooled_auc([[histogram(together)]])
    if isinstance(left, PooledAuc):
        assert isinstance(right, PooledAuc)
        assert left.value == pytest.approx(right.value)
        assert left.bounds == (pytest.approx(right.bounds[0]), pytest.approx(right.bounds[1]))
    else:
        assert left == right


def test_equal_bins_give_the_midpoint_formula() -> None:
    """AUC_mid = sum p (N_<k + n_k / 2) / (m n), bounds +- sum p n / (2 m n), by hand."""
    one = ScoreHistogram(
        edges=(0.0, 1.0), starts=(0, 1, 2), positives=(1, 2, 3), negatives=(4, 2, 0), sums=(0, 0, 0)
    )
    pooled = pooled_auc([[one]])
    assert isinstance(pooled, PooledAuc)
    assert pooled.value == pytest.approx((1 * 2 + 2 * 5 + 3 * 6) / 36)
    half = (1 * 4 + 2 * 2) / 72
    assert pooled.bounds == (pytest.approx(pooled.value - half), pytest.approx(pooled.value + half))


@settings(deadline=None, max_examples=60)
@given(rows=patients, edges=edge_lists, min_cell=st.integers(2, 9))
def test_released_bins_hold_enough_patients(
    rows: list[tuple[float, bool]], edges: list[float], min_cell: int
) -> None:
    """No released bin is small unless the site itself is, and nobody is lost."""
    scores, positive = columns(rows)
    histogram = score_histogram(scores, positive=positive, edges=edges, min_cell=min_cell)
    sizes = np.add(histogram.positives, histogram.negatives)
    assert sizes.sum() == len(rows)
    assert sum(histogram.positives) == positive.sum()
    assert min(sizes) >= min_cell or len(sizes) == 1
    assert sum(histogram.sums) == pytest.approx(scores.sum(), abs=1e-9)


@pytest.mark.parametrize(("n", "min_cell", "limit"), [(150, 1, 0.001), (150, 5, 0.002), (56, 5, 0.01)])
def test_pooled_auc_is_close(n: int, min_cell: int, limit: float) -> None:
    """Mean error of two sites' pooled AUC, from the bins that a site releases."""
    errors = []
    for seed in range(60):
        held_out = [sample(10 * seed + s, n) for s in range(2)]
        scores = [(margins(z)[:, 0], y == 0) for z, y in held_out]
        own = [delong(s, positive=y) for s, y in scores]
        pooled = pooled_auc(
            [
                [
                    counted(
                        s,
                        positive=y,
                        edges=EDGES,
                        starts=score_bins(s, positive=y, classes=3, min_cell=min_cell),
                    )
                ]
                for s, y in scores
            ],
            exact=[auc.value if isinstance(auc, Auc) else None for auc in own],
        )
        exact = delong(
            np.concatenate([s for s, _ in scores]), positive=np.concatenate([y for _, y in scores])
        )
        assert isinstance(pooled, PooledAuc)
        assert isinstance(exact, Auc)
        errors.append(abs(pooled.value - exact.value))
    assert np.mean(errors) < limit


def test_a_shift_between_sites_costs_the_pooled_auc_only() -> None:
    """Scores of one site shifted against the other's: the stratified AUC stays, the pooled one falls."""
    sites = []
    for seed, shift in ((1, 0.0), (2, 4.0)):
        logits, labels = sample(seed, 200)
        sites.append((margins(logits)[:, 0] + shift, labels == 0))
    pooled = pooled_auc([[score_histogram(s, positive=y, edges=EDGES, min_cell=5)] for s, y in sites])
    own = [auc for s, y in sites if isinstance(auc := delong(s, positive=y), Auc)]
    kept = stratified(own)
    assert isinstance(pooled, PooledAuc)
    assert not isinstance(kept, NotEstimable)
    assert kept.value == pytest.approx(np.mean([auc.value for auc in own]), abs=0.02)
    assert pooled.value < kept.value - 0.05


def test_roc_has_the_area() -> None:
    """The area under the curve of a site is the AUC that it counted, and the curve runs from (0, 0) to (1, 1)."""
    logits, labels = sample(5, 120)
    scores, positive = margins(logits)[:, 0], labels == 0
    histogram = score_histogram(scores, positive=positive, edges=EDGES, min_cell=5)
    exact = delong(scores, positive=positive)
    assert isinstance(exact, Auc)
    pooled = pool_scores([[histogram]], exact=[exact.value])
    assert isinstance(pooled, PooledScores)
    fpr, tpr = pooled.roc()
    assert np.trapezoid(tpr, fpr) == pytest.approx(exact.value, abs=1e-4)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, pytest.approx(1), pytest.approx(1))


def test_recalibration_from_bins_is_near_the_patients() -> None:
    """Slope and intercept from merged bins come near those from single patients."""
    logits, labels = sample(8, 400, sharpness=2.0)
    score, positive = margins(logits)[:, 0], labels == 0
    coarse, fine = (
        pool_scores([[score_histogram(score, positive=positive, edges=edges, min_cell=min_cell)]])
        for edges, min_cell in ((EDGES, 5), (np.unique(score), 1))
    )
    assert isinstance(coarse, PooledScores)
    assert isinstance(fine, PooledScores)
    left, right = recalibration(coarse), recalibration(fine)
    assert not isinstance(left, NotEstimable)
    assert not isinstance(right, NotEstimable)
    assert left.slope == pytest.approx(right.slope, abs=0.05)
    assert left.intercept == pytest.approx(right.intercept, abs=0.05)


def test_a_pooled_auc_is_shown_where_bins_say_enough() -> None:
    """Hospitals of 40 patients have one, of 12 only its bounds; without their own AUCs 40 are too few as well."""

    def pooled(n: int, *, told: bool) -> PooledScores:
        rng, sites, exact = np.random.default_rng(n), [], []
        for _ in range(4):
            positive = rng.random(n) < 0.4
            scores = rng.normal(size=n) + 1.5 * positive
            starts = score_bins(scores, positive=positive, classes=2, min_cell=5)
            sites.append([counted(scores, positive=positive, edges=EDGES, starts=starts)])
            auc = delong(scores, positive=positive)
            exact.append(auc.value if told and isinstance(auc, Auc) else None)
        found = pool_scores(sites, exact=exact)
        assert isinstance(found, PooledScores)
        return found

    assert pooled(40, told=True).too_open is None
    assert pooled(300, told=False).too_open is None
    assert pooled(40, told=False).too_open is not None
    small = pooled(12, told=True)
    assert small.too_open is not None
    low, high = small.bounds
    assert f"between {low:.3f} and {high:.3f}" in small.too_open.reason
