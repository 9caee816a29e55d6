"""What one site releases of a model's evaluation: aggregates under its own policy.

Patients' scores go in, a frozen report (`reports`) comes out; nothing in it belongs to one patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from stic_core import statistics
from stic_core.config import PolicyConfig
from stic_core.errors import DataError
from stic_core.evaluation.reports import (
    Accuracy,
    BinnedScores,
    CalibrationSums,
    HeldOutReport,
    ValidationReport,
)
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
    NotEstimable,
    Suppressed,
)

LogitArray: TypeAlias = npt.NDArray[np.floating]
"""(n, k) logits of a model."""

LabelArray: TypeAlias = npt.NDArray[np.integer]
"""(n,) class indices in the order of the task's classes."""

EstimateT = TypeVar("EstimateT", bound=Estimate)


@dataclass(frozen=True, slots=True)
class Near:
    """What of a model's figures is nearly that of a model looked at before (`privacy.looks`).

    Args:
        answers: its predicted classes, which accuracy and confusion count.
        scores: the bins of its scores.
    """

    answers: bool = False
    scores: bool = False


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
