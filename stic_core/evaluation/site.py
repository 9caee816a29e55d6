"""What one site releases of a model's evaluation: aggregates under its own policy.

Patients' scores go in, a frozen report comes out; nothing in it belongs to one patient.
What the policy keeps back is a `Suppressed`, what the patients cannot give a
`NotEstimable`, both with the reason; a figure is never missing and never 0 for want of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import softmax

from stic_core import statistics
from stic_core.config import PolicyConfig
from stic_core.errors import DataError
from stic_core.evaluation import consistency
from stic_core.privacy.release import (
    NOBODY,
    released_confusion,
    small_class,
    too_few,
    too_few_for_auc,
    withheld,
)
from stic_core.statistics import (
    Absent,
    Auc,
    Estimate,
    Group,
    NotEstimable,
    ScoreHistogram,
    Suppressed,
    ValidationHistogram,
)
from stic_core.statistics.bounds import Count, NotNegative, Share
from stic_core.statistics.values import FORBID

LogitArray: TypeAlias = npt.NDArray[np.floating]
"""(n, k) logits of a model."""

LabelArray: TypeAlias = npt.NDArray[np.integer]
"""(n,) class indices in the order of the task's classes."""


@dataclass(frozen=True)
class Accuracy:
    """Patients whose most probable class is the true one."""

    correct: Count
    total: Count

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total:
            raise ValueError("accuracy: expected 0 <= correct <= total")


