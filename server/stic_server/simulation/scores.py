"""Macro AUC from the scores themselves, which only a simulation may put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stic_core import statistics
from stic_core.statistics import Estimate
from stic_core.tensors.array_types import LabelVector, ScoreMatrix

SiteScores: TypeAlias = tuple[ScoreMatrix, LabelVector]
"""Logits of one site's held-out patients, and their class indices."""

Scores: TypeAlias = Mapping[str, SiteScores]
"""Of one model, by site."""


def macro_auc(scores: Scores) -> float | None:
    """Macro AUC over the patients of all sites ranked together; None where a class has none."""
    logits = np.concatenate([part for part, _ in scores.values()])
    labels = np.concatenate([part for _, part in scores.values()])
    if not len(labels):
        return None
    found = statistics.macro(statistics.margins(logits), labels=labels)
    return found.value if isinstance(found, Estimate) else None


def rights(scores: Scores) -> npt.NDArray[np.bool_]:
    """Whether each patient's most probable class is the true one, over all sites in the order of their names."""
    return np.concatenate([scores[site][0].argmax(axis=1) == scores[site][1] for site in sorted(scores)])
