"""Statistics of a few patients, done by hand or with a few lines of arithmetic, and input that is refused."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, sqrt

import numpy as np
import pytest
from scipy.special import expit

from stic_core.statistics import (
    CELLS,
    EDGES,
    SCORE_GRID,
    Auc,
    AucTest,
    Estimate,
    Group,
    IndependentProportions,
    MetaAnalysis,
    NonInferiority,
    NotEstimable,
    PairedDifference,
    PooledScores,
    Recalibration,
    ScoreHistogram,
    TestResult,
    absent_class,
    brier_sum,
    clopper_pearson,
    cochran_q,
    delong,
    difference_test,
    ece,
    independent_proportions,
    influence,
    log_loss_sum,
    logistic_fit,
    macro,
    macro_interpolated,
    margins,
    mcnemar,
    merged_starts,
    meta_analysis,
    micro,
    newcombe,
    paired_difference,
    paired_test,
    paired_variance,
    placements,
    pool_scores,
    pooled_auc,
    recalibration,
    reliability,
    roc_points,
    score_histogram,
    stratified,
    unpaired_test,
    wilson,
    with_half_a_patient,
)
from stic_core.statistics.auc import NO_VARIANCE
from support.samples import sample

Z90, Z95 = 1.6448536269514722, 1.959963984540054
"""Quantiles of the normal distribution at .95 and .975, from a table."""


def _bools(text: str) -> np.ndarray:
    return np.array([letter == "+" for letter in text])


def _value(found: object) -> float:
    assert isinstance(found, Estimate)
    return found.value


# One ROC curve.


def test_wald_is_the_value_and_z_standard_errors() -> None:
    """.9 with a standard error of .03; cut at 0 and at 1."""
    estimate = Estimate(0.9, 0.0009)
    assert estimate.se == pytest.approx(0.03)
    assert estimate.wald() == pytest.approx((0.9 - Z95 * 0.03, 0.9 + Z95 * 0.03))
    assert estimate.wald(level=0.9) == pytest.approx((0.9 - Z90 * 0.03, 0.9 + Z90 * 0.03))
    assert Estimate(0.99, 0.0009).wald() == (pytest.approx(0.99 - Z95 * 0.03), 1.0)
    assert Estimate(0.01, 0.0009).wald() == (0.0, pytest.approx(0.01 + Z95 * 0.03))


def test_the_logit_interval_is_taken_back() -> None:
    """Odds of 9 to 1; the standard error of their logarithm is .03 / (.9 x .1)."""
    for level, z in ((0.95, Z95), (0.9, Z90)):
        low, high = (9 * exp(sign * z * 0.03 / 0.09) for sign in (-1, 1))
        found = Estimate(0.9, 0.0009).logit(level=level)
        assert found == pytest.approx((low / (1 + low), high / (1 + high)))
    assert Estimate(0.9, 0.0009).logit() == Estimate(0.9, 0.0009).logit(level=0.95)
    for end in (0.0, 1.0):
        assert Estimate(end, 0.0009).logit() == NO_VARIANCE


def test_placements_and_auc_with_a_tie() -> None:
    """Positives at 1 and 3, negatives at 0, 1 and 2: of six pairs four are in order and one is tied."""
    scores, positive = np.array([1.0, 0, 3, 1, 2]), _bools("+-+--")
    above, below = placements(scores, positive=positive)
    assert above.tolist() == pytest.approx([1.5 / 3, 1.0])
    assert below.tolist() == pytest.approx([1.0, 0.75, 0.5])
    auc = delong(scores, positive=positive)
    assert isinstance(auc, Auc)
    assert (auc.value, auc.positives, auc.negatives) == (pytest.approx(0.75), 2, 3)
    # Sample variances are 1/8 of two and 1/16 of three.
    assert auc.variance == pytest.approx(0.125 / 2 + 0.0625 / 3)
    moved = influence(scores, positive=positive)
    assert moved.tolist() == pytest.approx(
        [-0.25 / sqrt(2), 0.25 / sqrt(6), 0.25 / sqrt(2), 0, -0.25 / sqrt(6)]
    )


def test_a_class_of_one_has_an_auc_and_no_variance() -> None:
    """One patient of the class, or one other: the value stands, and what is missing is said."""
    for positive in (_bools("+--+")[:3], _bools("-++")):
        auc = delong(np.array([1.0, 0.0, 2.0]), positive=positive)
        assert isinstance(auc, Auc)
        assert auc.value == 0.5
        assert isinstance(auc.variance, NotEstimable)
        assert auc.variance != NO_VARIANCE
    tied = delong(np.zeros(4), positive=_bools("++--"))
    assert isinstance(tied, Auc)
    assert (tied.value, tied.variance) == (0.5, NO_VARIANCE)
    lone = influence(np.array([1.0, 0, 2, 1]), positive=_bools("+---"))
    assert lone.tolist() == pytest.approx([0, 0.5 / sqrt(6), -0.5 / sqrt(6), 0])


def test_why_there_is_no_curve() -> None:
    """Nobody at all, nobody of the class, nobody else."""
    assert absent_class(positives=0, negatives=0) == NotEstimable("no patients")
    assert absent_class(positives=0, negatives=3) == NotEstimable("no patient of this class")
    assert absent_class(positives=3, negatives=0) == NotEstimable("no patient of another class")
    assert delong(np.zeros(2), positive=_bools("--")) == absent_class(positives=0, negatives=2)
    assert delong(np.zeros(2), positive=_bools("++")) == absent_class(positives=2, negatives=0)
    for positive in ("--", "++"):
        found = paired_test(np.arange(2.0), np.arange(2.0)[::-1], positive=_bools(positive))
        assert found == delong(np.zeros(2), positive=_bools(positive))


@pytest.mark.parametrize(
    ("scores", "positive", "error"),
    [
        (np.zeros(3), _bools("+-"), ValueError),
        (np.zeros((2, 1)), _bools("+-")[:, None], ValueError),
        (np.zeros(2), np.array([0, 1]), TypeError),
        (np.array([np.inf, 0]), _bools("+-"), ValueError),
    ],
)
def test_scores_that_are_refused(scores: np.ndarray, positive: np.ndarray, error: type[Exception]) -> None:
    """Other lengths, two axes, classes as numbers, infinity; in the second score as in the first."""
    with pytest.raises(error):
        delong(scores, positive=positive)
    if scores.shape == positive.shape:
        with pytest.raises(error):
            paired_test(np.zeros(positive.shape), scores, positive=positive)


# Tests of two areas.


def test_a_difference_on_the_normal_and_on_t() -> None:
    """.1 with a standard error of .05: z and t are 2; tables give p and the quantiles."""
    normal = difference_test(0.1, variance=0.0025, df=None)
    assert isinstance(normal, AucTest)
    assert (normal.difference, normal.df) == (0.1, None)
    assert normal.statistic == pytest.approx(2)
    assert normal.p == pytest.approx(0.04550026389635839)
    assert normal.ci95 == pytest.approx((0.1 - Z95 * 0.05, 0.1 + Z95 * 0.05))
    student = difference_test(-0.1, variance=0.0025, df=10)
    assert isinstance(student, AucTest)
    assert (student.difference, student.df) == (-0.1, 10)
    assert student.statistic == pytest.approx(-2)
    assert student.p == pytest.approx(0.0733880348, abs=1e-9)
    assert student.ci95 == pytest.approx((-0.1 - 2.228138852 * 0.05, -0.1 + 2.228138852 * 0.05))
    narrow = difference_test(0.1, variance=0.0025, df=None, level=0.9)
    assert isinstance(narrow, AucTest)
    assert narrow.ci95 == pytest.approx((0.1 - Z90 * 0.05, 0.1 + Z90 * 0.05))
    for variance in (0.0, -1e-9, float("nan")):
        assert isinstance(difference_test(0.1, variance=variance, df=None), NotEstimable)


def test_two_scores_of_the_same_patients_by_brute_force() -> None:
    """Every pair of patients compared twice; the variance is that of the differences."""
    logits, labels = sample(21, 40)
    first, second, positive = logits[:, 0], logits[:, 0] + 0.7 * logits[:, 1], labels == 0

    def kernel(scores: np.ndarray) -> np.ndarray:
        x, y = scores[positive], scores[~positive]
        return (x[:, None] > y) + 0.5 * (x[:, None] == y)

    moved = kernel(first) - kernel(second)
    m, n = moved.shape
    variance = moved.mean(axis=1).var(ddof=1) / m + moved.mean(axis=0).var(ddof=1) / n
    assert paired_variance(first, second, positive=positive) == pytest.approx(variance)
    found = paired_test(first, second, positive=positive)
    assert isinstance(found, AucTest)
    assert found.difference == pytest.approx(moved.mean())
    assert found.df is None
    assert found.statistic == pytest.approx(moved.mean() / sqrt(variance))
    half = Z95 * sqrt(variance)
    assert found.ci95 == pytest.approx((moved.mean() - half, moved.mean() + half))
    narrow = paired_test(first, second, positive=positive, level=0.9)
    assert isinstance(narrow, AucTest)
    assert narrow.ci95[1] - moved.mean() == pytest.approx(half * Z90 / Z95)


def test_a_paired_test_needs_two_of_each() -> None:
    """With one patient of the class the difference has no variance, and so no test."""
    scores = np.array([1.0, 0, 2, 3])
    for positive in ("+---", "+++-"):
        assert paired_variance(scores, scores[::-1], positive=_bools(positive)) == 0
        assert isinstance(paired_test(scores, scores[::-1], positive=_bools(positive)), NotEstimable)


def test_an_unpaired_test_of_two_sites() -> None:
    """Variances .0009 and .0016 over 101 and 51 patients: t is 2 on about 96.2 degrees of freedom."""
    first, second = Auc(0.9, 0.0009, 40, 61), Auc(0.8, 0.0016, 30, 21)
    df = 0.0025**2 / (0.0009**2 / 100 + 0.0016**2 / 50)
    found, same = unpaired_test(first, second), difference_test(0.1, variance=0.0025, df=df)
    assert isinstance(found, AucTest)
    assert isinstance(same, AucTest)
    assert (found.difference, found.df, found.p) == pytest.approx((0.1, df, same.p))
    assert found.ci95 == pytest.approx(same.ci95)
    narrow, same = (
        unpaired_test(first, second, level=0.9),
        difference_test(0.1, variance=0.0025, df=df, level=0.9),
    )
    assert isinstance(narrow, AucTest)
    assert isinstance(same, AucTest)
    assert narrow.ci95 == pytest.approx(same.ci95)
    without = Auc(1.0, NO_VARIANCE, 40, 61)
    assert unpaired_test(first, without) == unpaired_test(without, first) == NO_VARIANCE


# Several classes.


def test_margins_of_two_and_three_classes() -> None:
    """Of two classes the difference of the logits; of three, the log odds of the softmax."""
    assert margins(np.array([[3.0, 1.0]])).tolist() == [[2.0, -2.0]]
    found = margins(np.log(np.array([[1.0, 2.0, 5.0]])))
    assert found.tolist() == [pytest.approx([log(1 / 7), log(2 / 6), log(5 / 3)])]
    assert margins(np.array([[3.0, 1.0]], dtype=np.float32)).dtype == np.float64
    for logits in (np.zeros(3), np.zeros((3, 1)), np.zeros((1, 2, 2))):
        with pytest.raises(ValueError, match="logits"):
            margins(logits)


def test_roc_points_by_hand() -> None:
    """Scores 3+ 2- 2+ 1+ 0-: the tied pair is one step, up and to the right at once."""
    fpr, tpr = roc_points(np.array([2.0, 3, 2, 0, 1]), positive=_bools("-++-+"))
    assert fpr.tolist() == pytest.approx([0, 0, 1 / 2, 1 / 2, 1])
    assert tpr.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


def test_macro_and_micro_variances_by_definition() -> None:
    """Influences add up: over classes divided by their number, over a patient's scores as they are."""
    logits, labels = sample(22, 50)
    scores = margins(logits)
    moved = [influence(scores[:, k], positive=labels == k) for k in range(3)]
    both = macro(scores, labels=labels)
    assert isinstance(both, Estimate)
    assert both.variance == pytest.approx((np.sum(moved, axis=0) ** 2).sum() / 9)
    pairs = np.eye(3, dtype=bool)[labels].ravel()
    flat = influence(scores.ravel(), positive=pairs)
    all_pairs, single = micro(scores, labels=labels), delong(scores.ravel(), positive=pairs)
    assert isinstance(all_pairs, Estimate)
    assert isinstance(single, Auc)
    assert all_pairs.value == single.value
    clusters = [flat[3 * patient : 3 * patient + 3].sum() ** 2 for patient in range(50)]
    assert all_pairs.variance == pytest.approx(sum(clusters))


