"""Membership inference against scikit-learn, against a planted memoriser, and where there is nothing to find."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from stic_core.privacy.membership import (
    Attack,
    Familiarity,
    Rate,
    attack,
    familiarity,
    likelihood_ratio,
    outside_mean,
    true_positives,
)
from stic_core.statistics import NotEstimable

CLASSES = ("HCC", "ICC", "MET")


def _patients(rng: np.random.Generator, n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Membership and labels, with another case mix among training patients than among the held-out ones."""
    labels = rng.integers(0, 3, n)
    return rng.random(n) < np.array([0.75, 0.5, 0.35])[labels], labels


def _attack(
    scores: np.ndarray, member: np.ndarray, labels: np.ndarray, *, seed: int = 0, **more: int
) -> Attack:
    found = attack(
        scores, member=member, labels=labels, classes=CLASSES, rng=np.random.default_rng(seed), **more
    )
    assert isinstance(found, Attack)
    return found


def _familiarity(scores: np.ndarray, member: np.ndarray, labels: np.ndarray, **more: int) -> Familiarity:
    found = familiarity(scores, member=member, labels=labels, rng=np.random.default_rng(0), **more)
    assert isinstance(found, Familiarity)
    return found


def test_figures_are_scikit_learns() -> None:
    """AUC in all and within each class, and true positives at 1 % false positives, ties and all."""
    rng = np.random.default_rng(1)
    member, labels = _patients(rng, 1200)
    scores = np.round(rng.normal(size=1200) + 0.8 * member, 1)
    found = _attack(scores, member, labels)
    assert found.auc.value == pytest.approx(roc_auc_score(member, scores))
    for index, name in enumerate(CLASSES):
        auc = found.classes[name]
        assert not isinstance(auc, NotEstimable)
        assert auc.value == pytest.approx(roc_auc_score(member[labels == index], scores[labels == index]))
    false, true, _ = roc_curve(member, scores, drop_intermediate=False)
    assert isinstance(found.true_positives, Rate)
    assert found.true_positives.value == pytest.approx(true[false <= 0.01].max())


def _within(scores: np.ndarray, member: np.ndarray, labels: np.ndarray) -> float:
    """The classes' AUCs by scikit-learn, weighed by pairs."""
    parts = [(member[labels == index], scores[labels == index]) for index in range(3)]
    weights = [inside.sum() * (~inside).sum() for inside, _ in parts]
    return float(np.average([roc_auc_score(*part) for part in parts], weights=weights))


def test_the_null_of_an_auc_is_its_permutation_within_classes() -> None:
    """Case mix and the least that is noticed are those of AUCs by scikit-learn over memberships drawn in each class."""
    rng = np.random.default_rng(2)
    member, labels = _patients(rng)
    scores = rng.normal(size=90) - labels  # hard classes: case mix shows
    found = _attack(scores, member, labels, permutations=4000)
    slow = []
    for _ in range(150):
        drawn = member.copy()
        for index in range(3):
            drawn[labels == index] = rng.permutation(member[labels == index])
        slow.append((roc_auc_score(drawn, scores), _within(scores, drawn, labels)))
    assert found.null == pytest.approx(np.mean(slow, axis=0)[0], abs=0.015)
    assert found.noticed == pytest.approx(np.quantile(slow, 0.95, axis=0)[1], abs=0.03)
    assert found.within.value == pytest.approx(_within(scores, member, labels))
    assert found.null > 0.6
    assert found.excess == found.auc.value - found.null


def test_case_mix_alone_is_not_found_five_times_in_a_hundred() -> None:
    """Losses that depend on the class and not on membership: each test keeps its level, whatever the mix."""
    rng = np.random.default_rng(3)
    hits = np.zeros(2)
    draws = 300
    for draw in range(draws):
        member, labels = _patients(rng, 60)
        scores = rng.normal(size=60) - 1.5 * labels
        hits += (
            _attack(scores, member, labels, seed=draw, permutations=199).p <= 0.05,
            _familiarity(scores, member, labels, permutations=199).p <= 0.05,
        )
    least, most = stats.binom.ppf([0.001, 0.999], draws, 0.05)
    assert least <= hits[0] <= most
    assert least <= hits[1] <= most


