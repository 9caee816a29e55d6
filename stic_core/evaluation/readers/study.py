"""Reader study: what readers diagnosed alone and with the model's help, against the held-out truth.

The file stays at the site and so does every row; only the counts of the result may leave. A
row is one diagnosis: `subject`, `reader`, `condition` (`alone` or `aided`), `diagnosis`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from stic_core import statistics
from stic_core.errors import DataError
from stic_core.statistics import Interval, NotEstimable, PairedDifference, TestResult
from stic_core.system.csv_tables import read_table

Condition: TypeAlias = Literal["alone", "aided"]
CONDITIONS: tuple[Condition, ...] = ("alone", "aided")
_CONDITION_OF: Mapping[str, Condition] = {condition: condition for condition in CONDITIONS}
LONGEST_NAME = 64
CONSENSUS = "consensus"
"""A reader of this name is no person: what the others agreed on, which is compared but is no further judge."""

MOST_NAMED = 10
"""Missing readings that a message names by the patient's pseudonym."""

COLUMNS = ("subject", "reader", "condition", "diagnosis")

Diagnoses: TypeAlias = Mapping[str, str]
"""Class by subject."""

Confusion: TypeAlias = tuple[tuple[int, ...], ...]
"""Rows are true classes, columns diagnoses."""


@dataclass(frozen=True)
class Rate:
    """A proportion with its exact interval; the interval is not estimable without patients."""

    hits: int
    total: int
    ci95: Interval | NotEstimable

    @property
    def value(self) -> float | NotEstimable:
        """The share, where there are patients."""
        return self.hits / self.total if self.total else NotEstimable("no patients")


@dataclass(frozen=True)
class Performance:
    """One reader, or the model, on the held-out patients.

    Args:
        sensitivity, specificity: by class, that class against the rest; (1 - specificity,
            sensitivity) is the reader's point on the class's ROC plot.
        confusion: patients by true class (rows) and diagnosis (columns).
    """

    accuracy: Rate
    sensitivity: Mapping[str, Rate]
    specificity: Mapping[str, Rate]
    confusion: Confusion


@dataclass(frozen=True)
class Comparison:
    """Two sets of diagnoses of the same patients, first against second.

    Args:
        b, c: patients that only the first, and only the second, diagnosed right.
    """

    n: int
    b: int
    c: int
    difference: PairedDifference | NotEstimable
    mcnemar: TestResult


@dataclass(frozen=True)
class ReaderStudy:
    """The result.

    Args:
        readers: performance by reader and condition.
        model: performance of the model.
        helped: each reader with the model's help against alone.
        against_model: the model against each reader alone.
        between: Cochran's Q over the readers without their consensus, by condition.
    """

    n: int
    readers: Mapping[str, Mapping[Condition, Performance]]
    model: Performance
    helped: Mapping[str, Comparison]
    against_model: Mapping[str, Comparison]
    between: Mapping[Condition, TestResult | NotEstimable]


def read_diagnoses(
    path: Path, *, truth: Diagnoses, classes: Sequence[str]
) -> dict[str, dict[Condition, dict[str, str]]]:
    """Read a study's CSV; every reader must have diagnosed every held-out patient once per condition.

    Args:
        path: the file.
        truth: class of each held-out patient.
        classes: of the task.

    Returns:
        Diagnoses by reader, condition and subject.

    Raises:
        DataError: names the line, or the reader and whose diagnoses are missing.
    """
    try:
        table = read_table(path, what=path.name, known=COLUMNS)
    except FileNotFoundError:
        raise DataError(f"{path.name} cannot be read", got=f"no file {path}") from None
    if set(COLUMNS) - set(table.columns):
        raise DataError(f"{path.name}: columns", got=", ".join(table.columns), expected=", ".join(COLUMNS))
    found: dict[str, dict[Condition, dict[str, str]]] = {}
    for number, cells in table.rows:
        row = {name: cells[name].strip() for name in COLUMNS}
        where = f"{path.name}, line {number}"
        condition = _checked(row, where=where, truth=truth, classes=classes)
        of_reader = found.setdefault(row["reader"], {}).setdefault(condition, {})
        if row["subject"] in of_reader:
            raise DataError(f"{where}: a second diagnosis for this subject", advice="Keep one of them.")
        of_reader[row["subject"]] = row["diagnosis"]
    if not found:
        raise DataError(f"{path.name} contains no diagnoses")
    for reader, by_condition in sorted(found.items()):
        for condition in CONDITIONS:
            if missing := [subject for subject in truth if subject not in by_condition.get(condition, {})]:
                raise DataError(
                    f"{path.name}: {reader}, {condition}",
                    got=f"{len(truth) - len(missing)} diagnoses",
                    expected=f"{len(truth)}, one per held-out patient",
                    advice=f"Missing: {_some(missing)}.",
                )
    return found