def test_macro_and_micro_without_enough_patients() -> None:
    """A class that is missing has no AUC; one patient of a class gives no variance."""
    scores, labels = (
        margins(np.array([[1.0, 0, 0], [2, 0, 1], [0, 1, 0.5], [0, 2, 1]])),
        np.array([0, 0, 1, 1]),
    )
    assert isinstance(macro(scores, labels=labels), NotEstimable)
    assert isinstance(macro_interpolated(scores, labels=labels), NotEstimable)
    assert isinstance(macro_interpolated(scores[:2], labels=labels[:2]), NotEstimable)
    assert micro(np.zeros((0, 3)), labels=np.zeros(0, dtype=int)) == NotEstimable("no patients")
    three = np.array([0, 0, 1, 2])
    lone = macro(np.random.default_rng(0).normal(size=(4, 3)), labels=three)
    assert isinstance(lone, Estimate)
    assert isinstance(lone.variance, NotEstimable)
    assert lone.variance != NO_VARIANCE
    two = macro(np.random.default_rng(1).normal(size=(6, 3)), labels=np.array([0, 0, 1, 1, 2, 2]))
    assert isinstance(two, Estimate)
    assert isinstance(two.variance, float)
    alone = micro(np.array([[1.0, 0, 0.5]]), labels=np.array([2]))
    assert isinstance(alone, Estimate)
    assert (alone.value, alone.variance != NO_VARIANCE) == (0.5, True)
    assert isinstance(alone.variance, NotEstimable)
    tied = micro(np.zeros((4, 3)), labels=three)
    assert isinstance(tied, Estimate)
    assert tied.variance == NO_VARIANCE


