"""Two models on the same patients, across sites: sums of counts are the pooled patients."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from stic_core import statistics
from stic_core.config import PolicyConfig
from stic_core.errors import DataError
from stic_core.evaluation import PairedReport, pool_pairs
from stic_core.evaluation.figures import PairedAccuracy
from stic_core.statistics import AucTest, NotEstimable, PairedDifference, Suppressed
from support.sample_run import compared
from support.samples import held_out

POLICY = PolicyConfig()


def models(seed: int, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of two models, and labels, of the same patients."""
    first, labels = held_out(seed, counts, skill=1.8)
    second = first + np.random.default_rng(seed + 99).normal(size=first.shape) * 1.5
    return first, second, labels


def test_mcnemar_on_sums_is_mcnemar_on_pooled_patients() -> None:
    """b, c, the difference and p over two sites are those of all patients together."""
    sites = [models(1, (60, 15, 15)), models(2, (18, 18, 38))]
    found = pool_pairs({str(i): compared(*site, policy=POLICY) for i, site in enumerate(sites)})
    first, second, labels = (np.concatenate(parts) for parts in zip(*sites, strict=True))
    right, other = first.argmax(1) == labels, second.argmax(1) == labels
    b, c = int((right & ~other).sum()), int((other & ~right).sum())
    expected = statistics.paired_difference(b=b, c=c, n=164)
    assert isinstance(expected, PairedDifference)
    assert isinstance(found.accuracy, PairedAccuracy)
    assert (found.accuracy.b, found.accuracy.c, found.n) == (b, c, 164)
    assert found.accuracy.difference == pytest.approx(right.mean() - other.mean())
    assert found.accuracy.ci95 == expected.ci95
    assert found.accuracy.p == statistics.mcnemar(b=b, c=c).p


def test_one_site_is_delongs_paired_test() -> None:
    """Over a single site the pooled AUC test is DeLong's."""
    first, second, labels = models(3, (20, 20, 20))
    found = pool_pairs({"a": compared(first, second, labels, policy=POLICY)})
    expected = statistics.paired_test(
        statistics.margins(first)[:, 0], statistics.margins(second)[:, 0], positive=labels == 0
    )
    assert isinstance(expected, AucTest)
    pooled = found.auc["HCC"]
    assert isinstance(pooled, AucTest)
    assert pooled.p == pytest.approx(expected.p, rel=1e-4)
    assert pooled.difference == pytest.approx(expected.difference)


@pytest.mark.parametrize(
    ("counts", "kind"), [((0, 0, 0), NotEstimable), ((1, 1, 1), Suppressed), ((20, 20, 3), Suppressed)]
)
def test_what_is_not_there(counts: tuple[int, ...], kind: type) -> None:
    """Too few patients give reasons, which survive the wire."""
    report = compared(*models(4, counts), policy=POLICY)
    assert isinstance(report.auc["META"], kind)
    assert PairedReport.model_validate_json(report.model_dump_json()) == report
    assert isinstance(pool_pairs({"a": report}).auc["META"], NotEstimable)


def test_a_model_against_itself() -> None:
    """No discordant patients: p is 1, and the AUCs' difference has no test."""
    first, _, labels = models(5, (20, 20, 20))
    found = pool_pairs({"a": compared(first, first, labels, policy=PolicyConfig(min_cell=1))})
    assert isinstance(found.accuracy, PairedAccuracy)
    assert found.accuracy.p == 1.0
    assert isinstance(found.auc["HCC"], NotEstimable)


def test_a_comparison_gives_away_no_figure_that_was_kept_back() -> None:
    """Few patients on whom the models differ stay; so does all that is made of a figure that stayed."""
    first, _, labels = models(5, (20, 20, 20))
    close = first.copy()
    close[labels.argmax(), :] = [5.0, 0.0, 0.0]
    assert isinstance(compared(first, close, labels, policy=POLICY).discordant, Suppressed)
    # The second model is right on all but three: its accuracy stays, and so does the difference to it.
    good = np.eye(3)[labels] * 9.0
    good[:3] = good[:3, ::-1]
    kept = compared(first, good, labels, policy=POLICY)
    assert isinstance(kept.discordant, Suppressed)


def test_bad_reports_and_input_are_refused() -> None:
    """Other patients for the second model, and more discordant patients than patients."""
    first, second, labels = models(6, (20, 20, 20))
    with pytest.raises(DataError):
        compared(first, second[:-1], labels, policy=POLICY)
    good = compared(first, second, labels, policy=POLICY).model_dump()
    with pytest.raises(ValidationError):
        PairedReport.model_validate({**good, "discordant": {"b": 40, "c": 30}})