class _Released(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CalibrationSums(_Released):
    """Sums from which calibration is computed, for one site or for several.

    Args:
        brier_sum: squared error over all classes, summed over patients.
        log_loss_sum: -log of the true class's probability, summed over patients.
        confidence: groups by the probability of the predicted class; a hit is a right one.
        classes: groups by the probability of each class; a hit is a patient of the class.
    """

    brier_sum: NotNegative
    log_loss_sum: NotNegative
    confidence: tuple[Group, ...]
    classes: dict[str, tuple[Group, ...]]


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
    auc: dict[str, Auc | Absent]
    auc_micro: Estimate | Absent
    auc_macro: Estimate | Absent
    auc_macro_interpolated: Share | Absent
    histograms: dict[str, ScoreHistogram] | Absent
    calibration: CalibrationSums | Absent

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = set(self.classes)
        for mapping in (self.auc, self.class_counts, self.histograms):
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
        n, counts = self.n, self.class_counts
        right = self.accuracy.correct if isinstance(self.accuracy, Accuracy) else None
        consistency.check_nobody(
            n,
            [
                *self.auc.values(),
                *(self.auc_micro, self.auc_macro, self.auc_macro_interpolated),
                *(self.accuracy, self.confusion, self.histograms, self.calibration),
            ],
        )
        if isinstance(self.confusion, tuple):
            consistency.check_confusion(self.confusion, n=n, counts=self._ordered(counts), correct=right)
        consistency.check_aucs(self.auc, n=n, counts=counts)
        consistency.check_macro(self.auc, macro=self.auc_macro, interpolated=self.auc_macro_interpolated)
        if isinstance(self.histograms, dict):
            consistency.check_histograms(
                self.histograms, n=n, counts=counts, aucs=self.auc, micro=self.auc_micro
            )
        if isinstance(sums := self.calibration, CalibrationSums):
            consistency.check_brier(sums.brier_sum, n=n)
            consistency.check_groups(sums.confidence, n=n, hits=right)
            if set(sums.classes) != set(self.classes):
                raise ValueError("calibration: other classes")
            for name, groups in sums.classes.items():
                hits = counts[name] if isinstance(counts, dict) else None
                consistency.check_groups(groups, n=n, hits=hits)

    def _ordered(self, counts: dict[str, int] | Absent) -> dict[str, int] | Absent:
        return {name: counts[name] for name in self.classes} if isinstance(counts, dict) else counts


class ValidationReport(_Released):
    """One site's scalars of a round, and, where asked, its histograms for the edges.

    Args:
        n: validation patients.
        loss_sum: -log of the true class's probability, summed over patients.
        correct: patients whose most probable class is the true one.
        histograms: scores of each class on the fixed grid; None where they weren't asked for.
    """

    n: Count
    loss_sum: NotNegative | Absent
    correct: Count | Absent
    histograms: dict[str, ValidationHistogram] | Absent | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        consistency.check_nobody(self.n, [self.loss_sum, self.correct])
        if isinstance(self.correct, int) and self.correct > self.n:
            raise ValueError("more patients are right than there are")
        if isinstance(self.histograms, dict):
            for histogram in self.histograms.values():
                if sum(histogram.counts) != self.n:
                    raise ValueError("a histogram is over other patients")
        return self


def site_report(
    logits: LogitArray,
    labels: LabelArray,
    *,
    classes: Sequence[str],
    edges: Mapping[str, Sequence[float]],
    policy: PolicyConfig,
) -> HeldOutReport:
    """Evaluate one model on one site's held-out patients.

    Args:
        logits: (n, k); n may be 0.
        labels: (n,) class indices.
        classes: the task's, k of them.
        edges: inner edges of the score bins of each class, fixed beforehand.
        policy: `min_cell` and `min_class` of this site.

    Raises:
        DataError: a logit is not finite, a label is no class, or shapes disagree.
    """
    classes = tuple(classes)
    logits, labels = checked(logits, labels, classes=classes)
    n = len(labels)
    if (nothing := too_few(n, policy=policy)) is not None:
        # One patient has no ROC curve, whatever the policy; saying so tells nothing of them.
        no_auc = NotEstimable("one patient cannot give an AUC") if n == 1 else nothing
        return HeldOutReport(
            n=n,
            classes=classes,
            class_counts=nothing,
            accuracy=nothing,
            confusion=nothing,
            auc=dict.fromkeys(classes, no_auc),
            auc_micro=no_auc,
            auc_macro=no_auc,
            auc_macro_interpolated=no_auc,
            histograms=nothing,
            calibration=nothing,
        )
    scores, predicted = statistics.margins(logits), logits.argmax(axis=1)
    counts = np.bincount(labels, minlength=len(classes))
    no_auc = withheld("auc", policy=policy)
    auc = {
        name: no_auc or _class_auc(scores[:, k], positive=labels == k, policy=policy)
        for k, name in enumerate(classes)
    }
    missing = next((value for value in auc.values() if not isinstance(value, Auc)), None)
    return HeldOutReport(
        n=n,
        classes=classes,
        class_counts={name: int(count) for name, count in zip(classes, counts, strict=True)},
        accuracy=withheld("accuracy", policy=policy)
        or Accuracy(correct=int((predicted == labels).sum()), total=n),
        confusion=withheld("confusion", policy=policy)
        or _confusion(labels, predicted, k=len(classes), policy=policy),
        auc=auc,
        auc_micro=no_auc or too_few_for_auc(n, policy=policy) or statistics.micro(scores, labels=labels),
        auc_macro=statistics.macro(scores, labels=labels) if missing is None else _incomplete(missing),
        auc_macro_interpolated=statistics.macro_interpolated(scores, labels=labels)
        if missing is None
        else _incomplete(missing),
        histograms=withheld("histograms", policy=policy)
        or {
            name: statistics.score_histogram(
                scores[:, k], positive=labels == k, edges=edges[name], min_cell=policy.min_cell
            )
            for k, name in enumerate(classes)
        },
        calibration=withheld("calibration", policy=policy)
        or _calibration(logits, labels, classes=classes, policy=policy),
    )


def validation_report(
    logits: LogitArray,
    labels: LabelArray,
    *,
    classes: Sequence[str],
    policy: PolicyConfig,
    histograms: bool = False,
) -> ValidationReport:
    """Validate one model on one site's validation patients.

    Args:
        logits: (n, k); n may be 0.
        labels: (n,) class indices.
        classes: the task's, k of them.
        policy: `min_cell` of this site.
        histograms: also count scores, for the edges of the federated ROC.

    Raises:
        DataError: as for `site_report`.
    """
    classes = tuple(classes)
    logits, labels = checked(logits, labels, classes=classes)
    nothing = too_few(len(labels), policy=policy)
    if nothing is NOBODY:
        nothing = NotEstimable("no validation patients")
    if nothing is not None:
        return ValidationReport(
            n=len(labels), loss_sum=nothing, correct=nothing, histograms=nothing if histograms else None
        )
    counted = None
    if histograms:
        scores = statistics.margins(logits)
        counted = withheld("histograms", policy=policy) or {
            name: statistics.validation_histogram(scores[:, k], min_cell=policy.min_cell)
            for k, name in enumerate(classes)
        }
    no_scalars = withheld("validation", policy=policy)
    return ValidationReport(
        n=len(labels),
        loss_sum=no_scalars or statistics.log_loss_sum(logits, labels=labels),
        correct=no_scalars or int((logits.argmax(axis=1) == labels).sum()),
        histograms=counted,
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
    return small_class(positives=auc.positives, negatives=auc.negatives, policy=policy) or auc


def _incomplete(missing: Absent) -> Absent:
    return type(missing)("the AUC of a class is missing: " + missing.reason)


def _confusion(
    labels: LabelArray, predicted: LabelArray, *, k: int, policy: PolicyConfig
) -> tuple[tuple[int | Suppressed, ...], ...]:
    counts = np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k)
    return released_confusion(counts, policy=policy)


def _calibration(
    logits: LogitArray, labels: LabelArray, *, classes: Sequence[str], policy: PolicyConfig
) -> CalibrationSums:
    p = softmax(logits, axis=1)
    return CalibrationSums(
        brier_sum=statistics.brier_sum(p, labels=labels),
        log_loss_sum=statistics.log_loss_sum(logits, labels=labels),
        confidence=statistics.calibration_groups(
            p.max(axis=1), hit=p.argmax(axis=1) == labels, min_cell=policy.min_cell
        ),
        classes={
            name: statistics.calibration_groups(p[:, k], hit=labels == k, min_cell=policy.min_cell)
            for k, name in enumerate(classes)
        },
    )
