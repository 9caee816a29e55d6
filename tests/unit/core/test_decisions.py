"""Predictive values, net benefit, expected widths and Holm's correction, against independent references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from stic_core.statistics import (
    NotEstimable,
    expected_auc_interval,
    expected_proportion_interval,
    holm,
    net_benefit,
    predictive_values,
)
from stic_core.statistics.decisions import NetBenefit, PredictiveValue

COUNTS = st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(positives=COUNTS, negatives=COUNTS, prevalence=st.floats(0.01, 0.99))
def test_predictive_values_are_those_of_a_population_with_that_prevalence(positives, negatives, prevalence):
    """Bayes' rule by counting in a population of which `prevalence` has the disease; the value lies in its interval."""
    found = predictive_values(positives, negatives, prevalence=prevalence)
    sensitivity, specificity = positives[0] / positives[1], negatives[0] / negatives[1]
    called = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    if called == 0:
        assert isinstance(found.positive, NotEstimable)
        return
    assert isinstance(found.positive, PredictiveValue)
    assert found.positive.value == pytest.approx(prevalence * sensitivity / called)
    assert found.positive.ci95[0] <= found.positive.value <= found.positive.ci95[1]
    assert found.positive.ci95[0] >= 0
    assert found.positive.ci95[1] <= 1


def test_at_the_samples_own_prevalence_they_are_the_rows_of_the_table():
    """40 of 50 positives and 20 of 150 negatives called positive: 40 of 60, and 130 of 140."""
    found = predictive_values((40, 50), (130, 150), prevalence=0.25)
    assert isinstance(found.positive, PredictiveValue)
    assert isinstance(found.negative, PredictiveValue)
    assert found.positive.value == pytest.approx(40 / 60)
    assert found.negative.value == pytest.approx(130 / 140)


def test_their_interval_is_the_delta_methods_on_the_logit_scale():
    """The variance by numerical derivatives of logit(PPV) with respect to sensitivity and specificity."""

    def logit_ppv(sensitivity: float, specificity: float) -> float:
        ppv = 0.1 * sensitivity / (0.1 * sensitivity + 0.9 * (1 - specificity))
        return float(special.logit(ppv))

    se, sp, n, m, h = 0.8, 0.9, 50, 200, 1e-6
    by_se = (logit_ppv(se + h, sp) - logit_ppv(se - h, sp)) / (2 * h)
    by_sp = (logit_ppv(se, sp + h) - logit_ppv(se, sp - h)) / (2 * h)
    half = 1.959963985 * np.sqrt(by_se**2 * se * (1 - se) / n + by_sp**2 * sp * (1 - sp) / m)
    found = predictive_values((40, 50), (180, 200), prevalence=0.1).positive
    assert isinstance(found, PredictiveValue)
    assert special.logit(found.ci95) == pytest.approx(
        [logit_ppv(se, sp) - half, logit_ppv(se, sp) + half], abs=1e-6
    )


def test_the_interval_covers_as_it_says_also_with_few_patients():
    """All 31 x 41 tables of 30 positives and 40 negatives, weighted by their probability: coverage of PPV near 95 %."""
    prevalence, se, sp = 0.2, 0.85, 0.9
    truth = prevalence * se / (prevalence * se + (1 - prevalence) * (1 - sp))
    covered = known = 0.0
    for x, px in enumerate(scipy_stats.binom.pmf(np.arange(31), 30, se)):
        for y, py in enumerate(scipy_stats.binom.pmf(np.arange(41), 40, sp)):
            found = predictive_values((x, 30), (y, 40), prevalence=prevalence).positive
            if isinstance(found, PredictiveValue):
                known += px * py
                covered += px * py * (found.ci95[0] <= truth <= found.ci95[1])
    assert 0.93 < covered / known < 0.985


