"""The numbers that R gives (binom.test, mcnemar.test, pROC 1.18.0, metafor), to the last digit kept."""

from __future__ import annotations

import pytest

from stic_core.statistics import (
    Auc,
    AucTest,
    IndependentProportions,
    MetaAnalysis,
    NotEstimable,
    PairedDifference,
    TestResult,
    clopper_pearson,
    cochran_q,
    independent_proportions,
    mcnemar,
    meta_analysis,
    paired_difference,
    unpaired_test,
)


@pytest.mark.parametrize(
    ("successes", "total", "lower", "upper"),
    [
        (50, 58, 0.746190245, 0.938520337),
        (33, 37, 0.745824064, 0.969748035),
        (17, 21, 0.580933959, 0.945536432),
        (82, 113, 0.633743321, 0.805386887),
        (80, 113, 0.614994609, 0.789706918),
        (92, 111, 0.745671995, 0.893682511),
        (0, 21, 0.0, 0.161097615),
        (21, 21, 0.838902385, 1.0),
    ],
)
def test_clopper_pearson(successes: int, total: int, lower: float, upper: float) -> None:
    """The exact interval is binom.test's."""
    interval = clopper_pearson(successes, total=total)
    assert interval == (pytest.approx(lower, abs=1e-9), pytest.approx(upper, abs=1e-9))


@pytest.mark.parametrize(
    ("n", "b", "c", "lower", "upper", "p"),
    [
        (58, 17, 2, 0.109976, 0.407265, 0.0013189686),
        (58, 12, 2, 0.036774, 0.308054, 0.0161569313),
        (37, 11, 1, 0.081724, 0.458817, 0.0093747685),
        (37, 8, 1, 0.015403, 0.362975, 0.0455002639),
    ],
)
def test_mcnemar(n: int, b: int, c: int, lower: float, upper: float, p: float) -> None:
    """McNemar with Edwards' correction is mcnemar.test's, and the interval of the difference fits."""
    assert mcnemar(b=b, c=c).p == pytest.approx(p, abs=1e-10)
    difference = paired_difference(b=b, c=c, n=n)
    assert isinstance(difference, PairedDifference)
    assert difference.ci95 == (pytest.approx(lower, abs=1e-6), pytest.approx(upper, abs=1e-6))


def test_mcnemar_without_a_difference() -> None:
    """No discordant patients, and as many one way as the other, are p = 1: not 0, NaN or .752."""
    assert mcnemar(b=0, c=0).p == 1.0
    assert mcnemar(b=5, c=5).p == 1.0
    assert isinstance(paired_difference(b=0, c=0, n=0), NotEstimable)


def test_cochran_q() -> None:
    """Cochran's Q of four readers, and of readers that agree throughout."""
    patterns = {"1111": 8, "0111": 5, "0110": 1, "0011": 1, "1011": 1, "0001": 1, "0000": 4}
    result = cochran_q(patterns)
    assert isinstance(result, TestResult)
    assert result.statistic == pytest.approx(13.551724138, abs=1e-9)
    assert result.df == 3
    assert result.p == pytest.approx(0.003583413, abs=1e-9)
    alike = cochran_q({"1111": 9, "0000": 4})
    assert isinstance(alike, TestResult)
    assert alike.p == 1.0


def test_unpaired_auc_is_welch() -> None:
    """Two sites' AUCs are compared by Welch's t over all patients (done by hand)."""
    first = Auc(value=0.9, variance=0.0009, positives=40, negatives=61)
    second = Auc(value=0.8, variance=0.0016, positives=30, negatives=21)
    result = unpaired_test(first, second)
    assert isinstance(result, AucTest)
    assert result.statistic == pytest.approx(2.0)
    assert result.df == pytest.approx(0.0025**2 / (0.0009**2 / 100 + 0.0016**2 / 50))
    assert 0.045 < result.p < 0.05


def test_independent_proportions() -> None:
    """Two sites' accuracies: chi-squared, Fisher and Newcombe, not McNemar."""
    result = independent_proportions((82, 113), (92, 111))
    assert isinstance(result, IndependentProportions)
    assert result.chi2 == pytest.approx(3.437130, abs=1e-6)
    assert result.p == pytest.approx(0.063746, abs=1e-6)
    assert result.fisher_p == pytest.approx(0.077665, abs=1e-6)
    assert result.ci95 == (pytest.approx(-0.20953, abs=1e-5), pytest.approx(0.00625, abs=1e-5))


def test_meta_analysis() -> None:
    """Meta-analysis of logit AUCs is metafor's, fixed and DerSimonian-Laird."""
    result = meta_analysis([0.937, 0.986, 0.905, 0.95], standard_errors=[0.0225, 0.0104, 0.030, 0.02])
    assert isinstance(result, MetaAnalysis)
    assert result.fixed.value == pytest.approx(0.938201675, abs=1e-9)
    assert result.fixed.ci95 == (pytest.approx(0.909445, abs=1e-6), pytest.approx(0.958246, abs=1e-6))
    assert result.random.value == pytest.approx(0.944287238, abs=1e-9)
    assert result.random.ci95 == (pytest.approx(0.900827, abs=1e-6), pytest.approx(0.969350, abs=1e-6))
    assert result.tau2 == pytest.approx(0.203185265, abs=1e-9)
    assert result.q == pytest.approx(6.218972138, abs=1e-9)
    assert result.i2 == pytest.approx(51.7605, abs=1e-4)


@pytest.mark.parametrize(
    ("aucs", "errors", "mean", "interval", "prediction"),
    [
        (
            (0.937, 0.986, 0.905, 0.95),
            (0.0225, 0.0104, 0.030, 0.02),
            0.944287238190,
            (0.845508131864, 0.981305344626),
            (0.731810463654, 0.990590810496),
        ),
        (
            (0.7, 0.9, 0.8),
            (0.04, 0.03, 0.05),
            0.808855558649,
            (0.430011326650, 0.959572859623),
            (0.143553730805, 0.990726375983),
        ),
        ((0.8, 0.81), (0.04, 0.05), 0.803764516715, (0.248338728939, 0.980686983571), None),
    ],
)
def test_hartung_knapp(
    aucs: tuple[float, ...],
    errors: tuple[float, ...],
    mean: float,
    interval: tuple[float, float],
    prediction: tuple[float, float] | None,
) -> None:
    """Interval and prediction are metafor's `rma(method="DL", test="adhoc")` and `predict` (3.8-1), of equals too."""
    result = meta_analysis(aucs, standard_errors=errors)
    assert isinstance(result, MetaAnalysis)
    assert result.hartung_knapp.value == pytest.approx(mean, abs=1e-11)
    assert result.hartung_knapp.ci95 == pytest.approx(interval, abs=1e-11)
    if prediction is None:
        assert isinstance(result.prediction, NotEstimable)
    else:
        assert result.prediction == pytest.approx(prediction, abs=1e-11)