# Several sites.


def test_stratified_without_a_variance() -> None:
    """A site without one, whose AUC is 1, has that of as many patients at the mean; all of them at 1 have none."""
    found = stratified([Auc(1.0, NO_VARIANCE, 2, 2), Auc(0.5, 0.01, 4, 3)])
    mean = (4 * 1.0 + 12 * 0.5) / 16
    assert _value(found) == pytest.approx(mean)
    assert isinstance(found, Estimate)
    # Hanley and McNeil with both classes of 2: 1 other of each, Q1 = A / (2 - A), Q2 = 2 A^2 / (1 + A).
    q1, q2 = mean / (2 - mean), 2 * mean**2 / (1 + mean)
    of_first = (mean * (1 - mean) + (q1 - mean**2) + (q2 - mean**2)) / 4
    assert found.variance == pytest.approx((of_first * 4**2 + 0.01 * 12**2) / 16**2)
    perfect = stratified([Auc(1.0, NO_VARIANCE, 5, 5)] * 2)
    assert isinstance(perfect, Estimate)
    assert perfect == Estimate(1.0, NO_VARIANCE)


@pytest.mark.parametrize(
    ("auc", "m", "n"), [(0.9, 20, 30), (0.5, 12, 10), (1.0, 20, 20), (0.0, 15, 40), (0.999, 50, 9)]
)
def test_newcombe_ends_lie_z_standard_errors_away(auc: float, m: int, n: int) -> None:
    """Each end's own standard error, by Hanley and McNeil's Q1 and Q2, is what separates it from the AUC."""
    others = (m + n) / 2 - 1
    for level, z in ((0.95, Z95), (0.9, Z90)):
        low, high = Auc(auc, NO_VARIANCE, m, n).newcombe(level=level)
        assert 0 <= low <= auc <= high <= 1
        for end in {low, high} - {0.0, 1.0}:
            q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
            variance = (end * (1 - end) + others * (q1 - end**2 + q2 - end**2)) / (m * n)
            assert abs(end - auc) == pytest.approx(z * sqrt(variance), abs=1e-7)
    assert (high == 1) == (auc == 1)
    assert (low == 0) == (auc == 0)


def test_which_interval_an_auc_shows() -> None:
    """Newcombe's where less than a quarter of a patient is out of order, else the logit interval."""
    for value, sparse in ((1.0, True), (0.99, True), (0.98, False), (0.5, False), (0.005, True)):
        auc = Auc(value, 0.001, 20, 40)
        assert auc.sparse == sparse
        assert auc.interval() == (auc.newcombe() if sparse else auc.logit())


def test_an_auc_of_one_on_the_logit_scale() -> None:
    """All of so many effective patients are in order, and a half is added: Haldane's log odds and variance."""
    perfect = Auc(1.0, NO_VARIANCE, 20, 20)
    assert perfect.effective == pytest.approx(400 / (1 + 19 / 2))
    found = with_half_a_patient(perfect)
    assert isinstance(found, tuple)
    value, se = found
    assert log(value / (1 - value)) == pytest.approx(log((perfect.effective + 0.5) / 0.5))
    assert (se / (value * (1 - value))) ** 2 == pytest.approx(1 / (perfect.effective + 0.5) + 1 / 0.5)
    assert with_half_a_patient(Auc(0.8, 0.01, 20, 20)) == (0.8, pytest.approx(0.1))
    assert with_half_a_patient(Auc(0.5, NO_VARIANCE, 20, 20)) == NO_VARIANCE
    worst = with_half_a_patient(Auc(0.0, NO_VARIANCE, 20, 20))
    assert isinstance(worst, tuple)
    assert worst == (pytest.approx(1 - value), pytest.approx(se))