def _some(subjects: Sequence[str]) -> str:
    """The first pseudonyms, and how many more there are."""
    more = len(subjects) - MOST_NAMED
    return ", ".join(subjects[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _checked(row: Mapping[str, str], *, where: str, truth: Diagnoses, classes: Sequence[str]) -> Condition:
    condition = _CONDITION_OF.get(row["condition"])
    if condition is None:
        raise DataError(f"{where}: condition", got=repr(row["condition"]), expected=" or ".join(CONDITIONS))
    if row["diagnosis"] not in classes:
        raise DataError(f"{where}: diagnosis", got=repr(row["diagnosis"]), expected=" or ".join(classes))
    if not 1 <= len(row["reader"]) <= LONGEST_NAME:
        raise DataError(f"{where}: reader", expected=f"a name of at most {LONGEST_NAME} characters")
    if row["subject"] not in truth:
        raise DataError(f"{where}: the subject is not one of the held-out patients")
    return condition


def evaluate_readers(
    readers: Mapping[str, Mapping[Condition, Diagnoses]],
    *,
    model: Diagnoses,
    truth: Diagnoses,
    classes: Sequence[str],
) -> ReaderStudy:
    """Compare readers alone, readers with help, and the model, all on the same patients.

    Args:
        readers: diagnoses by reader and condition, of every patient of `truth`.
        model: the model's diagnoses.
        truth: class of each held-out patient.
        classes: of the task.
    """
    people = [by for reader, by in sorted(readers.items()) if not is_consensus(reader)]
    return ReaderStudy(
        n=len(truth),
        readers={
            reader: {c: performance(by[c], truth=truth, classes=classes) for c in CONDITIONS}
            for reader, by in sorted(readers.items())
        },
        model=performance(model, truth=truth, classes=classes),
        helped={
            reader: compare(by["aided"], by["alone"], truth=truth) for reader, by in sorted(readers.items())
        },
        against_model={
            reader: compare(model, by["alone"], truth=truth) for reader, by in sorted(readers.items())
        },
        between={
            condition: statistics.cochran_q(response_patterns([by[condition] for by in people], truth=truth))
            for condition in CONDITIONS
        },
    )


def is_consensus(reader: str) -> bool:
    """Whether a name in the study's file is that of the readers' common diagnosis."""
    return reader.strip().casefold() == CONSENSUS


def performance(diagnoses: Diagnoses, *, truth: Diagnoses, classes: Sequence[str]) -> Performance:
    """Accuracy, and sensitivity and specificity of each class against the rest."""
    counts = Counter((truth[subject], diagnoses[subject]) for subject in truth)
    n = len(truth)

    def rate(hits: int, total: int) -> Rate:
        return Rate(hits=hits, total=total, ci95=statistics.clopper_pearson(hits, total=total))

    of_class = Counter(truth.values())
    called = Counter(diagnoses[subject] for subject in truth)
    return Performance(
        accuracy=rate(sum(counts[name, name] for name in classes), n),
        sensitivity={name: rate(counts[name, name], of_class[name]) for name in classes},
        specificity={
            name: rate(n - of_class[name] - (called[name] - counts[name, name]), n - of_class[name])
            for name in classes
        },
        confusion=tuple(tuple(counts[true, said] for said in classes) for true in classes),
    )


def compare(first: Diagnoses, second: Diagnoses, *, truth: Diagnoses) -> Comparison:
    """McNemar's test and the interval of the difference of accuracies."""
    b = sum(first[s] == t != second[s] for s, t in truth.items())
    c = sum(second[s] == t != first[s] for s, t in truth.items())
    return Comparison(
        n=len(truth),
        b=b,
        c=c,
        difference=statistics.paired_difference(b=b, c=c, n=len(truth)),
        mcnemar=statistics.mcnemar(b=b, c=c),
    )


def response_patterns(judges: Sequence[Diagnoses], *, truth: Diagnoses) -> dict[str, int]:
    """How many patients each pattern of right (1) and wrong (0) answers has; one digit per judge."""
    return dict(
        Counter(
            "".join("1" if diagnoses[subject] == name else "0" for diagnoses in judges)
            for subject, name in truth.items()
        )
    )
