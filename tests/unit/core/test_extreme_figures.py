"""Arithmetic at the ends of what reports may say: a figure, or why there is none; never an error or infinity."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stic_core.config import PolicyConfig
from stic_core.evaluation.figures import Proportion
from stic_core.evaluation.pooling import pool
from stic_core.statistics import MetaAnalysis, NotEstimable, Suppressed, logistic_fit, meta_analysis
from support.sample_run import CLASSES, FEDERATED_SKILL, SPLITS, reports, scores


@pytest.mark.parametrize(
    ("aucs", "errors"),
    [([0.8, 0.9], [1e-14, 0.05]), ([0.8, 0.5], [1e-14, 1.9]), ([5e-15, 0.5, 1 - 1e-15], [1e-14, 1.9, 2.0])],
)
def test_one_site_with_all_the_weight(aucs: list[float], errors: list[float]) -> None:
    """The sum of weights is rounded to the largest: heterogeneity stays a number."""
    found = meta_analysis(aucs, standard_errors=errors)
    assert isinstance(found, MetaAnalysis)
    assert all(math.isfinite(value) for value in (found.tau2, found.q, found.i2, *found.random.ci95))
    assert found.tau2 >= 0


def test_the_spread_is_der_simonian_and_lairds() -> None:
    """As their formula gives it, which subtracts."""
    found = meta_analysis([0.7, 0.8, 0.95], standard_errors=[0.02, 0.03, 0.01])
    assert isinstance(found, MetaAnalysis)
    a, se = np.array([0.7, 0.8, 0.95]), np.array([0.02, 0.03, 0.01])
    w = (se / (a * (1 - a))) ** -2
    assert found.tau2 == pytest.approx((found.q - 2) / (w.sum() - (w**2).sum() / w.sum()), rel=1e-9)


@pytest.mark.parametrize("size", [1e-300, 1e-161, 1e-13, 1e-3, 1e12])
def test_scores_of_any_size(size: float) -> None:
    """A slope, or that the scores are equal: no square of a scale becomes 0 or infinite."""
    x = size * np.array([-1.0, 1.0, 3.0])
    found = logistic_fit(x, hits=np.array([3.0, 2.0, 1.0]), misses=np.array([1.0, 2.0, 3.0]))
    if isinstance(found, NotEstimable):
        assert size < 1e-12
    else:
        assert math.isfinite(found.slope_se)


def test_rates_are_over_the_patients_of_the_confusion() -> None:
    """A site that keeps its confusion back adds nothing to the patients that sensitivity is a share of."""
    model = scores(FEDERATED_SKILL, seed=1, splits=SPLITS)
    found = reports(model, policy=PolicyConfig(min_cell=1))
    alone = pool({"center1": found["center1"]})
    hidden = found["center2"].model_copy(update={"confusion": Suppressed("this site's policy")})
    both = pool({"center1": found["center1"], "center2": hidden})
    for name in CLASSES:
        assert isinstance(alone.sensitivity[name], Proportion)
        assert both.sensitivity[name] == alone.sensitivity[name]
        assert both.specificity[name] == alone.specificity[name]


def test_a_confusion_beside_others_class_counts_gives_no_rates() -> None:
    """One site releases its confusion and the other one its class counts: no share of the same patients."""
    model = scores(FEDERATED_SKILL, seed=1, splits=SPLITS)
    found = reports(model, policy=PolicyConfig(min_cell=1))
    few = Suppressed("this site's policy")
    figures = pool(
        {
            "center1": found["center1"].model_copy(update={"class_counts": few}),
            "center2": found["center2"].model_copy(update={"confusion": few}),
        }
    )
    assert set(figures.sensitivity.values()) == set(figures.specificity.values()) == {few}


def test_bins_that_say_nothing_give_no_auc() -> None:
    """One bin with all patients leaves the AUC anywhere from 0 to 1: no figure is made up for it."""
    model = scores(FEDERATED_SKILL, seed=1, splits=SPLITS)
    report = reports(model, policy=PolicyConfig(min_cell=1))["center1"]
    assert isinstance(report.histograms, dict)
    one_bin = {
        name: bins.model_copy(
            update={
                "starts": (0,),
                **{
                    part: (sum(getattr(bins, part)),)
                    for part in ("positives", "negatives", "sums", "probabilities")
                },
            }
        )
        for name, bins in report.histograms.items()
    }
    few = Suppressed("this site's policy")
    coarse = report.model_copy(update={"histograms": one_bin, "auc": dict.fromkeys(CLASSES, few)})
    assert not any(isinstance(auc, NotEstimable) for auc in pool({"center1": report}).auc.values())
    assert all(isinstance(auc, NotEstimable) for auc in pool({"center1": coarse}).auc.values())
