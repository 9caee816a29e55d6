"""Logits of models that do not exist, for tests of statistics, evaluation and report."""

from __future__ import annotations

import numpy as np


def sample(seed: int, n: int = 90, *, k: int = 3, sharpness: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, k) and labels (n,) of a middling model."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.2
    return logits * sharpness, labels


def held_out(
    seed: int, counts: tuple[int, ...], *, skill: float = 1.6, sharpness: float = 1.3, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels with so many patients of each class.

    Args:
        seed: equal seeds give equal patients.
        counts: patients of each class.
        skill: how far the true class's logit lies above the others, in their standard deviations.
        sharpness: factor on all logits; too high is overconfident.
        shift: added to the first class's logit, as another scanner may do.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    logits = rng.normal(size=(len(labels), len(counts)))
    logits[np.arange(len(labels)), labels] += skill
    logits *= sharpness
    logits[:, 0] += shift
    return logits, labels
