"""The model's scores of the site's held-out patients: computed here, or read from predict's table."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stic_core.config import SiteConfig
from stic_core.data.dataset import SiteDataset
from stic_core.errors import DataError
from stic_core.models.saved import SavedModel
from stic_core.tensors.array_types import LabelVector

PREFIX = "score_"
_BATCH = 32
_LEAST = 5e-7
"""Half of predict's last digit: what a score of 0.000000 may have been."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelScores:
    """What the model says of the held-out patients, in the dataset's order.

    Args:
        logits: (n, k), up to a constant per patient.
        rounded: they come from a table, so close scores may be ties.
    """

    logits: np.ndarray
    rounded: bool


def computed_scores(
    config: SiteConfig,
    saved: SavedModel,
    dataset: SiteDataset,
    *,
    rows: LabelVector,
    progress: Callable[[int, int], None] | None = None,
) -> ModelScores:
    """Score prepared patients with a model.

    Args:
        rows: of the dataset.

    Raises:
        DataError: images prepared otherwise than the model's, or a model of another version.
        WeightsError: another backbone than the model's.
    """
    from stic_core import prediction  # it imports torch, which takes seconds

    description = saved.description
    if dataset.image != description.image:
        raise DataError(
            "the site's images were not prepared as the model's were",
            got=f"crop_mm: {dataset.image.crop_mm}",
            expected=f"crop_mm: {description.image.crop_mm}",
            advice="Set dataset.image.crop_mm in site.yaml and prepare again.",
        )
    model = prediction.restore_model(
        saved,
        device=config.device,
        precision=config.precision,
        backbone_weights=config.backbone_weights.get(description.architecture.backbone),
    )
    parts = []
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        parts.append(prediction.logits(model, dataset.images[part], dataset.clinical[part]))
        if progress:
            progress(min(start + _BATCH, len(rows)), len(rows))
    return ModelScores(np.concatenate(parts), rounded=False)


def read_scores(path: Path, *, subjects: list[str], classes: tuple[str, ...]) -> ModelScores:
    """Scores from the table that `predict` writes, of these patients; others in it are passed over.

    Raises:
        DataError: names the columns, or how many held-out patients have no score.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines)
            heading, rows = table.fieldnames or (), list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} cannot be read", got=type(error).__name__) from None
    wanted = ("subject_id", *(PREFIX + name for name in classes))
    found = tuple(name for name in heading if name == "subject_id" or name.startswith(PREFIX))
    if sorted(found) != sorted(wanted):
        raise DataError(f"{path.name}: columns", got=", ".join(found), expected=", ".join(wanted))
    scores = {}
    for number, row in enumerate(rows, start=2):
        if row["subject_id"] in scores:
            raise DataError(f"{path.name}, line {number}: a second row for this subject")
        scores[row["subject_id"]] = _probabilities(row, wanted[1:], where=f"{path.name}, line {number}")
    known = [scores[subject] for subject in subjects if subject in scores]
    if len(known) < len(subjects):
        raise DataError(
            f"{path.name}: scores do not cover the held-out patients",
            got=len(known),
            expected=len(subjects),
            advice="Run predict on the manifest's held-out patients, or name the model with --model.",
        )
    return ModelScores(np.log(np.clip(known, _LEAST, 1.0)), rounded=True)


def _probabilities(row: dict[str, str], columns: tuple[str, ...], *, where: str) -> list[float]:
    try:
        values = [float(row[name]) for name in columns]
    except (TypeError, ValueError):
        values = []
    if not values or not all(0 <= value <= 1 for value in values) or abs(sum(values) - 1) > 1e-3:
        raise DataError(f"{where}: invalid scores", expected="numbers from 0 to 1 that add up to 1")
    return values
