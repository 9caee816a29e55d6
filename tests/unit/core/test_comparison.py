"""Two models on the same patients, across sites: sums of counts are the pooled patients."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from stic_core import statistics
from stic_core.config import PolicyConfig
from stic_core.errors import DataError
from stic_core.evaluation import PairedReport, paired_report, pool_pairs
from stic_core.evaluation.figures import PairedAccuracy
from stic_core.statistics import AucTest, NotEstimable, PairedDifference, Suppressed
from support.sample_run import CLASSES
from support.samples import held_out

POLICY = PolicyConfig()


def models(seed: int, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of two models, and labels, of the same patients."""
    first, labels = held_out(seed, counts, skill=1.8)
    second = first + np.random.default_rng(seed + 99).normal(size=first.shape) * 1.5
    return first, second, labels


def test_mcnemar_on_sums_is_mcnemar_on_pooled_patients() -> None:
    """b, c, the difference and p over two sites are those of all patients together."""
    sites = [models(1, (20, 15, 15)), models(2, (18, 18, 18))]
    found = pool_pairs(
        {str(i): paired_report(*site, classes=CLASSES, policy=POLICY) for i, site in enumerate(sites)}
    )
    first, second, labels = (np.concatenate(parts) for parts in zip(*sites, strict=True))
    right, other = first.argmax(1) == labels, second.argmax(1) == labels
    b, c = int((right & ~other).sum()), int((other & ~right).sum())
    expected = statistics.paired_difference(b=b, c=c, n=104)
    assert isinstance(expected, PairedDifference)
    assert isinstance(found.accuracy, PairedAccuracy)
    assert (found.accuracy.b, found.accuracy.c, found.n) == (b, c, 104)
    assert found.accuracy.difference == pytest.approx(right.mean() - other.mean())
    assert found.accuracy.ci95 == expected.ci95
    assert found.accuracy.p == statistics.mcnemar(b=b, c=c).p


def test_one_site_is_delongs_paired_test() -> None:
    """Over a single site the pooled AUC test is DeLong's."""
    first, second, labels = models(3, (20, 20, 20))
    found = pool_pairs({"a": paired_report(first, second, labels, classes=CLASSES, policy=POLICY)})
    expected = statistics.paired_test(
        statistics.margins(first)[:, 0], statistics.margins(second)[:, 0], positive=labels == 0
    )
    assert isinstance(expected, AucTest)
    pooled = found.auc["HCC"]
    assert isinstance(pooled, AucTest)
    assert pooled.p == pytest.approx(expected.p)
    assert pooled.difference == pytest.approx(expected.difference)


@pytest.mark.parametrize(
    ("counts", "kind"), [((0, 0, 0), NotEstimable), ((1, 1, 1), Suppressed), ((20, 20, 3), Suppressed)]
)
def test_what_is_not_there(counts: tuple[int, ...], kind: type) -> None:
    """Too few patients give reasons, which survive the wire."""
    report = paired_report(*models(4, counts), classes=CLASSES, policy=POLICY)
    assert isinstance(report.auc["META"], kind)
    assert PairedReport.model_validate_json(report.model_dump_json()) == report
    assert isinstance(pool_pairs({"a": report}).auc["META"], NotEstimable)


def test_a_model_against_itself() -> None:
    """No discordant patients: p is 1, and the AUCs' difference has no test."""
    first, _, labels = models(5, (20, 20, 20))
    found = pool_pairs({"a": paired_report(first, first, labels, classes=CLASSES, policy=POLICY)})
    assert isinstance(found.accuracy, PairedAccuracy)
    assert found.accuracy.p == 1.0
    assert isinstance(found.auc["HCC"], NotEstimable)


def test_bad_reports_and_input_are_refused() -> None:
    """Other patients for the second model, and more discordant patients than patients."""
    first, second, labels = models(6, (20, 20, 20))
    with pytest.raises(DataError):
        paired_report(first, second[:-1], labels, classes=CLASSES, policy=POLICY)
    good = paired_report(first, second, labels, classes=CLASSES, policy=POLICY).model_dump()
    with pytest.raises(ValidationError):
        PairedReport.model_validate({**good, "discordant": {"b": 40, "c": 30}})
