"""Arithmetic on honest figures, as an attacker does it: what was kept back stays unknown."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stic_core.config import PolicyConfig
from stic_core.evaluation import Accuracy, HeldOutReport, pool, site_figures, site_report
from stic_core.evaluation.readers.release import release
from stic_core.evaluation.readers.study import evaluate_readers
from stic_core.privacy.confusion_cells import Releasable, ranges
from stic_core.privacy.score_bins import decided
from stic_core.statistics import CELLS, Suppressed
from support.samples import held_out

TWO, THREE = ("HCC", "ICC"), ("HCC", "ICC", "META")
POLICY = PolicyConfig()


def two_classes(seed: int, n: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of a site with two classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    logits = rng.normal(size=(n, 2))
    logits[np.arange(n), labels] += skill
    return 1.5 * logits, labels


def confusion_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts by true and predicted class."""
    k = logits.shape[1]
    return np.bincount(labels * k + logits.argmax(axis=1), minlength=k * k).reshape(k, k)


def known(report: HeldOutReport, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least and greatest count of each cell, from all that a report says; and which cells it hides."""
    assert isinstance(report.confusion, tuple)
    assert isinstance(report.false_positives, dict)
    assert isinstance(report.histograms, dict)
    released = Releasable(
        np.array([[isinstance(cell, int) for cell in row] for row in report.confusion]),
        isinstance(report.accuracy, Accuracy),
        np.array([isinstance(report.false_positives[name], int) for name in report.classes]),
    )
    said = [
        decided(
            report.histograms[name].starts,
            np.array(report.histograms[name].positives),
            np.array(report.histograms[name].negatives),
            classes=len(report.classes),
        )
        for name in report.classes
    ]
    low, high = ranges(truth, released=released, said=said)
    return low, high, ~released.cells


@pytest.mark.parametrize("n", [12, 25, 58, 113])
@pytest.mark.parametrize("skill", [0.5, 1.5, 3.0])
def test_the_bins_do_not_give_the_confusion_matrix(n: int, skill: float) -> None:
    """Two classes and three: the bins, the accuracy and the cells shown leave each hidden cell its range."""
    for seed in range(4):
        share = n // 3
        for classes, (logits, labels) in (
            (TWO, two_classes(seed, n, skill)),
            (THREE, held_out(seed, (n - 2 * share, share, share), skill=skill)),
        ):
            report = site_report(logits, labels, classes=classes, policy=POLICY)
            truth = confusion_of(logits, labels)
            low, high, hidden = known(report, truth)
            assert (low <= truth).all()
            assert (truth <= high).all()
            assert (high - low >= np.minimum(5, truth.sum(axis=1, keepdims=True)))[hidden].all()


def test_the_bins_of_two_classes_cut_no_single_patient_off() -> None:
    """Both classes' bins have the same borders: laid over each other they show no group that one alone does not."""
    for seed in range(20):
        report = site_report(*two_classes(seed, 60, 1.0), classes=TWO, policy=POLICY)
        assert isinstance(report.histograms, dict)
        first, second = (report.histograms[name] for name in TWO)
        assert [CELLS - start for start in reversed(second.starts[1:])] == list(first.starts[1:])
        assert first.positives == second.negatives[::-1]


def test_no_count_below_the_minimum_leaves() -> None:
    """Neither a bin nor a cell, a count of false positives, or those that an accuracy leaves over."""
    for seed in range(10):
        report = site_report(*held_out(seed, (17, 11, 9), skill=1.3), classes=THREE, policy=POLICY)
        assert isinstance(report.confusion, tuple)
        assert isinstance(report.false_positives, dict)
        assert isinstance(report.histograms, dict)
        counts = [cell for row in report.confusion for cell in row if isinstance(cell, int)]
        counts += [value for value in report.false_positives.values() if isinstance(value, int)]
        counts += [
            p + n
            for bins in report.histograms.values()
            for p, n in zip(bins.positives, bins.negatives, strict=True)
        ]
        if isinstance(report.accuracy, Accuracy):
            counts += [report.accuracy.correct, report.accuracy.total - report.accuracy.correct]
        assert min(counts) >= 5


def test_an_open_site_does_not_give_the_other_one_away() -> None:
    """Pooled minus the site that hides nothing: a number only where the other site gave it itself."""
    for seed in range(10):
        parts = {"open": held_out(seed, (30, 20, 20)), "careful": held_out(50 + seed, (24, 17, 17))}
        policies = {"open": PolicyConfig(min_cell=1, min_class=1), "careful": POLICY}
        reports = {
            site: site_report(*part, classes=THREE, policy=policies[site]) for site, part in parts.items()
        }
        pooled, careful = pool(reports), site_figures(reports["careful"])
        n = careful.n
        if isinstance(careful.accuracy, Suppressed):
            assert getattr(pooled.accuracy, "total", n) != pooled.n
        assert isinstance(pooled.confusion, tuple)
        assert isinstance(careful.confusion, tuple)
        for row, own in zip(pooled.confusion, careful.confusion, strict=True):
            for cell, mine in zip(row, own, strict=True):
                assert isinstance(cell, Suppressed) or isinstance(mine, int)
        for kind in ("sensitivity", "specificity"):
            for name in THREE:
                if isinstance(getattr(careful, kind)[name], Suppressed):
                    assert isinstance(getattr(pooled, kind)[name], Suppressed)


def test_a_reader_export_says_no_more_of_the_model_than_its_evaluation_did() -> None:
    """Beside what left in the run, the export shows the same counts of the model, and hides the same."""
    logits, labels = held_out(4, (30, 25, 25), skill=1.0)
    report = site_report(logits, labels, classes=THREE, policy=POLICY)
    truth = {f"P{row}": THREE[label] for row, label in enumerate(labels)}
    said = {f"P{row}": THREE[k] for row, k in enumerate(logits.argmax(axis=1))}
    rng = np.random.default_rng(0)
    reader = {
        name: (label if rng.random() < 0.7 else THREE[int(rng.integers(3))]) for name, label in truth.items()
    }
    study = evaluate_readers(
        {"A": {"alone": reader, "aided": reader}}, model=said, truth=truth, classes=THREE
    )
    out = release(
        study,
        policy=POLICY,
        names={"A": "reader 1"},
        classes=THREE,
        model=report,
        site="center1",
        run_id="r",
        model_digest="a" * 64,
        test_fingerprint="b" * 64,
        task="malignant",
        phantom=True,
    )
    exported = json.loads(out.model_dump_json())["model"]
    assert isinstance(report.confusion, tuple)
    assert isinstance(report.false_positives, dict)
    for k, name in enumerate(THREE):
        assert ("correct" in exported["sensitivity"][name]) is isinstance(report.confusion[k][k], int)
        assert ("correct" in exported["specificity"][name]) is isinstance(report.false_positives[name], int)
    assert ("correct" in exported["accuracy"]) is isinstance(report.accuracy, Accuracy)
