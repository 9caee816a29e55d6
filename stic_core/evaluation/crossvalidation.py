"""Cross-validation within one site: stratified folds by patient, and ROC curves averaged over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stic_core.statistics.auc import Auc
from stic_core.statistics.multiclass import one_vs_rest, roc_points
from stic_core.tensors.array_types import LabelVector, ScoreMatrix

FPR_GRID = np.linspace(0.0, 1.0, 101)
"""False-positive rates at which the curves of the folds are averaged."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Positions of the patients who train, who are watched in training, and who are held out."""

    train: LabelVector
    val: LabelVector
    test: LabelVector


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A fold's held-out patients under its model.

    Args:
        accuracy: share of patients whose highest score is their class's.
        aucs: of each class against the others; None where a side is empty.
        curves: true-positive rates at `FPR_GRID`, one row per class; at 0 the highest that needs no false positive.
    """

    accuracy: float
    aucs: tuple[float | None, ...]
    curves: tuple[tuple[float, ...], ...]


def stratified_folds(labels: LabelVector, *, folds: int, seed: int, val_share: float) -> list[Fold]:
    """Deal the patients out so that each fold has each class in equal shares (to one patient).

    Args:
        labels: class indices, one a patient.
        val_share: of the patients who are not held out, those who are watched in training.
    """
    rng = np.random.default_rng([seed, folds])
    place = np.empty(len(labels), dtype=np.int64)
    dealt = 0
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        # Each class goes on where the one before ended, so that small classes do not all
        # give their odd patient to the first fold.
        place[rows] = (np.arange(len(rows)) + dealt) % folds
        dealt += len(rows)
    out = []
    for fold in range(folds):
        watched: list[np.ndarray] = []
        for label in np.unique(labels):
            rows = rng.permutation(np.flatnonzero((labels == label) & (place != fold)))
            watched.append(rows[: min(max(1, round(val_share * len(rows))), max(0, len(rows) - 1))])
        val = np.sort(np.concatenate(watched))
        rest = np.setdiff1d(np.flatnonzero(place != fold), val)
        out.append(Fold(rest, val, np.flatnonzero(place == fold)))
    return out


def roc_at_grid(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """A ROC curve's true-positive rates at `FPR_GRID`, between its points on straight lines.

    Equal scores are one point, so that ties make a slope and not a step. Where several points share a
    rate it is the highest, at 0 too: from (0, 0) a curve rises vertically, and a perfect one has area 1.

    Args:
        scores: of one class.
        positive: whether each patient is of the class; both sides not empty.
    """
    return np.interp(FPR_GRID, *roc_points(scores, positive=positive))


def judge(probabilities: ScoreMatrix, labels: LabelVector) -> FoldResult:
    """Accuracy, AUCs and curves of a fold's held-out patients.

    Args:
        probabilities: softmax scores, n by k.
    """
    found = one_vs_rest(probabilities, labels=labels)
    aucs = tuple(auc.value if isinstance(auc, Auc) else None for auc in found)
    curves = tuple(
        tuple(roc_at_grid(probabilities[:, label], labels == label).tolist()) if auc is not None else ()
        for label, auc in enumerate(aucs)
    )
    return FoldResult(float((probabilities.argmax(1) == labels).mean()), aucs, curves)


def summarise(results: Sequence[FoldResult], *, classes: Sequence[str]) -> dict[str, object]:
    """Means and standard deviations over the folds, and the mean curve of each class.

    The folds share training patients, so the deviation describes the folds and is no
    standard error.
    """
    out: dict[str, object] = {
        "folds": len(results),
        "accuracy": _spread([result.accuracy for result in results]),
        "auc": {},
    }
    aucs, rocs = {}, {}
    for at, name in enumerate(classes):
        values = [auc for result in results if (auc := result.aucs[at]) is not None]
        curves = [result.curves[at] for result in results if result.curves[at]]
        aucs[name] = _spread(values)
        mean = np.mean(curves, axis=0) if curves else np.empty(0)
        rocs[name] = {
            "true_positive_rate": [0.0, *mean.round(6).tolist()] if curves else [],
            "auc_of_mean": float(np.trapezoid(mean, FPR_GRID)) if curves else None,
        }
    whole = [
        float(np.mean([auc for auc in result.aucs if auc is not None]))
        for result in results
        if None not in result.aucs
    ]
    return out | {
        "auc": aucs,
        "auc_macro": _spread(whole),
        "mean_roc": {"false_positive_rate": [0.0, *FPR_GRID.round(4).tolist()], "classes": rocs},
    }


def _spread(values: Sequence[float]) -> dict[str, object]:
    if not values:
        return {"mean": None, "sd": None, "values": []}
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": deviation, "values": [round(v, 6) for v in values]}
