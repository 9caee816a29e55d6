"""What of a reader study may leave a site, as counts, and the figures that follow from them.

The file that a site exports holds counts and test results alone; whoever reads it computes
the proportions and intervals again, so the page of the site and the coordinator's report
show the same numbers. Small cells are suppressed by the same rule as in the model's own
confusion: a count stays inside where it is small, or where a small one could be recomputed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stic_core import statistics
from stic_core.config import PolicyConfig, SiteName
from stic_core.errors import DataError
from stic_core.evaluation.comparison import Discordant
from stic_core.evaluation.figures import Json, PairedAccuracy, Proportion, paired_accuracy, proportion
from stic_core.evaluation.readers.study import (
    CONDITIONS,
    CONSENSUS,
    LONGEST_NAME,
    Comparison,
    Condition,
    Performance,
    Rate,
    ReaderStudy,
    is_consensus,
)
from stic_core.evaluation.reports import Accuracy, HeldOutReport
from stic_core.faults import first_fault
from stic_core.privacy.confusion_cells import releasable
from stic_core.privacy.release import too_few
from stic_core.statistics import Absent, NotEstimable, Suppressed

Count: TypeAlias = Annotated[int, Field(ge=0)]
Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class JudgeFigures:
    """A reader, or the model, as proportions."""

    accuracy: Proportion | Absent
    sensitivity: Mapping[str, Proportion | Absent]
    specificity: Mapping[str, Proportion | Absent]


@dataclass(frozen=True)
class StudyFigures:
    """A study as pages, tables and sentences show it: the facts of its release, and what its counts give.

    Args:
        helped, against_model, between: as in `ReaderRelease`.
    """

    schema_version: int
    kind: str
    site: str
    run_id: str
    model_digest: str
    test_fingerprint: str
    task: str
    classes: tuple[str, ...]
    phantom: bool
    min_cell: int
    n: int
    readers: Mapping[str, Mapping[Condition, JudgeFigures]]
    model: JudgeFigures
    helped: Mapping[str, PairedAccuracy | Absent]
    against_model: Mapping[str, PairedAccuracy | Absent]
    between: Mapping[Condition, statistics.TestResult | Absent]

    @property
    def judges(self) -> list[tuple[str, str, JudgeFigures]]:
        """Every reader by condition, then the model, which has none."""
        readers = [
            (name, condition, found) for name, by in self.readers.items() for condition, found in by.items()
        ]
        return [*readers, ("model", "", self.model)]

    @property
    def pairs(self) -> list[tuple[str, str, PairedAccuracy | Absent]]:
        """First, second and their comparison: each reader aided against alone, then the model against each alone."""
        helped = [(f"{name} aided", f"{name} alone", pair) for name, pair in self.helped.items()]
        return [*helped, *(("model", f"{name} alone", pair) for name, pair in self.against_model.items())]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class JudgeCounts(_Frozen):
    """A reader, or the model, as counts: right ones of all, and by class those of it and those not."""

    accuracy: Accuracy | Absent
    sensitivity: dict[str, Accuracy | Absent]
    specificity: dict[str, Accuracy | Absent]


class QTest(_Frozen):
    """Cochran's Q over the readers."""

    statistic: Annotated[float, Field(ge=0)]
    df: Annotated[int, Field(ge=1)]
    p: Annotated[float, Field(ge=0, le=1)]


