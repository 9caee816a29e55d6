"""What one site releases of a model's evaluation: aggregates under its own policy.

Patients' scores go in, a frozen report comes out; nothing in it belongs to one patient.
What the policy keeps back is a `Suppressed`, what the patients cannot give a
`NotEstimable`, both with the reason; a figure is never missing and never 0 for want of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import softmax

from stic_core import statistics
from stic_core.config import PolicyConfig
from stic_core.errors import DataError
from stic_core.evaluation import consistency
from stic_core.privacy.confusion_cells import releasable
from stic_core.privacy.release import (
    NOBODY,
    rounded,
    score_counts,
    small_class,
    small_count,
    too_few,
    too_few_for_auc,
    withheld,
)
from stic_core.privacy.score_bins import Decided, Starts
from stic_core.statistics import (
    EDGES,
    Absent,
    Auc,
    Estimate,
    Group,
    NotEstimable,
    ScoreHistogram,
    Suppressed,
)
from stic_core.statistics.bounds import Count, Finite, NotNegative, Share
from stic_core.statistics.values import FORBID

LogitArray: TypeAlias = npt.NDArray[np.floating]
"""(n, k) logits of a model."""

LabelArray: TypeAlias = npt.NDArray[np.integer]
"""(n,) class indices in the order of the task's classes."""

EstimateT = TypeVar("EstimateT", bound=Estimate)


@dataclass(frozen=True)
class Accuracy:
    """Patients whose most probable class is the true one."""

    correct: Count
    total: Count

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total:
            raise ValueError("accuracy: expected 0 <= correct <= total")


@dataclass(frozen=True, slots=True)
class Near:
    """What of a model's figures is nearly that of a model looked at before (`privacy.looks`).

    Args:
        answers: its predicted classes, which accuracy and confusion count.
        scores: the bins of its scores.
    """

    answers: bool = False
    scores: bool = False


