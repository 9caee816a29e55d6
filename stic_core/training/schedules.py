"""Learning rate and stopping by round (or epoch), as functions of what was seen so far.

No state to save: who resumes a run has its losses, and they give the same answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from stic_core.config import TrainingConfig

PLATEAU_FACTOR = 0.1
"""Keras' ReduceLROnPlateau divides by ten."""

_LEAST = 1e-4  # an improvement smaller than this is none: Keras' min_delta


def rate_of_round(
    config: TrainingConfig, *, number: int, rounds: int, losses: Sequence[float | None]
) -> float:
    """The learning rate of a round.

    Args:
        number: of the round, from 1.
        rounds: of the whole run.
        losses: validation loss of the models after each round before it; None where unknown.

    Example:
        >>> rate_of_round(TrainingConfig(warmup_rounds=3), number=2, rounds=9, losses=[])
        0.0005
    """
    rate = config.learning_rate
    if number <= config.warmup_rounds:
        return rate * number / (config.warmup_rounds + 1)
    if config.schedule == "cosine":
        share = (number - 1 - config.warmup_rounds) / max(1, rounds - config.warmup_rounds)
        return rate * 0.5 * (1 + math.cos(math.pi * share))
    if config.schedule == "plateau":
        return rate * PLATEAU_FACTOR ** _plateaus(losses, patience=config.plateau_rounds)
    return rate


def should_stop(config: TrainingConfig, losses: Sequence[float | None]) -> bool:
    """Whether the last `early_stopping` losses brought nothing better than those before."""
    if config.early_stopping is None:
        return False
    return _since_best(losses) >= config.early_stopping


def _plateaus(losses: Sequence[float | None], *, patience: int) -> int:
    """How often `patience` losses in a row were no better; the count starts again after each."""
    best, waited, found = math.inf, 0, 0
    for loss in losses:
        if loss is None:
            continue
        if loss < best - _LEAST:
            best, waited = loss, 0
        else:
            waited += 1
            if waited == patience:
                found, waited = found + 1, 0
    return found


def _since_best(losses: Sequence[float | None]) -> int:
    best, waited = math.inf, 0
    for loss in losses:
        if loss is not None:
            best, waited = (loss, 0) if loss < best else (best, waited + 1)
    return waited
