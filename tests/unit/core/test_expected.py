"""The sample-size statement before a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from stic_core.errors import UsageError
from stic_core.evaluation.expected import HOPED_FOR, class_counts, expected_intervals
from stic_core.statistics import NotEstimable, expected_auc_interval, expected_proportion_interval
from stic_server.cli.app import app as server
from support.federation_kit import make_home

CLASSES = ("HCC", "ICC", "META")


def test_counts_are_read_in_the_tasks_order():
    """Whatever the order and the spaces."""
    assert list(class_counts("META=5, HCC = 3,ICC=4", classes=CLASSES).items()) == [
        ("HCC", 3),
        ("ICC", 4),
        ("META", 5),
    ]


@pytest.mark.parametrize(
    "text",
    ["", "HCC=3", "HCC=3,ICC=4,META=-5", "HCC=3,HCC=4,ICC=4,META=5", "HCC=3,ICC=4,META=x", "a=1,b=2,c=3"],
)
def test_anything_but_each_class_once_is_refused(text):
    """With the form that is expected, in the task's own classes."""
    with pytest.raises(UsageError) as caught:
        class_counts(text, classes=CLASSES)
    assert caught.value.expected == "HCC=NUMBER,ICC=NUMBER,META=NUMBER"


def test_each_class_has_the_intervals_of_its_patients_and_of_the_others():
    """A class without patients has no AUC and no sensitivity to expect, and says so; its specificity has."""
    hcc, _, meta = expected_intervals({"HCC": 60, "ICC": 40, "META": 0})
    assert hcc.auc == {v: expected_auc_interval(v, positives=60, negatives=40) for v in HOPED_FOR}
    assert hcc.specificity == {v: expected_proportion_interval(v, total=40) for v in HOPED_FOR}
    assert all(isinstance(found, NotEstimable) for found in (*meta.auc.values(), *meta.sensitivity.values()))
    assert meta.specificity == {v: expected_proportion_interval(v, total=100) for v in HOPED_FOR}


def test_plan_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """One row per class and figure, with the classes of the federation's task, and no plan."""
    make_home(tmp_path, sites=("center1",))
    config = next(tmp_path.rglob("federation.yaml"))
    server(["plan", "--precision", "HCC=60,ICC=40,META=50", "--config", str(config)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "HCC     AUC              60 / 90" in shown
    assert "hash" not in shown