@given(
    data=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50),
    threshold=st.floats(0.02, 0.98),
)
def test_net_benefit_is_the_mean_of_what_each_patient_is_worth(data, threshold):
    """1 per case found, minus the odds per false alarm; its interval is that of this mean."""
    odds = threshold / (1 - threshold)
    worth = np.array([(1.0 if sick else -odds) if called else 0.0 for sick, called in data])
    found = net_benefit(
        true_positives=sum(sick and called for sick, called in data),
        false_positives=sum(called and not sick for sick, called in data),
        positives=sum(sick for sick, _ in data),
        negatives=sum(not sick for sick, _ in data),
        threshold=threshold,
    )
    assert isinstance(found, NetBenefit)
    assert found.value == pytest.approx(worth.mean(), abs=1e-9)
    half = 1.959963985 * worth.std() / np.sqrt(len(worth))
    assert found.ci95[1] - found.value == pytest.approx(half, abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(value=st.integers(0, 100).map(lambda percent: percent / 100), total=st.integers(1, 80))
def test_expected_ends_of_a_proportions_interval_are_means_over_all_counts(value, total):
    """With statsmodels' Clopper-Pearson for each count."""
    counts = np.arange(total + 1)
    low, high = proportion_confint(counts, total, method="beta")
    weights = scipy_stats.binom.pmf(counts, total, value)
    found = expected_proportion_interval(value, total=total)
    assert found == pytest.approx((weights @ low, weights @ high), abs=1e-9)


def test_the_expected_width_of_an_auc_is_that_of_two_exponentials():
    """Hanley and McNeil's approximation is exact for exponential scores: by integration of the pairs' probabilities."""
    value, m, n = 0.9, 30, 70
    rate = value / (1 - value)  # P(X > Y) for Y ~ exp(rate), X ~ exp(1)
    q1 = integrate.quad(lambda y: rate * np.exp(-rate * y) * np.exp(-2 * y), 0, np.inf)[0]
    q2 = integrate.quad(lambda x: np.exp(-x) * (1 - np.exp(-rate * x)) ** 2, 0, np.inf)[0]
    variance = (value * (1 - value) + (m - 1) * (q1 - value**2) + (n - 1) * (q2 - value**2)) / (m * n)
    half = 1.959963985 * np.sqrt(variance) / (value * (1 - value))
    found = expected_auc_interval(value, positives=m, negatives=n)
    assert special.logit(found) == pytest.approx(
        [special.logit(value) - half, special.logit(value) + half], abs=1e-6
    )


@settings(deadline=None, max_examples=20)  # statsmodels takes 60 ms per family
@given(st.dictionaries(st.integers(), st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels_holm_in_the_callers_order(p_values):
    """Also with ties."""
    found = holm(p_values)
    assert list(found) == list(p_values)
    assert list(found.values()) == pytest.approx(multipletests(list(p_values.values()), method="holm")[1])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: predictive_values((3, 2), (1, 2), prevalence=0.1),
        lambda: predictive_values((1, 2), (1, 2), prevalence=0.0),
        lambda: net_benefit(true_positives=3, false_positives=0, positives=2, negatives=1, threshold=0.5),
        lambda: net_benefit(true_positives=0, false_positives=0, positives=2, negatives=1, threshold=1.0),
        lambda: expected_auc_interval(0.5, positives=3, negatives=3),
        lambda: expected_proportion_interval(1.5, total=3),
        lambda: holm({"a": 1.5}),
    ],
)
def test_figures_that_cannot_be_are_refused(wrong):
    """A caller's slip is an error, not a figure."""
    with pytest.raises(ValueError, match="got"):
        wrong()


def test_nobody_gives_no_figure():
    """With no patients on one side nothing can be estimated, and it says so."""
    assert isinstance(predictive_values((0, 0), (1, 2), prevalence=0.1).positive, NotEstimable)
    assert isinstance(
        net_benefit(true_positives=0, false_positives=0, positives=0, negatives=0, threshold=0.5),
        NotEstimable,
    )
    assert isinstance(expected_auc_interval(0.8, positives=0, negatives=3), NotEstimable)
    assert isinstance(expected_proportion_interval(0.8, total=0), NotEstimable)