class _Released(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BinnedScores(_Released):
    """Scores of one class, counted in bins of the protocol's grid (`statistics.SCORE_GRID`).

    Args:
        starts: the cell of the grid at which each bin starts; the first is 0.
        positives, negatives: patients in each bin, of the class and of the others.
        sums: sum of the scores in each bin, to four digits.
        probabilities: sum of the class's probabilities in each bin, to four digits.
    """

    starts: tuple[Count, ...]
    positives: tuple[Count, ...]
    negatives: tuple[Count, ...]
    sums: tuple[Finite, ...]
    probabilities: tuple[NotNegative, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.probabilities) != len(self.starts):
            raise ValueError("expected one sum of probabilities for each bin")
        _ = self.histogram  # its columns agree
        return self

    @property
    def histogram(self) -> ScoreHistogram:
        """For figures across sites."""
        return ScoreHistogram(EDGES, self.starts, self.positives, self.negatives, self.sums)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The bins as groups of patients with neighbouring probabilities; empty ones are left out."""
        return tuple(
            Group(n=p + n, hits=p, predicted=min(predicted, float(p + n)))
            for p, n, predicted in zip(self.positives, self.negatives, self.probabilities, strict=True)
            if p + n
        )


class CalibrationSums(_Released):
    """Sums over patients, to four digits; the reliability of each class is in its `BinnedScores`.

    Args:
        brier_sum: squared error over all classes.
        log_loss_sum: -log of the true class's probability, each patient's capped at `statistics.LOSS_CAP`.
    """

    brier_sum: NotNegative
    log_loss_sum: NotNegative


class HeldOutReport(_Released):
    """One site's answer for one model on its held-out patients.

    The number of patients is released even where it is small: whoever plans a federation
    knows it, and it says nothing of a patient's diagnosis or of the model's answer. Class
    counts are released from `min_cell` patients on, as the table of any paper does.

    Args:
        n: held-out patients.
        classes: of the task, in its order.
        class_counts: held-out patients of each class.
        confusion: rows are true classes, columns predicted ones.
        false_positives: patients of other classes who were taken for the class.
        auc: each class against the rest, exact inside the site, with DeLong's variance.
        auc_micro, auc_macro: with variances that respect that patients are used k times.
        auc_macro_interpolated: the paper's macro average, biased upward by .002 to .005.
        histograms: scores of each class, for figures across sites.
    """

    n: Count
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=16)]
    class_counts: dict[str, Count] | Absent
    accuracy: Accuracy | Absent
    confusion: tuple[tuple[Count | Suppressed, ...], ...] | Absent
    false_positives: dict[str, Count | Suppressed] | Absent
    auc: dict[str, Auc | Absent]
    auc_micro: Estimate | Absent
    auc_macro: Estimate | Absent
    auc_macro_interpolated: Share | Absent
    histograms: dict[str, BinnedScores] | Absent
    calibration: CalibrationSums | Absent

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = set(self.classes)
        for mapping in (self.auc, self.class_counts, self.false_positives, self.histograms):
            if isinstance(mapping, dict) and set(mapping) != named:
                raise ValueError(f"classes: got {sorted(mapping)}, expected {sorted(named)}")
        if isinstance(self.class_counts, dict) and sum(self.class_counts.values()) != self.n:
            raise ValueError("class counts do not add up to n")
        if isinstance(self.accuracy, Accuracy) and self.accuracy.total != self.n:
            raise ValueError("accuracy is not over n patients")
        if isinstance(self.confusion, tuple) and {len(self.confusion), *map(len, self.confusion)} != {
            len(named)
        }:
            raise ValueError("confusion needs one row and one column per class")
        self._check_figures()
        return self

    def _check_figures(self) -> None:
        """All of them can be true of the same patients."""
        n = self.n
        counts = (
            {name: self.class_counts[name] for name in self.classes}
            if isinstance(self.class_counts, dict)
            else self.class_counts
        )
        right = self.accuracy.correct if isinstance(self.accuracy, Accuracy) else None
        consistency.check_nobody(
            n,
            [
                *self.auc.values(),
                *(self.auc_micro, self.auc_macro, self.auc_macro_interpolated),
                *(self.accuracy, self.confusion, self.false_positives, self.histograms, self.calibration),
            ],
        )
        if isinstance(self.confusion, tuple):
            consistency.check_confusion(self.confusion, n=n, counts=counts, correct=right)
        if isinstance(self.false_positives, dict):
            wrong = [self.false_positives[name] for name in self.classes]
            table = self.confusion if isinstance(self.confusion, tuple) else None
            consistency.check_false_positives(wrong, table=table, n=n, counts=counts, correct=right)
        consistency.check_aucs(self.auc, n=n, counts=counts)
        consistency.check_macro(self.auc, macro=self.auc_macro, interpolated=self.auc_macro_interpolated)
        if isinstance(self.histograms, dict):
            histograms = {name: binned.histogram for name, binned in self.histograms.items()}
            consistency.check_histograms(histograms, n=n, counts=counts, aucs=self.auc, micro=self.auc_micro)
            probabilities = {name: binned.probabilities for name, binned in self.histograms.items()}
            consistency.check_probabilities(probabilities, histograms=histograms, n=n)
        if isinstance(sums := self.calibration, CalibrationSums):
            consistency.check_sum(sums.brier_sum, n=n, most=2.0)
            consistency.check_sum(sums.log_loss_sum, n=n, most=statistics.LOSS_CAP)


class ValidationReport(_Released):
    """One site's scalars of a round.

    Args:
        n: validation patients.
        loss_sum: -log of the true class's probability, each patient's capped at `statistics.LOSS_CAP`,
            summed over patients, to four digits.
        correct: patients whose most probable class is the true one.
    """

    n: Count
    loss_sum: NotNegative | Absent
    correct: Count | Absent

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        consistency.check_nobody(self.n, [self.loss_sum, self.correct])
        if isinstance(self.correct, int) and self.correct > self.n:
            raise ValueError("more patients are right than there are")
        if isinstance(self.loss_sum, float):
            consistency.check_sum(self.loss_sum, n=self.n, most=statistics.LOSS_CAP)
        return self


NEAR = Suppressed("an earlier model's figures differ from these by fewer patients than may be told")


def site_report(
    logits: LogitArray,
    labels: LabelArray,
    *,
    classes: Sequence[str],
    policy: PolicyConfig,
    near: Near = Near(),
) -> HeldOutReport:
    """Evaluate one model on one site's held-out patients, and choose what may leave together.

    Args:
        logits: (n, k); n may be 0.
        labels: (n,) class indices.
        classes: the task's, k of them.
        policy: `min_cell` and `min_class` of this site.
        near: figures of a model that was looked at before, of nearly the same groups of patients.

    Raises:
        DataError: a logit is not finite, a label is no class, or shapes disagree.
    """
    classes = tuple(classes)
    logits, labels = checked(logits, labels, classes=classes)
    n, k = len(labels), len(classes)
    if (nothing := too_few(n, policy=policy)) is not None:
        # One patient has no ROC curve, whatever the policy; saying so tells nothing of them.
        no_auc = NotEstimable("one patient cannot give an AUC") if n == 1 else nothing
        return HeldOutReport(
            n=n,
            classes=classes,
            class_counts=nothing,
            accuracy=nothing,
            confusion=nothing,
            false_positives=nothing,
            auc=dict.fromkeys(classes, no_auc),
            auc_micro=no_auc,
            auc_macro=no_auc,
            auc_macro_interpolated=no_auc,
            histograms=nothing,
            calibration=nothing,
        )
    scores, predicted = statistics.margins(logits), logits.argmax(axis=1)
    counts = np.bincount(labels, minlength=k)
    no_auc = withheld("auc", policy=policy) or (NEAR if near.scores else None)
    auc = {
        name: no_auc or _class_auc(scores[:, index], positive=labels == index, policy=policy)
        for index, name in enumerate(classes)
    }
    missing = next((value for value in auc.values() if not isinstance(value, Auc)), None)
    no_bins = withheld("histograms", policy=policy) or (NEAR if near.scores else None)
    bins = score_counts(scores, labels, policy=policy)
    accuracy, confusion, wrong = _counts(
        np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k),
        classes=classes,
        policy=policy,
        said=None if no_bins else [said for _, said in bins],
        near=near,
    )
    return HeldOutReport(
        n=n,
        classes=classes,
        class_counts={name: int(count) for name, count in zip(classes, counts, strict=True)},
        accuracy=accuracy,
        confusion=confusion,
        false_positives=wrong,
        auc=auc,
        auc_micro=no_auc
        or too_few_for_auc(n, policy=policy)
        or _coarse(statistics.micro(scores, labels=labels)),
        auc_macro=_coarse(statistics.macro(scores, labels=labels))
        if missing is None
        else _incomplete(missing),
        auc_macro_interpolated=statistics.macro_interpolated(scores, labels=labels)
        if missing is None
        else _incomplete(missing),
        histograms=no_bins or _binned(logits, scores, labels, classes=classes, bins=[one for one, _ in bins]),
        calibration=withheld("calibration", policy=policy)
        or (NEAR if near.scores else None)
        or CalibrationSums(
            brier_sum=rounded(statistics.brier_sum(softmax(logits, axis=1), labels=labels)),
            log_loss_sum=rounded(statistics.capped_loss_sum(logits, labels=labels)),
        ),
    )


def validation_report(
    logits: LogitArray, labels: LabelArray, *, classes: Sequence[str], policy: PolicyConfig
) -> ValidationReport:
    """Validate one model on one site's validation patients.

    Args:
        logits: (n, k); n may be 0.
        labels: (n,) class indices.
        classes: the task's, k of them.
        policy: `min_cell` of this site.

    Raises:
        DataError: as for `site_report`.
    """
    logits, labels = checked(logits, labels, classes=tuple(classes))
    n = len(labels)
    nothing = too_few(n, policy=policy)
    if nothing is NOBODY:
        nothing = NotEstimable("no validation patients")
    nothing = nothing or withheld("validation", policy=policy)
    if nothing is not None:
        return ValidationReport(n=n, loss_sum=nothing, correct=nothing)
    correct = int((logits.argmax(axis=1) == labels).sum())
    return ValidationReport(
        n=n,
        loss_sum=rounded(statistics.capped_loss_sum(logits, labels=labels)),
        correct=small_count(correct, of=n, policy=policy) or correct,
    )


def checked(
    logits: LogitArray, labels: LabelArray, *, classes: Sequence[str]
) -> tuple[LogitArray, LabelArray]:
    """Both as arrays of the right kind and shape.

    Raises:
        DataError: a logit is not finite, a label is no class, or shapes disagree.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if z.shape != (len(y), len(classes)) or y.ndim != 1:
        raise DataError(
            "logits and labels disagree",
            got=f"{z.shape} and {y.shape}",
            expected=f"(n, {len(classes)}) and (n,)",
        )
    if not np.isfinite(z).all():
        raise DataError("the model's logits are not finite", advice="Lower the learning rate.")
    if len(y) and not (y.min() >= 0 and y.max() < len(classes)):
        raise DataError("a label is not one of the task's classes", expected=f"0 to {len(classes) - 1}")
    return z, y


def _class_auc(
    scores: npt.NDArray[np.floating], *, positive: npt.NDArray[np.bool_], policy: PolicyConfig
) -> Auc | Absent:
    auc = statistics.delong(scores, positive=positive)
    if isinstance(auc, NotEstimable):
        return auc
    return small_class(positives=auc.positives, negatives=auc.negatives, policy=policy) or _coarse(auc)


def _coarse(auc: EstimateT | NotEstimable) -> EstimateT | NotEstimable:
    """An AUC with its variance to six digits."""
    if isinstance(auc, NotEstimable) or isinstance(auc.variance, NotEstimable):
        return auc
    return replace(auc, variance=float(f"{auc.variance:.6g}"))


def _incomplete(missing: Absent) -> Absent:
    return type(missing)("the AUC of a class is missing: " + missing.reason)


def _counts(
    confusion: npt.NDArray[np.integer],
    *,
    classes: Sequence[str],
    policy: PolicyConfig,
    said: Sequence[Decided] | None,
    near: Near,
) -> tuple[
    Accuracy | Absent,
    tuple[tuple[int | Suppressed, ...], ...] | Absent,
    dict[str, int | Suppressed] | Absent,
]:
    """Accuracy, confusion and false positives, as far as they may leave together."""
    no_accuracy = withheld("accuracy", policy=policy) or (NEAR if near.answers else None)
    no_confusion = withheld("confusion", policy=policy) or (NEAR if near.answers else None)
    found = releasable(confusion, min_cell=policy.min_cell, said=said, accuracy=no_accuracy is None)
    small = Suppressed(f"fewer than {policy.min_cell} patients, or a count that would reveal so few")
    right, n = int(np.diag(confusion).sum()), int(confusion.sum())
    return (
        no_accuracy or (Accuracy(correct=right, total=n) if found.accuracy else small),
        no_confusion
        or tuple(
            tuple(int(count) if shown else small for count, shown in zip(*row, strict=True))
            for row in zip(confusion, found.cells, strict=True)
        ),
        no_confusion
        or {
            name: int(confusion[:, k].sum() - confusion[k, k]) if found.columns[k] else small
            for k, name in enumerate(classes)
        },
    )


def _binned(
    logits: LogitArray,
    scores: statistics.Scores,
    labels: LabelArray,
    *,
    classes: Sequence[str],
    bins: Sequence[Starts],
) -> dict[str, BinnedScores]:
    """The scores of each class in its bins."""
    p = softmax(logits, axis=1)
    found = {}
    for k, (name, starts) in enumerate(zip(classes, bins, strict=True)):
        counted = statistics.counted(scores[:, k], positive=labels == k, edges=EDGES, starts=starts)
        cell = statistics.cells_of(scores[:, k], edges=EDGES)
        sums = np.bincount(cell, weights=p[:, k], minlength=statistics.CELLS)
        found[name] = BinnedScores(
            starts=counted.starts,
            positives=counted.positives,
            negatives=counted.negatives,
            sums=tuple(rounded(x) for x in counted.sums),
            probabilities=tuple(rounded(float(x)) for x in np.add.reduceat(sums, starts)),
        )
    return found
