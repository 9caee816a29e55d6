"""Figures as they are shown and written: a value with its interval, or why there is none.

Values are frozen; `Suppressed` and `NotEstimable` stand where a figure would stand. `as_json`
writes any of them, and pydantic reads them back (`document.read_evaluation`), so that nobody
else looks for the keys `suppressed` and `not_estimable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, TypeAlias

from stic_core import statistics
from stic_core.evaluation.reports import Accuracy
from stic_core.statistics import Absent, Auc, Estimate, Interval, NotEstimable, PooledAuc
from stic_core.statistics.values import FORBID

Json: TypeAlias = Any
"""What `json.dumps` takes, without NaN or infinity."""


class Written:
    """Base of what is written and read back: a key that no field has is refused."""

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID


@dataclass(frozen=True)
class Proportion(Written):
    """A share of patients with its exact (Clopper-Pearson) interval."""

    value: float
    correct: int
    total: int
    ci95: Interval | NotEstimable

    @property
    def interval(self) -> Interval | NotEstimable:
        """The interval that tables show."""
        return self.ci95


@dataclass(frozen=True)
class AucFigure(Written):
    """An AUC, or a mean of AUCs, with standard error and both intervals.

    Args:
        positives, negatives: patients of the class, and of the others; None for means.
        ci95_newcombe: where hardly any pair is out of order (`Auc.sparse`), so that the other two say little.
        bounds: the AUC of the scores themselves lies between them, where it was made of histograms.
        note: what is to be known of the standard error.
        sites: whose AUCs went into a mean over sites.
    """

    value: float
    se: float | NotEstimable
    ci95_wald: Interval | NotEstimable
    ci95_logit: Interval | NotEstimable
    positives: int | None = None
    negatives: int | None = None
    bounds: Interval | None = None
    note: str | None = None
    sites: tuple[str, ...] | None = None
    ci95_newcombe: Interval | None = None

    @property
    def interval(self) -> Interval | NotEstimable:
        """The interval that tables show."""
        return self.ci95_logit if self.ci95_newcombe is None else self.ci95_newcombe

    @property
    def interval_kind(self) -> str:
        """Which one that is."""
        return "logit" if self.ci95_newcombe is None else "newcombe"


@dataclass(frozen=True)
class PairedAccuracy(Written):
    """Two judges of the same patients: accuracy of the first minus that of the second.

    Args:
        b, c: patients that only the first, and only the second, got right.
        p: of McNemar's test with Edwards' correction, as in the paper.
        p_exact: of the exact test, where fewer than `FEW_DISCORDANT` patients are discordant.
    """

    difference: float
    ci95: Interval
    b: int
    c: int
    p: float
    p_exact: float | None = None

    @property
    def decisive_p(self) -> float:
        """The exact one where there is one: the other is an approximation for many."""
        return self.p if self.p_exact is None else self.p_exact

    @property
    def test(self) -> str:
        """Whose p that is."""
        return "McNemar" if self.p_exact is None else "exact McNemar"


def proportion(accuracy: Accuracy | Absent) -> Proportion | Absent:
    """A proportion from its counts; of no patients there is none."""
    if not isinstance(accuracy, Accuracy):
        return accuracy
    correct, total = accuracy.correct, accuracy.total
    if total == 0:
        return NotEstimable("no patients")
    return Proportion(correct / total, correct, total, statistics.clopper_pearson(correct, total=total))


def auc_figure(
    auc: Estimate | Absent, *, note: str | None = None, bounds: Interval | None = None
) -> AucFigure | Absent:
    """An AUC of the statistics with its intervals; `bounds` and `note` where the estimate holds none."""
    if not isinstance(auc, Estimate):
        return auc
    found = AucFigure(auc.value, auc.se, auc.wald(), auc.logit(), bounds=bounds, note=note)
    if isinstance(auc, Auc):
        found = replace(
            found,
            positives=auc.positives,
            negatives=auc.negatives,
            ci95_newcombe=auc.newcombe() if auc.sparse else None,
        )
    return replace(found, bounds=auc.bounds) if isinstance(auc, PooledAuc) else found


def paired_accuracy(*, b: int, c: int, n: int) -> PairedAccuracy | NotEstimable:
    """Difference, interval and McNemar's test from counts of n patients."""
    found = statistics.paired_difference(b=b, c=c, n=n)
    if isinstance(found, NotEstimable):
        return found
    return PairedAccuracy(
        found.difference,
        found.ci95,
        b,
        c,
        p=statistics.mcnemar(b=b, c=c).p,
        p_exact=statistics.mcnemar_exact(b=b, c=c) if b + c < statistics.FEW_DISCORDANT else None,
    )


def as_json(value: object) -> Json:
    """A figure, or anything made of figures, as plain JSON; an optional part that is not there is left out.

    Example:
        >>> as_json({"auc": NotEstimable("no patients")})
        {'auc': {'not_estimable': 'no patients'}}
    """
    if is_dataclass(value):
        return {
            field.name: as_json(part)
            for field in fields(value)
            if (part := getattr(value, field.name)) is not None or field.default is MISSING
        }
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value