class ReaderRelease(_Frozen):
    """One site's reader study.

    Args:
        run_id: of the run that trained the model.
        test_fingerprint: of the held-out patients that were read.
        min_cell: of the policy that it was made under.
        readers: by name and condition.
        helped: each reader with the model's help (b: only so right) against alone (c).
        against_model: the model (b) against each reader alone (c).
        between: do the readers differ, by condition.
    """

    schema_version: Literal[1] = 1
    kind: Literal["reader-study"] = "reader-study"
    site: SiteName
    run_id: Annotated[str, Field(max_length=128)]
    model_digest: Digest
    test_fingerprint: Digest
    task: Annotated[str, Field(max_length=64)]
    classes: Annotated[tuple[Name, ...], Field(min_length=2, max_length=16)]
    phantom: bool
    min_cell: Annotated[int, Field(ge=1)]
    n: Annotated[int, Field(ge=1)]
    readers: Annotated[dict[Name, dict[Condition, JudgeCounts]], Field(min_length=1, max_length=64)]
    model: JudgeCounts
    helped: dict[Name, Discordant | Absent]
    against_model: dict[Name, Discordant | Absent]
    between: dict[Condition, QTest | Absent]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not set(self.helped) == set(self.against_model) == set(self.readers):
            raise ValueError("the comparisons are not of the readers")
        if any(set(by) != set(CONDITIONS) for by in (*self.readers.values(), self.between)):
            raise ValueError(f"expected {' and '.join(CONDITIONS)}")
        judges = [self.model, *(judge for by in self.readers.values() for judge in by.values())]
        for judge in judges:
            if not set(judge.sensitivity) == set(judge.specificity) == set(self.classes):
                raise ValueError("sensitivities or specificities are not of the classes")
            if isinstance(judge.accuracy, Accuracy) and judge.accuracy.total != self.n:
                raise ValueError("an accuracy is not over n patients")
            rates = (*judge.sensitivity.values(), *judge.specificity.values())
            if any(isinstance(rate, Accuracy) and rate.total > self.n for rate in rates):
                raise ValueError("more patients of a class than patients")
        for pair in (*self.helped.values(), *self.against_model.values()):
            if isinstance(pair, Discordant) and pair.b + pair.c > self.n:
                raise ValueError("more discordant patients than patients")
        return self


def release(
    study: ReaderStudy,
    *,
    policy: PolicyConfig,
    names: Mapping[str, str],
    classes: Sequence[str],
    model: HeldOutReport | None = None,
    **facts: Json,
) -> ReaderRelease:
    """Count what a policy lets out.

    Args:
        policy: `min_cell` of the site; 1 keeps nothing back, for the site's own eyes.
        names: how each reader is called.
        classes: of the task.
        model: what left of the model when a federation evaluated it on these patients, where one did;
            no more leaves of it now.
        facts: `site`, `run_id`, `model_digest`, `test_fingerprint`, `task` and `phantom`.
    """
    nothing = too_few(study.n, policy=policy)

    def judge(performance: Performance) -> JudgeCounts:
        return _judge(performance, classes=classes, policy=policy, nothing=nothing)

    readers: dict[str, dict[Condition, JudgeCounts]] = {
        names[r]: {c: judge(by[c]) for c in CONDITIONS} for r, by in study.readers.items()
    }
    machine = judge(study.model) if model is None else _as_before(model, classes=classes)

    def pair(comparison: Comparison, *judges: JudgeCounts) -> Discordant | Absent:
        if nothing is not None:
            return nothing
        for one in judges:  # else one accuracy would give the other away
            if not isinstance(one.accuracy, Accuracy):
                return one.accuracy
        if min(comparison.b, comparison.c) < policy.min_cell > 1:
            return Suppressed(f"they differ on fewer than {policy.min_cell} patients one way or the other")
        return Discordant(b=comparison.b, c=comparison.c)

    def test(found: statistics.TestResult | NotEstimable) -> QTest | Absent:
        if nothing is not None:
            return nothing
        if isinstance(found, NotEstimable):
            return found
        return QTest(statistic=found.statistic, df=found.df, p=found.p)

    return ReaderRelease(
        classes=tuple(classes),
        min_cell=policy.min_cell,
        n=study.n,
        readers=readers,
        model=machine,
        helped={
            names[reader]: pair(found, *readers[names[reader]].values())
            for reader, found in study.helped.items()
        },
        against_model={
            names[reader]: pair(found, machine, readers[names[reader]]["alone"])
            for reader, found in study.against_model.items()
        },
        between={condition: test(found) for condition, found in study.between.items()},
        **facts,
    )


def numbered(readers: Sequence[str]) -> dict[str, str]:
    """Names under which readers leave the site: numbers in the order of their names.

    Example:
        >>> numbered(["Dr B", "Consensus", "Dr A"])
        {'Consensus': 'consensus', 'Dr A': 'reader 1', 'Dr B': 'reader 2'}
    """
    people = [name for name in sorted(readers) if not is_consensus(name)]
    called = {name: f"reader {number}" for number, name in enumerate(people, start=1)}
    return {name: called.get(name, CONSENSUS) for name in sorted(readers)}


