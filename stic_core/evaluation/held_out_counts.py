"""A model's held-out evaluation as whole numbers that add up over sites: what a pooled evaluation sends under masks.

Nothing in it is rounded to a site's `min_cell`: no site's numbers are ever seen, only their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from scipy.special import expit, softmax

from stic_core import statistics
from stic_core.errors import FederationError
from stic_core.evaluation.document import Figures
from stic_core.evaluation.pooling import pool
from stic_core.evaluation.reports import Accuracy, BinnedScores, CalibrationSums, HeldOutReport
from stic_core.evaluation.site import LabelArray, LogitArray, checked
from stic_core.privacy.release import NOBODY
from stic_core.statistics import CELLS, EDGES, LOSS_CAP, SCORE_GRID, NotEstimable, PooledScores

Counts = npt.NDArray[np.int64]

STEPS = 1000
"""Sums of Brier scores and of log losses are counted in thousandths."""

_NO_SCORES = NotEstimable("needs the scores themselves")


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutCounts:
    """One model on held-out patients of one site, or of several together.

    Args:
        confusion: (k, k), rows are true classes.
        positives, negatives: (k, CELLS) patients of the class and of the others in each cell of `SCORE_GRID`.
        brier, log_loss: sums over patients, in steps of 1 / `STEPS`.
    """

    confusion: Counts
    positives: Counts
    negatives: Counts
    brier: int
    log_loss: int

    @property
    def n(self) -> int:
        """Patients."""
        return int(self.confusion.sum())

    @property
    def vector(self) -> Counts:
        """All of them in one row of `size_of(k)` numbers from 0."""
        parts = (self.confusion, self.positives, self.negatives, [self.brier, self.log_loss])
        return np.concatenate([np.ravel(part) for part in parts]).astype(np.int64)

    @classmethod
    def of_vector(cls, vector: Counts, *, classes: int) -> HeldOutCounts:
        """The counts of `vector`, or of a sum of such rows."""
        k = classes
        table, positives, negatives, sums = np.split(
            np.asarray(vector, dtype=np.int64), np.cumsum([k * k, k * CELLS, k * CELLS])
        )
        return cls(
            table.reshape(k, k),
            positives.reshape(k, CELLS),
            negatives.reshape(k, CELLS),
            int(sums[0]),
            int(sums[1]),
        )


def size_of(classes: int) -> int:
    """How many numbers a site sends for a task of so many classes."""
    return classes**2 + 2 * classes * CELLS + 2


def held_out_counts(logits: LogitArray, labels: LabelArray, *, classes: Sequence[str]) -> HeldOutCounts:
    """Count one site's held-out patients.

    Args:
        logits: (n, k); n may be 0.
        labels: (n,) class indices.
        classes: the task's, k of them.

    Raises:
        DataError: a logit is not finite, a label is no class, or shapes disagree.
    """
    logits, labels = checked(logits, labels, classes=tuple(classes))
    k = len(classes)
    confusion = np.bincount(labels * k + logits.argmax(axis=1), minlength=k * k).reshape(k, k)
    cells = [
        statistics.cells_of(scores, edges=SCORE_GRID)
        for scores in statistics.margins(logits).reshape(-1, k).T
    ]

    def counted(*, of_class: bool) -> Counts:
        masks = [(labels == index) == of_class for index in range(k)]
        return np.stack(
            [np.bincount(cell[mask], minlength=CELLS) for cell, mask in zip(cells, masks, strict=True)]
        )

    return HeldOutCounts(
        confusion=confusion,
        positives=counted(of_class=True),
        negatives=counted(of_class=False),
        brier=round(STEPS * statistics.brier_sum(softmax(logits, axis=1), labels=labels)),
        log_loss=round(STEPS * statistics.capped_loss_sum(logits, labels=labels)),
    )


def summed_figures(counts: HeldOutCounts, *, classes: Sequence[str], patients: int) -> Figures:
    """The figures of all sites' patients together, from the sum of their counts.

    AUCs are exact but for scores in one cell of the grid, which count as ties; probabilities are those of the
    middle of a cell.

    Args:
        counts: over all sites in the sum.
        classes: of the task, in its order.
        patients: held-out patients that these sites announced.

    Raises:
        FederationError: numbers that cannot be true of so many patients: a site sent something else.
    """
    rows = counts.confusion.sum(axis=1)
    fits = (
        counts.n == patients
        and np.array_equal(counts.positives.sum(axis=1), rows)
        and np.array_equal(counts.negatives.sum(axis=1), counts.n - rows)
        and counts.brier <= 2 * STEPS * patients + STEPS
        and counts.log_loss <= LOSS_CAP * STEPS * patients + STEPS
    )
    if not fits:
        raise _not_honest(got=f"counts of {counts.n} patients that contradict each other", patients=patients)
    try:
        report = _report(counts, classes=tuple(classes))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise _not_honest(got=first["msg"].removeprefix("Value error, "), patients=patients) from None
    scores = (
        PooledScores.of_counts(positives, negatives, edges=SCORE_GRID)
        for positives, negatives in zip(counts.positives, counts.negatives, strict=True)
    )
    return pool(
        {"pooled": report},
        summed={
            name: found
            for name, found in zip(classes, scores, strict=True)
            if isinstance(found, PooledScores)
        },
    )


def _not_honest(*, got: str, patients: int) -> FederationError:
    return FederationError(
        "the sum of the held-out evaluation is not one of honest counts",
        got=got,
        expected=f"those of {patients} held-out patients, as the hospitals announced",
        advice="One of the hospitals sent something else; masks hide which. Compare the sites' installations.",
    )


def _report(counts: HeldOutCounts, *, classes: tuple[str, ...]) -> HeldOutReport:
    table, n = counts.confusion, counts.n
    nothing = NOBODY if n == 0 else None
    no_auc = nothing or _NO_SCORES
    wrong = table.sum(axis=0) - np.diag(table)
    return HeldOutReport(
        n=n,
        classes=classes,
        class_counts=nothing
        or {name: int(count) for name, count in zip(classes, table.sum(axis=1), strict=True)},
        accuracy=nothing or Accuracy(correct=int(np.trace(table)), total=n),
        confusion=nothing or tuple(tuple(int(cell) for cell in row) for row in table),
        false_positives=nothing or {name: int(count) for name, count in zip(classes, wrong, strict=True)},
        auc=dict.fromkeys(classes, no_auc),
        auc_micro=no_auc,
        auc_macro=no_auc,
        auc_macro_interpolated=no_auc,
        histograms=nothing
        or {
            name: _binned(positives, negatives)
            for name, positives, negatives in zip(classes, counts.positives, counts.negatives, strict=True)
        },
        calibration=nothing
        or CalibrationSums(brier_sum=counts.brier / STEPS, log_loss_sum=counts.log_loss / STEPS),
    )


def _binned(positives: Counts, negatives: Counts) -> BinnedScores:
    """One class's cells, each with the scores in its middle; the open ones have their inner end."""
    held = positives + negatives
    edges = np.asarray(EDGES)
    centres = np.r_[edges[0], (edges[1:] + edges[:-1]) / 2, edges[-1]]
    return BinnedScores(
        starts=tuple(range(CELLS)),
        positives=tuple(int(x) for x in positives),
        negatives=tuple(int(x) for x in negatives),
        sums=tuple(float(x) for x in held * centres),
        probabilities=tuple(float(x) for x in held * expit(centres)),
    )
