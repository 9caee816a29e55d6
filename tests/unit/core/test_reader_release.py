"""What of a reader study may leave: no small cell, and none that could be recomputed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stic_core.config import PolicyConfig
from stic_core.errors import DataError
from stic_core.evaluation.figures import PairedAccuracy, Proportion
from stic_core.evaluation.readers.release import figures_of, numbered, read_release, release
from stic_core.evaluation.readers.study import ReaderStudy, evaluate_readers
from stic_core.evaluation.readers.wording import helped_sentences, model_sentences, several
from stic_core.statistics import clopper_pearson, mcnemar
from support.sample_run import write_reader_release, write_sample_run

CLASSES = ("HCC", "ICC", "META")
FACTS = {
    "site": "center1",
    "run_id": "r",
    "model_digest": "a" * 64,
    "test_fingerprint": "b" * 64,
    "task": "malignant",
    "phantom": True,
}


def study(confusions: dict[str, list[list[int]]]) -> ReaderStudy:
    """Readers with these confusions, alone as with help; the model is always right."""
    truth: dict[str, str] = {}
    said: dict[str, dict[str, str]] = {}
    for reader, table in confusions.items():
        said[reader] = {}
        for row, counts in enumerate(table):
            named = np.repeat(np.arange(3), counts)
            for place, column in enumerate(named):
                subject = f"p{row}-{place}"
                truth[subject] = CLASSES[row]
                said[reader][subject] = CLASSES[column]
    readers = {reader: {"alone": by, "aided": by} for reader, by in said.items()}
    return evaluate_readers(readers, model=truth, truth=truth, classes=CLASSES)


def test_confusion_cells_stay() -> None:
    """A diagonal below the minimum takes its sensitivity along; with min_cell 1 everything leaves."""
    found = study({"Dr A": [[3, 10, 11], [6, 8, 6], [7, 7, 9]]})
    names = numbered(list(found.readers))
    out = release(found, policy=PolicyConfig(), names=names, classes=CLASSES, **FACTS)
    alone = json.loads(out.model_dump_json())["readers"]["reader 1"]["alone"]
    assert "suppressed" in alone["sensitivity"]["HCC"]
    assert alone["accuracy"] == {"correct": 20, "total": 67}
    own = release(found, policy=PolicyConfig(min_cell=1), names=names, classes=CLASSES, **FACTS)
    alone = json.loads(own.model_dump_json())["readers"]["reader 1"]["alone"]
    assert alone["sensitivity"]["HCC"] == {"correct": 3, "total": 24}
    assert alone["specificity"]["HCC"] == {"correct": 30, "total": 43}


def test_few_patients_release_nothing() -> None:
    """Below min_cell patients there is no count, no test and no name."""
    found = study({"Dr A": [[1, 0, 0], [0, 1, 0], [0, 1, 1]], "Dr B": [[1, 0, 0], [1, 0, 0], [0, 1, 1]]})
    out = release(found, policy=PolicyConfig(), names=numbered(["Dr A", "Dr B"]), classes=CLASSES, **FACTS)
    text = out.model_dump_json()
    assert "correct" not in text
    assert '"b":' not in text
    assert '"statistic"' not in text
    assert "Dr" not in text
    assert several(figures_of(out)) == "No test is shown."
    assert helped_sentences(figures_of(out)) == model_sentences(figures_of(out)) == []


def test_the_reader_of_the_file_computes_from_counts(tmp_path: Path) -> None:
    """Proportions, intervals and p values come from the counts, not from what a file claims."""
    run = write_sample_run(tmp_path / "run", rounds=2)
    file = write_reader_release(run, tmp_path / "study.json", min_cell=1)
    text = file.read_text()
    assert "ci95" not in text
    assert '"p":' in text  # Cochran's Q alone: its patterns stay at the site
    found = figures_of(read_release(text, source="study.json"))
    counts = json.loads(text)["readers"]["reader 2"]["alone"]["sensitivity"]["ICC"]
    shown = found.readers["reader 2"]["alone"].sensitivity["ICC"]
    assert isinstance(shown, Proportion)
    assert shown.value == counts["correct"] / counts["total"]
    assert shown.ci95 == clopper_pearson(counts["correct"], total=counts["total"])
    pair = json.loads(text)["helped"]["reader 1"]
    helped = found.helped["reader 1"]
    assert isinstance(helped, PairedAccuracy)
    assert helped.p == mcnemar(b=pair["b"], c=pair["c"]).p
    assert [judge for judge, condition, _ in found.judges if condition != "alone"] == [
        *found.readers,
        "model",
    ]
    assert [pair[:2] for pair in found.pairs] == [
        *((f"{name} aided", f"{name} alone") for name in found.helped),
        *(("model", f"{name} alone") for name in found.against_model),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"readers": {}},
        {"helped": {}},
        {"classes": ["HCC", "ICC"]},
        {"n": 10},
        {"site": "../escape"},
        {"note": "a free text"},
        {"schema_version": 2},
    ],
)
def test_a_file_that_does_not_hold_together_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """Whatever a file says beyond counts that agree with one another, it is not taken."""
    run = write_sample_run(tmp_path / "run", rounds=2)
    content = json.loads(write_reader_release(run, tmp_path / "study.json").read_text())
    with pytest.raises(DataError, match="expected the file that stic-client readers --export writes"):
        read_release(json.dumps(content | change), source="study.json")
    with pytest.raises(DataError, match="expected the file that stic-client readers --export writes"):
        read_release("not JSON", source="study.json")
