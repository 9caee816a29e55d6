"""Formulas against independent references: brute force, scikit-learn, scipy and statsmodels."""

from __future__ import annotations

from math import comb, erfc, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import auc as sk_area
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score, roc_curve
from statsmodels.api import Logit
from statsmodels.stats.contingency_tables import cochrans_q
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar

from stic_core.statistics import (
    MARGIN,
    Auc,
    AucTest,
    Estimate,
    IndependentProportions,
    NonInferiority,
    NotEstimable,
    Recalibration,
    TestResult,
    brier_sum,
    clopper_pearson,
    cochran_q,
    delong,
    independent_proportions,
    influence,
    log_loss_sum,
    logistic_fit,
    macro,
    macro_interpolated,
    margins,
    mcnemar_exact,
    mean_difference,
    micro,
    one_vs_rest,
    paired_difference,
    paired_test,
    stratified,
    unpaired_test,
    wilson,
)
from support.samples import sample


def brute_force(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """DeLong by comparing every pair, straight from the 1988 paper."""
    x, y = scores[positive], scores[~positive]
    kernel = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    v10, v01 = kernel.mean(axis=1), kernel.mean(axis=0)
    return kernel.mean(), v10.var(ddof=1) / len(x) + v01.var(ddof=1) / len(y)


@settings(deadline=None, max_examples=60)
@given(
    data=st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=6, max_size=60).filter(
        lambda rows: 2 <= sum(flag for _, flag in rows) <= len(rows) - 2
    )
)
def test_delong_is_brute_force(data: list[tuple[int, bool]]) -> None:
    """Midranks give what comparing every pair gives, heavy ties included."""
    scores = np.array([score for score, _ in data], dtype=float)
    positive = np.array([flag for _, flag in data])
    value, variance = brute_force(scores, positive)
    auc = delong(scores, positive=positive)
    assert isinstance(auc, Auc)
    assert auc.value == pytest.approx(value, abs=1e-12)
    if isinstance(auc.variance, NotEstimable):
        assert variance == pytest.approx(0, abs=1e-15) or value in (0.0, 1.0)
    else:
        assert auc.variance == pytest.approx(variance, abs=1e-12)
        assert (influence(scores, positive=positive) ** 2).sum() == pytest.approx(variance, abs=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_order_has_no_interval(sign: int) -> None:
    """An AUC of 1 or 0 has no standard error and no interval, rather than one from 1 to 1."""
    auc = delong(sign * np.arange(20.0), positive=np.arange(20) >= 12)
    assert isinstance(auc, Auc)
    assert auc.value == (1.0 if sign > 0 else 0.0)
    for figure in (auc.se, auc.wald(), auc.logit()):
        assert isinstance(figure, NotEstimable)


@pytest.mark.parametrize("count", [0, 5])
def test_missing_class_has_no_auc(count: int) -> None:
    """Without patients, or without one of the classes, there is a reason and no number."""
    for positive in (np.zeros(count, dtype=bool), np.ones(count, dtype=bool)):
        assert isinstance(delong(np.arange(float(count)), positive=positive), NotEstimable)


def test_auc_refuses_nan() -> None:
    """A NaN among scores is an error, since ranks would hide it."""
    with pytest.raises(ValueError, match="NaN"):
        delong(np.array([0.1, np.nan]), positive=np.array([True, False]))


def test_paired_test_of_equal_scores_has_no_p() -> None:
    """A score compared with itself differs by nothing that has a variance."""
    logits, labels = sample(1)
    assert isinstance(paired_test(logits[:, 0], logits[:, 0], positive=labels == 0), NotEstimable)


def test_multiclass_is_sklearn() -> None:
    """One-vs-rest, macro and micro AUCs of margins are scikit-learn's of probabilities."""
    logits, labels = sample(2)
    scores = margins(logits)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(scores, np.log(p / (1 - p)))
    for k, auc in enumerate(one_vs_rest(scores, labels=labels)):
        assert isinstance(auc, Auc)
        assert auc.value == pytest.approx(roc_auc_score(labels == k, p[:, k]))
    for ours, average in ((macro(scores, labels=labels), "macro"), (micro(scores, labels=labels), "micro")):
        assert isinstance(ours, Estimate)
        expected = roc_auc_score(np.eye(3)[labels], p, average=average)
        assert ours.value == pytest.approx(expected)


def test_macro_interpolated_is_the_papers() -> None:
    """Interpolation on the union of false positive rates, scikit-learn's recipe, lies above macro."""
    logits, labels = sample(3)
    scores = margins(logits)
    curves = [roc_curve(labels == k, scores[:, k])[:2] for k in range(3)]
    grid = np.unique(np.concatenate([fpr for fpr, _ in curves]))
    expected = sk_area(grid, np.mean([np.interp(grid, fpr, tpr) for fpr, tpr in curves], axis=0))
    found, plain = macro_interpolated(scores, labels=labels), macro(scores, labels=labels)
    assert found == pytest.approx(expected)
    assert isinstance(plain, Estimate)
    assert isinstance(found, float)
    assert 0 <= found - plain.value < 0.01


def test_margins_survive_overconfidence() -> None:
    """Where the softmax rounds to 1, margins still tell patients apart."""
    logits = np.array([[900.0, 0.0, -5.0], [950.0, 0.0, -5.0]])
    assert margins(logits)[0, 0] == pytest.approx(900.0 - np.log(1 + np.exp(-5)))
    assert margins(logits)[1, 0] > margins(logits)[0, 0]
    assert margins(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("which", ["macro", "micro"])
def test_multiclass_variance_is_that_of_repeated_samples(which: str) -> None:
    """The variances of macro and micro AUCs agree with the spread over many samples."""
    function = {"macro": macro, "micro": micro}[which]
    estimates = []
    for seed in range(400):
        logits, labels = sample(seed, 120)
        estimate = function(margins(logits), labels=labels)
        assert isinstance(estimate, Estimate)
        assert isinstance(estimate.variance, float)
        estimates.append((estimate.value, estimate.variance))
    values, variances = np.array(estimates).T
    assert variances.mean() == pytest.approx(values.var(ddof=1), rel=0.2)


def test_stratified_is_the_weighted_mean() -> None:
    """Weights are pairs of patients; done by hand."""
    found = stratified([Auc(0.9, 0.001, 10, 20), Auc(0.6, 0.004, 10, 10)])
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(0.8)
    assert found.variance == pytest.approx((4 * 0.001 + 0.004) / 9)
    assert isinstance(stratified([]), NotEstimable)


@settings(deadline=None, max_examples=60)
@given(total=st.integers(1, 200), share=st.floats(0, 1), level=st.sampled_from([0.8, 0.95, 0.99]))
def test_one_proportion_by_definition(total: int, share: float, level: float) -> None:
    """At Clopper-Pearson's ends the binomial tail is half of what is left out; at Wilson's, z is the normal's."""
    k, tail = round(share * total), (1 - level) / 2
    exact = clopper_pearson(k, total=total, level=level)
    assert not isinstance(exact, NotEstimable)
    low, high = exact
    assert low == 0 if k == 0 else scipy_stats.binom.sf(k - 1, total, low) == pytest.approx(tail, rel=1e-6)
    assert high == 1 if k == total else scipy_stats.binom.cdf(k, total, high) == pytest.approx(tail, rel=1e-6)
    z = scipy_stats.norm.isf(tail)
    for end in wilson(k, total=total, level=level):
        assert (k / total - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / total, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(cells=st.tuples(*[st.integers(0, 40)] * 4).filter(lambda t: t[0] + t[1] > 0 and t[2] + t[3] > 0))
def test_two_proportions_by_definition(cells: tuple[int, int, int, int]) -> None:
    """Fisher's p adds up tables in whole numbers; chi-squared is n (ad - bc)^2 over the margins."""
    a, b, c, d = cells
    result = independent_proportions((a, a + b), (c, c + d))
    assert isinstance(result, IndependentProportions)
    column, n = a + c, a + b + c + d
    ways = [comb(a + b, x) * comb(c + d, column - x) for x in range(column + 1)]
    expected = sum(way for way in ways if way <= ways[a]) / comb(n, column)
    assert result.fisher_p == pytest.approx(expected, rel=1e-9)
    if column and b + d:
        chi2 = n * (a * d - b * c) ** 2 / ((a + b) * (c + d) * column * (b + d))
        assert result.chi2 == pytest.approx(chi2, rel=1e-9, abs=1e-12)
        assert result.p == pytest.approx(erfc(sqrt(chi2 / 2)), rel=1e-9)
    else:
        assert (result.chi2, result.p) == (0.0, 1.0)
    assert -1 <= result.ci95[0] <= result.difference <= result.ci95[1] <= 1


def test_no_patients_is_not_estimable() -> None:
    """Zero patients give a reason everywhere."""
    assert isinstance(clopper_pearson(0, total=0), NotEstimable)
    assert isinstance(independent_proportions((0, 0), (1, 2)), NotEstimable)
    assert isinstance(cochran_q({}), NotEstimable)


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(st.tuples(*[st.integers(0, 1)] * 3), min_size=3, max_size=40))
def test_cochran_q_is_statsmodels(rows: list[tuple[int, int, int]]) -> None:
    """Cochran's Q from counts of patterns is statsmodels' from the patients."""
    patterns: dict[str, int] = {}
    for row in rows:
        key = "".join(map(str, row))
        patterns[key] = patterns.get(key, 0) + 1
    result = cochran_q(patterns)
    assert isinstance(result, TestResult)
    if any(len(set(row)) > 1 for row in rows):
        expected = cochrans_q(np.array(rows))
        assert result.statistic == pytest.approx(expected.statistic)
        assert result.p == pytest.approx(expected.pvalue)
    else:
        assert result.p == 1.0


def test_paired_difference_stays_within_minus_one_and_one() -> None:
    """The interval of a difference of proportions is cut at -1 and 1."""
    found = paired_difference(b=3, c=0, n=3)
    assert not isinstance(found, NotEstimable)
    assert found.ci95[1] == 1.0


def test_calibration_sums_are_sklearns() -> None:
    """Brier score and log loss agree with scikit-learn's."""
    logits, labels = sample(5)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert log_loss_sum(logits, labels=labels) / 90 == pytest.approx(log_loss(labels, p))
    expected = sum(brier_score_loss(labels == k, p[:, k]) for k in range(3))
    assert brier_sum(p, labels=labels) / 90 == pytest.approx(expected)
    assert np.isfinite(log_loss_sum(logits * 1e6, labels=labels))
    assert log_loss_sum(np.zeros((0, 3)), labels=np.zeros(0, dtype=int)) == 0.0


def test_logistic_fit_is_statsmodels() -> None:
    """Slope, intercept and their errors are statsmodels' on single patients."""
    logits, labels = sample(7, 200)
    score, hit = margins(logits)[:, 1], labels == 1
    fit = logistic_fit(score, hits=hit.astype(float), misses=(~hit).astype(float))
    reference = Logit(hit.astype(float), np.column_stack([np.ones(200), score])).fit(disp=0)
    assert isinstance(fit, Recalibration)
    assert (fit.intercept, fit.slope) == (
        pytest.approx(reference.params[0]),
        pytest.approx(reference.params[1]),
    )
    assert (fit.intercept_se, fit.slope_se) == (
        pytest.approx(reference.bse[0], rel=1e-4),
        pytest.approx(reference.bse[1], rel=1e-4),
    )


def test_separated_scores_have_no_slope() -> None:
    """Where a score separates the classes, no slope is steep enough, and that is said."""
    x = np.arange(10.0)
    fit = logistic_fit(x, hits=(x > 5).astype(float), misses=(x <= 5).astype(float))
    assert isinstance(fit, NotEstimable)
    assert "separates" in fit.reason


@pytest.mark.parametrize(
    ("ci95", "verdict"),
    [
        ((-0.049, 0.1), "non-inferior"),
        ((-0.05, 0.1), "open"),
        ((-0.2, -0.05), "open"),
        ((-0.2, -0.051), "inferior"),
    ],
)
def test_non_inferiority_goes_by_the_ends(ci95: tuple[float, float], verdict: str) -> None:
    """Only an interval wholly beyond minus the margin says anything; one that touches it does not."""
    assert NonInferiority(sum(ci95) / 2, ci95).verdict == verdict
    assert NonInferiority(0.0, (-0.09, 0.1), margin=0.1).verdict == "non-inferior"


def test_a_margin_is_above_zero() -> None:
    """A margin of nothing would ask for superiority."""
    with pytest.raises(ValueError, match="margin"):
        NonInferiority(0.0, (-0.1, 0.1), margin=0.0)


def test_the_margin_is_the_registered_one() -> None:
    """Report and simulation judge by one number, .05 of macro AUC."""
    assert MARGIN == 0.05
    assert NonInferiority(0.0, (-0.1, 0.1)).margin == MARGIN


def test_mean_difference_is_no_narrower_than_its_own_interval() -> None:
    """Over paired samples the bound holds against the variance that the classes' covariance gives."""
    logits, labels = sample(11, 200)
    other = logits + np.random.default_rng(12).normal(size=logits.shape)
    first, second = margins(logits), margins(other)
    tests = [paired_test(first[:, k], second[:, k], positive=labels == k) for k in range(3)]
    known = [test for test in tests if isinstance(test, AucTest)]
    assert len(known) == 3
    mean, (low, high) = mean_difference(known)
    assert mean == pytest.approx(np.mean([test.difference for test in known]))
    moved = [
        influence(first[:, k], positive=labels == k) - influence(second[:, k], positive=labels == k)
        for k in range(3)
    ]
    se = np.sqrt((np.mean(moved, axis=0) ** 2).sum())
    assert high - mean == pytest.approx(mean - low)
    assert high - mean > 1.959963984540054 * se
    assert high - mean == pytest.approx(np.mean([test.ci95[1] - test.difference for test in known]))


@settings(deadline=None, max_examples=60)
@given(b=st.integers(0, 60), c=st.integers(0, 60))
def test_exact_mcnemar_is_that_of_statsmodels(b: int, c: int) -> None:
    """Each discordant patient is a toss of a coin; without any, p is 1."""
    expected = sm_mcnemar([[0, b], [c, 0]], exact=True).pvalue if b + c else 1.0
    assert mcnemar_exact(b=b, c=c) == pytest.approx(min(expected, 1.0), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), n=st.integers(12, 80), ties=st.booleans())
def test_macro_interpolated_is_that_of_scikit_learn(seed: int, n: int, ties: bool) -> None:
    """With the points that `roc_curve` keeps by default, of scores with and without ties."""
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, 2, rng.integers(0, 3, n - 3)]
    scores = rng.normal(size=(n, 3)) + np.eye(3)[labels]
    scores = scores.round(1) if ties else scores
    curves = [roc_curve(labels == k, scores[:, k])[:2] for k in range(3)]
    grid = np.unique(np.concatenate([fpr for fpr, _ in curves]))
    expected = sk_area(grid, np.mean([np.interp(grid, fpr, tpr) for fpr, tpr in curves], axis=0))
    assert macro_interpolated(scores, labels=labels) == pytest.approx(expected, abs=1e-12)


def test_figures_at_the_ends_warn_of_nothing() -> None:
    """AUCs within rounding of 0 and 1, and Welch's t of few patients: ends lie where a share or difference can."""
    for value in (5e-324, 1e-16, 1 - 1e-16):
        for number in (float, np.float64):
            assert Estimate(number(value), number(0.04)).logit() == (0.0, 1.0)
    test = unpaired_test(Auc(0.6, 0.2, 2, 1), Auc(0.5, 0.2, 1, 2))
    assert not isinstance(test, NotEstimable)
    assert test.ci95 == (-1.0, 1.0)