def test_meta_analysis_of_two_sites_by_hand() -> None:
    """Logit AUCs 1 and 2 with variances 1/4 and 1/12: weights 4 and 12, Q of 3, tau squared of 1/3."""
    aucs = [1 / (1 + exp(-y)) for y in (1.0, 2.0)]
    errors = [sqrt(v) * a * (1 - a) for v, a in zip((1 / 4, 1 / 12), aucs, strict=True)]

    def back(y: float) -> float:
        return 1 / (1 + exp(-y))

    for level, z in ((0.95, Z95), (0.9, Z90)):
        found = meta_analysis(aucs, standard_errors=errors, level=level)
        assert isinstance(found, MetaAnalysis)
        assert (found.q, found.df, found.tau2) == pytest.approx((3, 1, 1 / 3))
        assert found.i2 == pytest.approx(100 * 2 / 3)
        assert found.p == pytest.approx(0.08326451666)
        assert found.fixed.value == pytest.approx(back(1.75))
        assert found.fixed.ci95 == pytest.approx((back(1.75 - z / 4), back(1.75 + z / 4)))
        w1, w2 = 1 / (1 / 4 + 1 / 3), 1 / (1 / 12 + 1 / 3)
        mean, half = (w1 + 2 * w2) / (w1 + w2), z / sqrt(w1 + w2)
        assert found.random.value == pytest.approx(back(mean))
        assert found.random.ci95 == pytest.approx((back(mean - half), back(mean + half)))
    assert meta_analysis(aucs, standard_errors=errors) == meta_analysis(
        aucs, standard_errors=errors, level=0.95
    )


def test_meta_analysis_of_sites_that_agree() -> None:
    """Less heterogeneity than chance gives is none: tau and I squared are 0, not below."""
    for aucs in ([0.8, 0.8], [0.8, 0.801]):
        found = meta_analysis(aucs, standard_errors=[0.05, 0.05])
        assert isinstance(found, MetaAnalysis)
        assert (found.tau2, found.i2) == (0, 0)
        assert found.random == found.fixed
        assert found.q < 1
    assert isinstance(meta_analysis([], standard_errors=[]), NotEstimable)
    assert isinstance(meta_analysis([0.8], standard_errors=[0.1]), NotEstimable)


@pytest.mark.parametrize(("auc", "error"), [(0.0, 0.1), (1.0, 0.1), (0.8, 0.0), (-0.1, 0.1), (1.1, 0.1)])
def test_meta_analysis_refuses_what_has_no_logit(auc: float, error: float) -> None:
    """An AUC of 0 or 1, beyond them, or without an error."""
    with pytest.raises(ValueError, match="AUC"):
        meta_analysis([0.8, auc], standard_errors=[0.1, error])


# Proportions, and the same patients judged twice.


def test_levels_and_refusals_of_proportions() -> None:
    """The level of coverage arrives, and impossible counts are refused."""
    assert clopper_pearson(50, total=58) == clopper_pearson(50, total=58, level=0.95)
    assert wilson(5, total=10) == wilson(5, total=10, level=0.95)
    assert newcombe((5, 10), (3, 9)) == newcombe((5, 10), (3, 9), level=0.95)
    for level in (0.95, 0.8):
        both = independent_proportions((5, 10), (3, 9), level=level)
        assert isinstance(both, IndependentProportions)
        assert both.ci95 == newcombe((5, 10), (3, 9), level=level)
        assert both.difference == pytest.approx(5 / 10 - 3 / 9)
    assert independent_proportions((5, 10), (3, 9)) == independent_proportions((5, 10), (3, 9), level=0.95)
    for successes, total in ((-1, 3), (4, 3)):
        for function in (clopper_pearson, wilson):
            with pytest.raises(ValueError, match="successes"):
                function(successes, total=total)
        for pair in (((successes, total), (1, 2)), ((1, 2), (successes, total))):
            with pytest.raises(ValueError, match="successes"):
                independent_proportions(*pair)
    for pair in (((0, 0), (1, 2)), ((1, 2), (0, 0))):
        assert isinstance(independent_proportions(*pair), NotEstimable)
    assert wilson(0, total=1)[0] == 0
    assert clopper_pearson(0, total=0) == NotEstimable("no patients")
    assert clopper_pearson(1, total=1) == (pytest.approx(0.025), 1.0)