def test_a_memoriser_is_found() -> None:
    """Training patients have smaller losses than held-out ones: AUC, excess and difference say so."""
    rng = np.random.default_rng(4)
    member, labels = _patients(rng)
    losses = rng.exponential(np.where(member, 0.1, 0.8))
    found, group = _attack(-losses, member, labels), _familiarity(-losses, member, labels)
    assert found.within.value > 0.75
    assert found.excess > 0.2
    assert found.p < 0.01
    assert group.difference == pytest.approx(0.7, abs=0.25)
    assert group.p < 0.01


def test_an_interval_within_classes_covers_as_often_as_it_says() -> None:
    """Of 300 draws the 95 % interval holds the true AUC of .76 in 95 %, give or take chance."""
    rng, truth, hits, draws = np.random.default_rng(8), stats.norm.cdf(1 / np.sqrt(2)), 0, 300
    for draw in range(draws):
        member, labels = _patients(rng, 120)
        interval = _attack(
            rng.normal(size=120) + member - labels, member, labels, seed=draw, permutations=2
        ).within.logit()
        assert not isinstance(interval, NotEstimable)
        hits += interval[0] <= truth <= interval[1]
    assert hits / draws == pytest.approx(0.95, abs=0.035)


def test_a_difference_in_strata_by_hand() -> None:
    """Differences of 2 and 1 nats, in classes that weigh 1 and 4 / 3."""
    scores = np.array([3.0, 1.0, 2.0, 2.0, 4.0, 2.0, 1.0, 1.0])
    member = np.array([1, 0, 1, 0, 1, 1, 0, 0], dtype=bool)
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    # Class 0: 3 - 1 = 2, weight 1 x 1 / 2. Class 1: (2 + 4 + 2) / 3 - (2 + 1 + 1) / 3 = 4 / 3, weight 3 x 3 / 6.
    found = _familiarity(scores, member, labels)
    assert found.difference == pytest.approx((0.5 * 2 + 1.5 * 4 / 3) / 2)
    assert isinstance(found.ci95, NotEstimable)  # one training patient of class 0


@pytest.mark.parametrize("held_out", [0, 1, 12, 99])
def test_one_percent_needs_a_hundred_held_out_patients(held_out: int) -> None:
    """A rate that so few held-out patients cannot show is not called 0 or 1."""
    rng = np.random.default_rng(5)
    found = true_positives(rng.normal(size=50 + held_out), member=np.arange(50 + held_out) < 50)
    assert isinstance(found, NotEstimable)
    assert f"of {held_out}, one" in found.reason


def test_nobody_to_compare_is_said() -> None:
    """Without training patients, held-out patients, or a class that has both, there is no figure."""
    rng, scores, labels = np.random.default_rng(0), np.arange(4.0), np.array([0, 0, 1, 1])
    for member in (np.zeros(4, dtype=bool), np.ones(4, dtype=bool), labels == 0):
        for found in (
            attack(scores, member=member, labels=labels, classes=CLASSES[:2], rng=rng),
            familiarity(scores, member=member, labels=labels, rng=rng),
        ):
            assert isinstance(found, NotEstimable)


def test_the_likelihood_ratio_is_that_of_two_normal_laws() -> None:
    """Log density with the patient minus that without, by SciPy, with means per patient and one variance."""
    rng = np.random.default_rng(6)
    inside = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0]], dtype=bool)
    shadows, own = rng.normal(size=(6, 3)) + inside, rng.normal(size=3)
    means = [np.array([shadows[mask[:, i], i].mean() for i in range(3)]) for mask in (inside, ~inside)]
    squares = np.where(inside, shadows - means[0], shadows - means[1]) ** 2
    deviation = np.sqrt(squares.sum() / (18 - 6))
    expected = stats.norm.logpdf(own, means[0], deviation) - stats.norm.logpdf(own, means[1], deviation)
    np.testing.assert_allclose(likelihood_ratio(own, shadows=shadows, inside=inside), expected)
    np.testing.assert_allclose(outside_mean(shadows, inside=inside), means[1])


def test_the_likelihood_ratio_finds_what_hard_patients_hide() -> None:
    """Where patients differ more than membership moves them, it does better than the loss."""
    rng = np.random.default_rng(7)
    member, labels = _patients(rng, 400)
    hard = rng.normal(0, 3, 400)
    inside = np.concatenate([half := rng.random((16, 400)) < 0.5, ~half])
    shadows = hard + inside + rng.normal(0, 0.5, inside.shape)
    own = hard + member + rng.normal(0, 0.5, 400)
    ratio = likelihood_ratio(own, shadows=shadows, inside=inside)
    assert _attack(ratio, member, labels).within.value > 0.85
    assert _attack(own, member, labels).within.value < 0.7
