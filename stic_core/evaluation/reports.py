"""What a site's evaluation says, as it travels: aggregates, each with bounds, consistent among themselves.

What a policy keeps back is a `Suppressed`, what the patients cannot give a `NotEstimable`, both
with the reason; a figure is never missing and never 0 for want of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stic_core.evaluation import consistency
from stic_core.statistics import EDGES, LOSS_CAP, Absent, Auc, Estimate, Group, ScoreHistogram, Suppressed
from stic_core.statistics.bounds import Count, Finite, NotNegative, Share
from stic_core.statistics.values import FORBID


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
        auc_macro_interpolated: the paper's macro average, biased upward by some thousandths.
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
            consistency.check_sum(sums.log_loss_sum, n=n, most=LOSS_CAP)


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
            consistency.check_sum(self.loss_sum, n=self.n, most=LOSS_CAP)
        return self