def test_newcombe_by_its_formula() -> None:
    """Table II of the 1998 paper: 56 of 70 against 48 of 80 give .0524 to .3339; 10 of 10 against 0 of 10."""
    assert newcombe((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe((48, 80), (56, 70)) == pytest.approx((-0.3339, -0.0524), abs=5e-5)
    (l1, u1), (l2, u2) = wilson(56, total=70, level=0.8), wilson(48, total=80, level=0.8)
    low, high = 0.2 - sqrt((0.8 - l1) ** 2 + (u2 - 0.6) ** 2), 0.2 + sqrt((u1 - 0.8) ** 2 + (0.6 - l2) ** 2)
    assert newcombe((56, 70), (48, 80), level=0.8) == pytest.approx((low, high))
    assert newcombe((10, 10), (0, 10)) == (pytest.approx(0.6075, abs=5e-5), 1.0)
    assert newcombe((0, 10), (10, 10)) == (-1.0, pytest.approx(-0.6075, abs=5e-5))


def test_no_association_has_no_chi_squared() -> None:
    """All right on both sides, and all wrong: chi-squared is 0 and p is 1."""
    for pair in (((3, 3), (4, 4)), ((0, 3), (0, 4))):
        found = independent_proportions(*pair)
        assert isinstance(found, IndependentProportions)
        assert (found.difference, found.chi2, found.p, found.fisher_p) == (0, 0, 1, 1)


def test_mcnemar_by_hand() -> None:
    """(|7 - 1| - 1)^2 / 8 = 3.125, whichever of the two is the larger; one patient alone gives 0."""
    for b, c in ((7, 1), (1, 7)):
        found = mcnemar(b=b, c=c)
        assert (found.statistic, found.df) == (3.125, 1)
        assert found.p == pytest.approx(0.0770998717)
    assert mcnemar(b=1, c=0) == TestResult(0.0, 1, 1.0)
    assert mcnemar(b=4, c=4) == TestResult(0.0, 1, 1.0)


def test_a_paired_difference_by_its_formula() -> None:
    """6 against 2 of 50: .08 +- (z sqrt(8 - 16 / 50) / 50 + 1 / 50)."""
    for level, z in ((0.95, Z95), (0.9, Z90)):
        half = z * sqrt(8 - 16 / 50) / 50 + 1 / 50
        for b, c, sign in ((6, 2, 1), (2, 6, -1)):
            found = paired_difference(b=b, c=c, n=50, level=level)
            assert isinstance(found, PairedDifference)
            assert found.difference == pytest.approx(sign * 0.08)
            assert found.ci95 == pytest.approx((sign * 0.08 - half, sign * 0.08 + half))
    assert paired_difference(b=6, c=2, n=50) == paired_difference(b=6, c=2, n=50, level=0.95)
    every = paired_difference(b=0, c=3, n=3)
    assert isinstance(every, PairedDifference)
    assert every.ci95[0] == -1.0
    assert every.ci95[1] == pytest.approx(-2 / 3)
    other = paired_difference(b=3, c=0, n=3)
    assert isinstance(other, PairedDifference)
    assert other.ci95 == (pytest.approx(2 / 3), 1.0)


def test_discordant_patients_that_are_refused() -> None:
    """Negative counts, and more discordant patients than patients; as many are allowed."""
    for b, c in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="discordant"):
            mcnemar(b=b, c=c)
        with pytest.raises(ValueError, match="discordant"):
            paired_difference(b=b, c=c, n=5)
    with pytest.raises(ValueError, match="patients"):
        paired_difference(b=2, c=2, n=3)
    assert isinstance(paired_difference(b=2, c=1, n=3), PairedDifference)
    assert isinstance(paired_difference(b=1, c=0, n=1), PairedDifference)


def test_cochran_q_by_hand() -> None:
    """Judges right 3, 2 and 1 times in patterns 111, 110, 100: Q = 2 (3 x 14 - 36) / (18 - 14) = 3."""
    found = cochran_q({"111": 1, "110": 1, "100": 1})
    assert isinstance(found, TestResult)
    assert (found.statistic, found.df) == (3, 2)
    assert found.p == pytest.approx(exp(-3 / 2))
    two = cochran_q({"10": 7, "01": 1, "11": 20})  # McNemar's statistic without correction
    assert isinstance(two, TestResult)
    assert (two.statistic, two.df) == (4.5, 1)
    assert cochran_q({"11": 4}) == TestResult(0.0, 1, 1.0)


def test_patterns_that_are_refused() -> None:
    """Patterns of several lengths or other digits are an error; one judge or no patient is a reason."""
    for patterns in ({"11": 1, "1": 1}, {"12": 1}, {"11": 1, "0x": 1}):
        with pytest.raises(ValueError, match="patterns"):
            cochran_q(patterns)
    for patterns in ({}, {"1": 3, "0": 2}):
        assert cochran_q(patterns) == NotEstimable("fewer than two judges")
    for patterns in ({"11": 0}, {"11": 3, "10": -1}):
        assert cochran_q(patterns) == NotEstimable("no patients")
    assert isinstance(cochran_q({"10": 1, "01": 0}), TestResult)


def test_a_margin_may_be_any_number_above_zero() -> None:
    """One of 1e-9 is a margin, one of -1 or NaN is none."""
    assert NonInferiority(0.0, (0.0, 0.0), margin=1e-9).verdict == "non-inferior"
    for margin in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="margin"):
            NonInferiority(0.0, (0.0, 0.0), margin=margin)


# Calibration.


def test_brier_by_hand() -> None:
    """.3, .1 and .2 away from (1, 0, 0) are .14; .8, .9 and .1 away from (0, 1, 0) are 1.46."""
    p = np.array([[0.7, 0.1, 0.2], [0.8, 0.1, 0.1]])
    assert brier_sum(p, labels=np.array([0, 1])) == pytest.approx(0.14 + 1.46)


def test_log_loss_is_summed_in_float64() -> None:
    """A model's float32 logits give the sum that the same numbers give in float64, to its last digits."""
    logits, labels = sample(23, 500)
    single = logits.astype(np.float32)
    expected = log_loss_sum(single.astype(np.float64), labels=labels)
    assert log_loss_sum(single, labels=labels) == pytest.approx(expected, rel=1e-14)
    assert log_loss_sum(np.log([[0.5, 0.25, 0.25]]), labels=np.array([1])) == pytest.approx(log(4))


@pytest.mark.parametrize(
    ("n", "hits", "predicted", "good"),
    [
        (2, 0, 0.0, True), (2, 2, 2.0, True), (2, 1, -1e-7, True), (2, 1, 2 + 1e-7, True), (0, 0, 0.0, True),
        (2, -1, 1.0, False), (2, 3, 1.0, False), (2, 1, -1e-5, False), (2, 1, 2 + 1e-5, False),
    ],
)  # fmt: skip
def test_a_group_holds_together(n: int, hits: int, predicted: float, good: bool) -> None:
    """Hits from 0 to n, predictions too, but for rounding."""
    if good:
        assert Group(n, hits, predicted).n == n
    else:
        with pytest.raises(ValueError, match="calibration group"):
            Group(n, hits, predicted)