def read_release(text: str, *, source: str) -> ReaderRelease:
    """Check an exported file.

    Args:
        source: how messages call it.

    Raises:
        DataError: it is not what `stic-client readers --export` writes.
    """
    try:
        return ReaderRelease.model_validate_json(text)
    except ValidationError as error:
        fault = first_fault(error)
        where = ".".join(fault.key.split(".")[:3]) or "the file"
        raise DataError(
            f"{source} is not an exported reader study",
            got=f"{where}: expected {fault.expected}",
            expected="the file that stic-client readers --export writes",
        ) from None


def figures_of(found: ReaderRelease) -> StudyFigures:
    """The study with every proportion, interval and test that its counts give."""

    def judge(counts: JudgeCounts) -> JudgeFigures:
        return JudgeFigures(
            proportion(counts.accuracy),
            {name: proportion(rate) for name, rate in counts.sensitivity.items()},
            {name: proportion(rate) for name, rate in counts.specificity.items()},
        )

    def pair(counts: Discordant | Absent) -> PairedAccuracy | Absent:
        return (
            paired_accuracy(b=counts.b, c=counts.c, n=found.n) if isinstance(counts, Discordant) else counts
        )

    return StudyFigures(
        schema_version=found.schema_version,
        kind=found.kind,
        site=found.site,
        run_id=found.run_id,
        model_digest=found.model_digest,
        test_fingerprint=found.test_fingerprint,
        task=found.task,
        classes=found.classes,
        phantom=found.phantom,
        min_cell=found.min_cell,
        n=found.n,
        readers={name: {c: judge(by[c]) for c in CONDITIONS} for name, by in found.readers.items()},
        model=judge(found.model),
        helped={name: pair(counts) for name, counts in found.helped.items()},
        against_model={name: pair(counts) for name, counts in found.against_model.items()},
        between={
            c: statistics.TestResult(test.statistic, test.df, test.p) if isinstance(test, QTest) else test
            for c, test in found.between.items()
        },
    )


def _judge(
    performance: Performance, *, classes: Sequence[str], policy: PolicyConfig, nothing: Absent | None
) -> JudgeCounts:
    if nothing:
        everywhere: dict[str, Accuracy | Absent] = dict.fromkeys(classes, nothing)
        return JudgeCounts(accuracy=nothing, sensitivity=everywhere, specificity=everywhere)
    found = releasable(np.array(performance.confusion), min_cell=policy.min_cell)
    kept = Suppressed(f"fewer than {policy.min_cell} patients, or a count that would reveal so few")
    return JudgeCounts(
        accuracy=_counts(performance.accuracy) if found.accuracy else kept,
        sensitivity={
            name: _counts(performance.sensitivity[name]) if found.cells[k, k] else kept
            for k, name in enumerate(classes)
        },
        specificity={
            name: _counts(performance.specificity[name]) if found.columns[k] else kept
            for k, name in enumerate(classes)
        },
    )


def _as_before(report: HeldOutReport, *, classes: Sequence[str]) -> JudgeCounts:
    """The model as a federation's evaluation released it."""
    counts, confusion, wrong = report.class_counts, report.confusion, report.false_positives
    kept = Suppressed("kept back when the federation evaluated the model")

    def sensitivity(k: int, name: str) -> Accuracy | Absent:
        right = confusion[k][k] if isinstance(confusion, tuple) else confusion
        if not isinstance(right, int) or not isinstance(counts, dict):
            return kept
        return Accuracy(correct=right, total=counts[name])

    def specificity(name: str) -> Accuracy | Absent:
        false = wrong[name] if isinstance(wrong, dict) else wrong
        if not isinstance(false, int) or not isinstance(counts, dict):
            return kept
        others = report.n - counts[name]
        return Accuracy(correct=others - false, total=others)

    return JudgeCounts(
        accuracy=report.accuracy,
        sensitivity={name: sensitivity(k, name) for k, name in enumerate(classes)},
        specificity={name: specificity(name) for name in classes},
    )


def _counts(rate: Rate) -> Accuracy:
    return Accuracy(correct=rate.hits, total=rate.total)
