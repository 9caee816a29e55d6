"""Two classes: the AUC of one is that of the other, so there is one, everywhere."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stic_core.config import PolicyConfig
from stic_core.evaluation import (
    Evaluation,
    HeldOutReport,
    as_json,
    evaluation_document,
    evaluation_of,
    held_out_table,
    paired_report,
    site_report,
)
from stic_core.evaluation.figures import AucFigure
from stic_core.statistics import AucTest, NotEstimable

CLASSES = ("HCC", "ICC")


def federation(seed: int) -> Evaluation:
    """The evaluation of one to four hospitals of any size, balance, policy and sharpness; scores may tie."""
    rng = np.random.default_rng(seed)
    first, second, paired = {}, {}, {}
    for number in range(int(rng.integers(1, 5))):
        site, policy = f"center{number}", PolicyConfig(min_cell=int(rng.choice([1, 3, 5, 10])))
        n = int(rng.integers(20, 160))
        labels = (rng.random(n) < rng.uniform(0.1, 0.9)).astype(int)
        one, other = (_logits(labels, skill=skill, rng=rng) for skill in rng.uniform(0, 2, 2))
        first[site], second[site] = (
            site_report(logits, labels, classes=CLASSES, policy=policy) for logits in (one, other)
        )
        released = (first[site], second[site])
        paired[site] = paired_report(one, other, labels, classes=CLASSES, policy=policy, released=released)
    return evaluation_document(
        model_digest="0" * 64,
        task="hcc-icc",
        classes=CLASSES,
        phantom=True,
        federated=first,
        local_only={"center0": second},
        paired={"center0": paired},
    )


def _logits(labels: np.ndarray, *, skill: float, rng: np.random.Generator) -> np.ndarray:
    """One model's, rounded in some federations so that scores tie and lie on edges of bins."""
    logits = rng.normal(size=(len(labels), 2)) * rng.choice([0.1, 1.0, 8.0])
    logits[np.arange(len(labels)), labels] += skill
    return np.round(logits) if rng.random() < 0.3 else logits


@pytest.mark.parametrize("seed", range(40))
def test_both_classes_have_one_auc(seed: int) -> None:
    """Sites, pooled, stratified, differences and tests: what stands under both names is equal to the last digit."""
    evaluation = federation(seed)
    blocks = [block for model in evaluation.models.values() for block in model.sets.values()]
    compared = 0
    for block in (*blocks, evaluation.stratified_auc):
        one, other = (block.auc[name] for name in CLASSES)
        assert isinstance(one, AucFigure) == isinstance(other, AucFigure)
        if isinstance(one, AucFigure) and isinstance(other, AucFigure):
            compared += 1
            assert (one.value, one.se, one.interval, one.bounds) == (
                *(other.value, other.se, other.interval),
                other.bounds,
            )
            assert isinstance(block.auc_macro, AucFigure)
            assert (block.auc_macro.value, block.auc_macro.interval) == (one.value, one.interval)
            assert (one.positives, one.negatives) == (other.negatives, other.positives)
    if not compared:  # no hospital has enough patients of both classes, and bins leave too much open
        assert all(isinstance(auc, NotEstimable) for auc in evaluation.pooled.auc.values())
        assert evaluation.pooled.auc_bounds is not None
    assert evaluation.between_sites.auc[CLASSES[0]] == evaluation.between_sites.auc[CLASSES[1]]
    pairs = [pair.auc for pair in evaluation.between_sites.pairs]
    pairs += [found.pooled.auc for found in evaluation.comparison.values()]
    for auc in pairs:
        if isinstance(auc[CLASSES[0]], AucTest):
            assert auc[CLASSES[0]] == auc[CLASSES[1]]
    assert evaluation_of(json.loads(json.dumps(as_json(evaluation)))) == evaluation


def test_the_table_has_one_column() -> None:
    """Two classes have a column AUC, with its interval where the terminal leaves out those of classes."""
    evaluation = federation(1)
    for class_intervals in (True, False):
        heading, *rows = held_out_table(evaluation, class_intervals=class_intervals)
        assert heading == ("Model", "Held-out set", "n", "Accuracy", "AUC")
        pooled = next(row for row in rows if row[:2] == ("federated", "pooled"))
        assert isinstance(evaluation.pooled.auc_macro, AucFigure)
        assert isinstance(evaluation.pooled.auc_macro.interval, tuple)
        low, high = evaluation.pooled.auc_macro.interval
        assert pooled[-1] == f"{evaluation.pooled.auc_macro.value:.3f} ({low:.3f}-{high:.3f})"


def test_a_report_with_two_aucs_is_refused() -> None:
    """A site that says two AUCs of two classes contradicts itself."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], 30)
    report = site_report(rng.normal(size=(60, 2)), labels, classes=CLASSES, policy=PolicyConfig())
    told = report.model_dump(mode="json")
    assert HeldOutReport.model_validate(told) == report
    told["histograms"] = {"suppressed": "policy"}
    told["auc"]["ICC"]["value"] += 0.004
    told["auc_macro"]["value"] += 0.002
    with pytest.raises(ValueError, match="two classes"):
        HeldOutReport.model_validate(told)