def test_the_curve_adds_up_sites_bin_by_bin() -> None:
    """A group counts in the bin of its mean; bins come in order, whatever the order of the groups."""
    groups = [Group(2, 1, 1.9), Group(4, 1, 0.6), Group(3, 3, 2.85), Group(2, 0, 0.22)]
    curve = reliability(groups)
    assert [(g.n, g.hits) for g in curve] == [(6, 1), (5, 4)]
    assert [g.predicted for g in curve] == pytest.approx([0.82, 4.75])


def test_a_logistic_fit_that_has_a_formula() -> None:
    """Two groups: slope and intercept are log odds, and their variances sums of 1 / count."""
    fit = logistic_fit(np.array([-1.0, 3.0]), hits=np.array([2.0, 15.0]), misses=np.array([6.0, 5.0]))
    assert isinstance(fit, Recalibration)
    low, high, var_low, var_high = log(2 / 6), log(15 / 5), 1 / 2 + 1 / 6, 1 / 15 + 1 / 5
    assert fit.slope == pytest.approx((high - low) / 4)
    assert fit.slope_se == pytest.approx(sqrt(var_low + var_high) / 4)
    assert fit.intercept == pytest.approx((3 * low + high) / 4)
    assert fit.intercept_se == pytest.approx(sqrt(9 * var_low + var_high) / 4)


def test_a_fit_far_from_its_start_is_found() -> None:
    """Odds of 1e6 to 1 and a variable around 1e4: Newton's steps are bounded, and get there."""
    fit = logistic_fit(np.array([1e4, 1e4 + 1]), hits=np.array([1.0, 1e6]), misses=np.array([1e6, 1.0]))
    assert isinstance(fit, Recalibration)
    assert fit.slope == pytest.approx(2 * log(1e6), rel=1e-6)
    assert fit.intercept == pytest.approx(-(2e4 + 1) * log(1e6), rel=1e-6)


def test_a_fit_that_newtons_full_steps_miss() -> None:
    """Nearly separated and lopsided: full steps run away, bounded ones end where the likelihood is flat."""
    x, hits, misses = np.array([[-16.0, 15, 190], [-4, 43, 41498], [-3, 979, 0]]).T
    fit = logistic_fit(x, hits=hits, misses=misses)
    assert isinstance(fit, Recalibration)
    left_over = hits - (hits + misses) / (1 + np.exp(-fit.intercept - fit.slope * x))
    assert [left_over.sum(), x @ left_over] == pytest.approx([0, 0], abs=1e-6)


def test_classes_that_a_fit_cannot_tell() -> None:
    """One class missing, or both on separate sides of a value, the value itself included."""
    x, none, some = np.array([0.0, 1, 2]), np.zeros(3), np.array([1.0, 1, 1])
    assert logistic_fit(x, hits=none, misses=some) == NotEstimable("no patient of this class")
    assert logistic_fit(x, hits=some, misses=none) == NotEstimable("no patient of another class")
    left, right = np.array([1.0, 1, 0]), np.array([0.0, 1, 1])
    for hits, misses in ((left, right), (right, left)):
        fit = logistic_fit(x, hits=hits, misses=misses)
        assert isinstance(fit, NotEstimable)
        assert "separates" in fit.reason
    over = np.array([0.0, 1, 1])
    assert isinstance(logistic_fit(x, hits=over, misses=np.array([1.0, 1, 1])), Recalibration)
    assert isinstance(logistic_fit(x, hits=np.array([1.0, 1, 1]), misses=over), Recalibration)


def test_recalibration_is_the_fit_of_the_cells() -> None:
    """Two sites' unmerged bins: the fit is that of the cells' centres with all their patients."""
    edges = (-1.0, 0.0, 1.0)
    one = ScoreHistogram(edges, (0, 1, 2, 3), (1, 0, 2, 4), (30, 2, 1, 0), (0.0,) * 4)
    two = ScoreHistogram(edges, (0, 1, 2, 3), (0, 1, 3, 9), (9, 4, 2, 1), (0.0,) * 4)
    centres = np.array([-1.0, -0.5, 0.5, 1.0])
    expected = logistic_fit(centres, hits=np.array([1.0, 1, 5, 13]), misses=np.array([39.0, 6, 3, 1]))
    pooled = pool_scores([[one], [two]])
    assert isinstance(expected, Recalibration)
    assert isinstance(pooled, PooledScores)
    assert pooled.open_by_bins < 0.2
    assert recalibration(pooled) == expected
    probability = expit(centres)
    n, hits = np.array([40, 7, 8, 14]), np.array([1, 1, 5, 13])
    assert ece(pooled) == pytest.approx(np.abs(hits - n * probability).sum() / 69)


def test_coarse_bins_give_no_calibration() -> None:
    """Where bins leave much of the order open, slope and error would be what is assumed within them."""
    pooled = pool_scores([[ScoreHistogram((0.0,), (0, 1), (3, 6), (6, 3), (-9.0, 9.0))]])
    assert isinstance(pooled, PooledScores)
    assert isinstance(recalibration(pooled), NotEstimable)
    assert isinstance(ece(pooled), NotEstimable)


def test_equal_scores_are_no_separation() -> None:
    """All alike: there is no slope because there is nothing to rise along."""
    found = logistic_fit(np.array([0.3, 0.3]), hits=np.array([2.0, 1]), misses=np.array([1.0, 4]))
    assert found == NotEstimable("all scores are equal")


# Histograms.


@pytest.mark.parametrize(
    ("counts", "minimum", "starts"),
    [
        ((3, 0, 2, 5, 1), 1, (0, 1, 2, 3, 4)),
        ((3, 0, 2, 5, 1), 0, (0, 1, 2, 3, 4)),
        ((3, 0, 2, 5, 1), 2, (0, 1, 3)),
        ((3, 0, 2, 5, 1), 5, (0, 3)),
        ((3, 0, 2, 5, 5), 5, (0, 3, 4)),
        ((1, 1), 5, (0,)),
        ((0, 0, 0), 2, (0,)),
        ((5, 0), 5, (0,)),
    ],
)
def test_neighbours_are_merged_from_the_left(
    counts: tuple[int, ...], minimum: int, starts: tuple[int, ...]
) -> None:
    """A bin that is full ends before the next one; what is left over joins the last."""
    assert merged_starts(np.array(counts), minimum=minimum) == starts


