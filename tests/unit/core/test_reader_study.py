"""The reader study: counts by hand, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from stic_core.errors import DataError
from stic_core.evaluation.readers.study import (
    CONDITIONS,
    Condition,
    compare,
    evaluate_readers,
    performance,
    read_diagnoses,
    response_patterns,
)
from stic_core.statistics import PairedDifference, TestResult

CLASSES = ("HCC", "ICC")
TRUTH = {"p1": "HCC", "p2": "HCC", "p3": "HCC", "p4": "ICC", "p5": "ICC"}


def flipped(*wrong: str) -> dict[str, str]:
    """The truth, with these patients misdiagnosed."""
    other = {"HCC": "ICC", "ICC": "HCC"}
    return {subject: other[name] if subject in wrong else name for subject, name in TRUTH.items()}


def write(folder: Path, rows: list[str], *, header: str = "subject,reader,condition,diagnosis") -> Path:
    """A study's file."""
    path = folder / "readers.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def complete(readers: dict[str, dict[Condition, dict[str, str]]]) -> list[str]:
    """Rows of a complete study."""
    return [
        f"{subject},{reader},{condition},{diagnosis}"
        for reader, by in readers.items()
        for condition, diagnoses in by.items()
        for subject, diagnosis in diagnoses.items()
    ]


READERS: dict[str, dict[Condition, dict[str, str]]] = {
    "r1": {"alone": flipped("p1", "p4"), "aided": flipped("p4")},
    "r2": {"alone": flipped("p2"), "aided": flipped()},
}


def test_performance_by_hand() -> None:
    """Two of three HCC and one of two ICC right."""
    found = performance(flipped("p1", "p4"), truth=TRUTH, classes=CLASSES)
    assert (found.accuracy.hits, found.accuracy.total) == (3, 5)
    assert (found.sensitivity["HCC"].hits, found.sensitivity["HCC"].total) == (2, 3)
    assert (found.specificity["HCC"].hits, found.specificity["HCC"].total) == (1, 2)
    assert (found.sensitivity["ICC"].hits, found.specificity["ICC"].hits) == (1, 2)


def test_study_end_to_end(tmp_path: Path) -> None:
    """A file becomes performances, paired comparisons and Cochran's Q."""
    read = read_diagnoses(write(tmp_path, complete(READERS)), truth=TRUTH, classes=CLASSES)
    assert read == READERS
    study = evaluate_readers(read, model=flipped("p5"), truth=TRUTH, classes=CLASSES)
    assert study.n == 5
    assert (study.helped["r1"].b, study.helped["r1"].c) == (1, 0)
    assert (study.against_model["r1"].b, study.against_model["r1"].c) == (2, 1)
    assert set(study.between) == set(CONDITIONS)
    assert isinstance(study.between["alone"], TestResult)


def test_the_consensus_is_no_further_reader() -> None:
    """Cochran's Q is over the people; what they agreed on follows from them, and would count them twice."""
    read = {"A": {c: flipped("p1") for c in CONDITIONS}, "B": {c: flipped("p2", "p3") for c in CONDITIONS}}
    alone = evaluate_readers(read, model=flipped("p5"), truth=TRUTH, classes=CLASSES)
    read[" Consensus "] = {c: flipped() for c in CONDITIONS}
    with_it = evaluate_readers(read, model=flipped("p5"), truth=TRUTH, classes=CLASSES)
    assert with_it.between == alone.between
    assert isinstance(alone.between["alone"], TestResult)
    assert alone.between["alone"].df == 1
    assert set(with_it.readers) == set(read)


def test_golden_comparison() -> None:
    """17 against 2 discordant patients of 58 give the specification's interval and p value."""
    truth = {f"p{i}": "HCC" for i in range(58)}
    first = {s: "ICC" if 17 <= i < 19 else "HCC" for i, s in enumerate(truth)}
    second = {s: "ICC" if i < 17 else "HCC" for i, s in enumerate(truth)}
    found = compare(first, second, truth=truth)
    assert (found.b, found.c) == (17, 2)
    assert found.mcnemar.p == pytest.approx(0.0013189686, abs=1e-10)
    assert isinstance(found.difference, PairedDifference)
    assert found.difference.ci95[0] == pytest.approx(0.109976, abs=1e-6)


def test_patterns() -> None:
    """A digit a judge, in their order."""
    assert response_patterns([flipped("p1"), flipped("p1", "p2")], truth=TRUTH) == {"00": 1, "10": 1, "11": 3}


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["p1,r1,alone,HCC"], "subject,reader,condition", "columns"),
        (["p1,r1,helped,HCC"], "subject,reader,condition,diagnosis", "line 2: condition"),
        (["p1,r1,alone,HBV"], "subject,reader,condition,diagnosis", "line 2: diagnosis"),
        (["p9,r1,alone,HCC"], "subject,reader,condition,diagnosis", "line 2: the subject"),
        (["p1,r1,alone,HCC", "p1,r1,alone,ICC"], "subject,reader,condition,diagnosis", "line 3: a second"),
        (["p1,r1,alone,HCC"], "subject,reader,condition,diagnosis", "1 diagnoses"),
        ([], "subject,reader,condition,diagnosis", "no diagnoses"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, rows: list[str], header: str, message: str) -> None:
    """The message names the line and what is wrong, and never a patient."""
    with pytest.raises(DataError, match=message) as caught:
        read_diagnoses(write(tmp_path, rows, header=header), truth=TRUTH, classes=CLASSES)
    assert "p9" not in str(caught.value)


def test_readings_as_a_spreadsheet_writes_them(tmp_path: Path) -> None:
    """Semicolons, UTF-16, a capital in the heading, rows of empty cells."""
    path = write(tmp_path, [*complete(READERS), ",,,"])
    text = path.read_text().replace("subject", "Subject", 1).replace(",", ";")
    path.write_bytes(text.encode("utf-16"))
    assert read_diagnoses(path, truth=TRUTH, classes=CLASSES) == READERS
    path.write_bytes(b"\xd0\xcf\x11\xe0")
    with pytest.raises(DataError) as caught:
        read_diagnoses(path, truth=TRUTH, classes=CLASSES)
    assert caught.value.got == "an Excel workbook (.xls)"


def test_missing_readings_are_named(tmp_path: Path) -> None:
    """Whose diagnosis is missing is said by pseudonym, ten at most, so that nobody has to search."""
    truth = {f"p{number}": "HCC" for number in range(14)}
    lines = ["subject,reader,condition,diagnosis"]
    lines += [f"{subject},Dr A,alone,HCC" for subject in truth]
    path = tmp_path / "readings.csv"
    for missing, told in ((["p3", "p7"], "Missing: p3, p7."), (list(truth)[2:], "p11 and 2 more.")):
        aided = [f"{subject},Dr A,aided,HCC" for subject in truth if subject not in missing]
        path.write_text("\n".join([*lines, *aided]) + "\n")
        with pytest.raises(DataError) as caught:
            read_diagnoses(path, truth=truth, classes=["HCC", "ICC"])
        assert told in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is a data error."""
    with pytest.raises(DataError, match="cannot be read"):
        read_diagnoses(tmp_path / "none.csv", truth=TRUTH, classes=CLASSES)