def test_a_histogram_by_hand() -> None:
    """A score on an edge counts above it; the ends are open."""
    scores = np.array([-9.0, 0, 0.5, 1, 9])
    found = score_histogram(scores, positive=_bools("-+-++"), edges=(0, 1), min_cell=1)
    assert found == ScoreHistogram((0.0, 1.0), (0, 1, 2), (0, 1, 2), (1, 1, 0), (-9.0, 0.5, 10.0))
    assert found.fine_bins == 3
    merged = score_histogram(scores, positive=_bools("-+-++"), edges=np.array([0.0, 1.0]), min_cell=3)
    assert merged == ScoreHistogram((0.0, 1.0), (0,), (3,), (2,), (1.5,))


GOOD = {"edges": (0.0, 1.0), "starts": (0, 2), "positives": (0, 2), "negatives": (3, 0), "sums": (0.0, -1.0)}


@pytest.mark.parametrize(
    "broken",
    [
        {"edges": (0.0, 0.0)}, {"edges": (0.0, float("inf"))}, {"starts": (0,)}, {"starts": (0, 0)},
        {"starts": (1, 2)}, {"starts": (0, 3)}, {"starts": (2, 0)}, {"positives": (0, -1)}, {"negatives": (-1, 0)},
        {"positives": (1, 2, 3)}, {"negatives": (1,)}, {"sums": (0.0,)}, {"sums": (float("inf"), 0.0)},
        {"starts": (), "positives": (), "negatives": (), "sums": ()},
    ],
)  # fmt: skip
def test_a_histogram_that_does_not_hold_together(broken: dict[str, tuple[float, ...]]) -> None:
    """Columns of several lengths, edges and starts that do not rise, negative counts, no bin at all."""
    assert ScoreHistogram(**GOOD).fine_bins == 3  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="histogram"):
        ScoreHistogram(**{**GOOD, **broken})  # pyright: ignore[reportArgumentType]


FINE = ScoreHistogram((0.0, 1.0, 2.0), (0, 1, 2, 3), (0, 1, 2, 3), (4, 2, 1, 0), (0.0,) * 4)
MERGED = ScoreHistogram((0.0, 1.0, 2.0), (0, 2), (1, 3), (5, 1), (0.0,) * 2)
OTHER = ScoreHistogram((0.5, 1.0), (0, 1, 2), (1, 0, 2), (3, 1, 1), (0.0,) * 3)


def _pairs(sites: Sequence[ScoreHistogram], exact: Sequence[float | None]) -> tuple[float, float, float]:
    """Least, greatest and estimated share of pairs in order, comparing every two released bins."""
    grid = sorted({edge for site in sites for edge in site.edges})
    bins = []  # site, positives, negatives, first cell, cell after the last
    for number, site in enumerate(sites):
        ends = [-np.inf, *(site.edges[start - 1] for start in site.starts[1:]), np.inf]
        for p, n, low, high in zip(site.positives, site.negatives, ends[:-1], ends[1:], strict=True):
            bins.append((number, p, n, sum(e <= low for e in grid), sum(e < high for e in grid) + 1))
    least = most = middle = pairs = 0.0
    for site, p, _, low, high in bins:
        for other, _, n, other_low, other_high in bins:
            pairs += p * n
            if site == other and exact[site] is not None:
                least, most, middle = (x + p * n * exact[site] for x in (least, most, middle))
                continue
            least += p * n * (low >= other_high)
            most += p * n * (high > other_low)
            cells = [(a, b) for a in range(low, high) for b in range(other_low, other_high)]
            middle += p * n * sum((a > b) + (a == b) / 2 for a, b in cells) / len(cells)
    return least / pairs, most / pairs, middle / pairs


@pytest.mark.parametrize("sites", [[FINE], [MERGED], [FINE, MERGED], [OTHER, FINE], [MERGED, OTHER, FINE]])
def test_pooled_auc_by_comparing_every_two_bins(sites: list[ScoreHistogram]) -> None:
    """Value and bounds, with other bins at each site, and with one site's own AUC known or all of them."""
    aucs = [0.75, 0.7, 0.8][: len(sites)]
    for exact in ([None] * len(sites), aucs, [aucs[0], *[None] * (len(sites) - 1)]):
        least, most, middle = _pairs(sites, exact)
        found = pooled_auc([[site] for site in sites], exact=exact)
        if any(len(site.starts) < site.fine_bins or site.edges != sites[0].edges for site in sites):
            assert least - 1e-9 <= _value(found) <= most + 1e-9
        else:
            assert _value(found) == pytest.approx(middle)
        assert found.bounds == pytest.approx((least, most))  # pyright: ignore[reportAttributeAccessIssue]
    assert pooled_auc([[site] for site in sites]) == pooled_auc(
        [[site] for site in sites], exact=[None] * len(sites)
    )


def test_the_variance_of_bins_is_that_of_tied_scores() -> None:
    """Unmerged bins are scores with ties, whose variance DeLong gives."""
    scores = np.repeat([0.0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 4, 2, 1, 0])
    tied = delong(scores, positive=np.arange(13) < 6)
    found = pooled_auc([[FINE]])
    assert isinstance(tied, Auc)
    assert isinstance(found, Auc)
    assert isinstance(tied.variance, float)
    open_pairs = 1 * 2 + 2 * 1
    of_order = (open_pairs / 42) ** 2 * 0.25 / 12 / 4  # half of what is open is in order, as 4 bins draw it
    assert (found.value, found.variance) == pytest.approx((tied.value, tied.variance + of_order))
    assert (found.positives, found.negatives) == (6, 7)


def test_pooled_auc_without_a_variance() -> None:
    """One patient of the class or one other; or classes that never share or pass a bin."""
    for p, n in (((0, 1), (2, 1)), ((2, 1), (1, 0))):
        one = pooled_auc([[ScoreHistogram((0.0,), (0, 1), p, n, (0.0, 0.0))]])
        assert isinstance(one, Auc)
        assert isinstance(one.variance, NotEstimable)
        assert one.variance != NO_VARIANCE
    for p, n, value in (((0, 2), (2, 0), 1), ((2, 0), (0, 2), 0), ((2, 0), (2, 0), 0.5)):
        apart = pooled_auc([[ScoreHistogram((0.0,), (0, 1), p, n, (0.0, 0.0))]])
        assert isinstance(apart, Auc)
        assert (apart.value, apart.variance) == (value, NO_VARIANCE)
    two = pooled_auc([[ScoreHistogram((0.0,), (0, 1), (1, 1), (1, 1), (0.0, 0.0))]])
    assert isinstance(two, Auc)
    assert two.variance == pytest.approx(1 / 16 + 1 / 16 + 0.5**2 * 0.25 / 12 / 2)
    nobody = ScoreHistogram((0.0,), (0,), (0,), (0,), (0.0,))
    for p, n in (((0,), (0,)), ((0,), (1,)), ((1,), (0,))):
        found = [ScoreHistogram((0.0,), (0,), p, n, (0.0,)), nobody]
        expected = absent_class(positives=p[0], negatives=n[0])
        assert pooled_auc([found]) == expected
        assert pool_scores([found]) == expected


def _cells(*sites: ScoreHistogram, exact: Sequence[float | None] = ()) -> PooledScores:
    found = pool_scores([[site] for site in sites], exact=exact)
    assert isinstance(found, PooledScores)
    return found


def test_a_merged_bin_is_spread_as_steeply_as_the_site_says() -> None:
    """Over three cells of a merged bin: nobody is lost, the odds rise evenly in asinh, and the AUC comes out."""
    edges = (-9.0, -0.5, 0.5, 1.5, 9.0)
    one = ScoreHistogram(edges, (0, 1, 4), (0, 4, 3), (9, 2, 0), (-90.0, 3.0, 30.0))
    aucs, steps = (0.93, 0.95, 0.96), []
    for auc in aucs:
        found = _cells(one, exact=[auc])
        p, n = found.positives, found.negatives
        assert (p.sum(), n.sum()) == (pytest.approx(7), pytest.approx(11))
        inside = slice(1, 4)
        assert (p[inside].sum(), n[inside].sum()) == (pytest.approx(4), pytest.approx(2))
        odds = np.diff(np.log(p[inside] / n[inside])) / np.diff(np.arcsinh([-4.75, 0.0, 1.0]))
        assert odds[0] == pytest.approx(odds[1])
        steps.append(odds[0])
        assert p @ (np.cumsum(n) - n / 2) / 77 == pytest.approx(auc, abs=1e-4)
        assert found.auc().value == pytest.approx(auc)
        assert found.bounds == (pytest.approx(auc), pytest.approx(auc))
    assert steps == sorted(steps)
    assumed = _cells(one)
    odds = np.log(assumed.positives[1:4] / assumed.negatives[1:4])
    assert np.diff(odds) == pytest.approx(np.diff(np.arcsinh([-4.75, 0.0, 1.0])))
    assert assumed.assumed


def test_own_aucs_that_no_spread_reaches() -> None:
    """All or none of what is open in order: the spread ends somewhere, the pairs are the sites' own."""
    for auc in (69 / 77, 1.0):
        found = _cells(
            ScoreHistogram((0.0, 1.0, 2.0), (0, 1, 3), (0, 4, 3), (9, 2, 0), (0.0,) * 3), exact=[auc]
        )
        assert found.auc().value == pytest.approx(auc)


def test_exact_counts_take_the_place_of_bins() -> None:
    """What a sum over sites gives in each cell of the grid is one unmerged histogram; only ties are open."""
    found = PooledScores.of_counts((0, 1, 2, 3), (4, 2, 1, 0), edges=np.array([0.0, 1.0, 2.0]))
    assert isinstance(found, PooledScores)
    assert found.auc() == pooled_auc([[FINE]])
    assert found.coarse == pytest.approx((16 + 9 + 9 + 9) / 169)


def test_an_outer_bin_reaches_as_far_as_its_mean() -> None:
    """Open ended, it is not spread to the end of the grid: its mean lies in its middle."""
    starts, sums = (0, 257, 289), (-40.0, 5.0, 40.0)
    one = ScoreHistogram(EDGES, starts, (0, 0, 8), (8, 10, 0), sums)
    p, n = _cells(one).positives, _cells(one).negatives
    reached = np.flatnonzero(p)
    middle = np.searchsorted(EDGES, 5.0, side="right")
    assert reached[0] == 289
    assert abs((reached[0] + reached[-1]) / 2 - middle) <= 1
    assert abs(np.flatnonzero(n)[0] + 256 - 2 * np.searchsorted(EDGES, -5.0, side="right")) <= 2


def test_the_pooled_curve_by_hand() -> None:
    """From the highest bin down; a bin without patients is no point."""
    gap = ScoreHistogram((0.0, 1.0, 2.0), (0, 1, 2, 3), (1, 0, 0, 3), (2, 2, 0, 0), (0.0,) * 4)
    fpr, tpr = _cells(gap).roc()
    assert fpr.tolist() == [0, 0, 0.5, 1]
    assert tpr.tolist() == [0, 0.75, 0.75, 1]
    fpr, tpr = _cells(FINE).roc()
    assert fpr == pytest.approx([0, 0, 1 / 7, 3 / 7, 1])
    assert tpr == pytest.approx([0, 3 / 6, 5 / 6, 1, 1])


# The grid.


def test_the_grid_of_scores_is_fixed() -> None:
    """What sites count on is part of the protocol: 513 edges, even in asinh, to +-1490."""
    assert (len(SCORE_GRID), CELLS, EDGES) == (513, 514, tuple(SCORE_GRID))
    assert np.arcsinh(SCORE_GRID[[0, 1, 256, 512]]) == pytest.approx([-8, -8 + 1 / 32, 0, 8])
