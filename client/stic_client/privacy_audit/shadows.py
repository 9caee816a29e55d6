"""Shadow models: heads trained here on random halves of this site's own patients, and thrown away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stic_core.config import ModelConfig, TrainingConfig
from stic_core.models.stic import head_of
from stic_core.tensors.array_types import LabelVector
from stic_core.training.batches import FeatureBatches
from stic_core.training.setup import TrainingSetup
from stic_core.training.trainer import Trainer, predict

EPOCHS = 40
"""Of each shadow model: by then a head over cached features fits its training patients."""


@dataclass(frozen=True, slots=True, eq=False)
class Shadows:
    """Shadow models, as far as they are kept.

    Args:
        logits: (s, n, k) of each patient under each of them.
        inside: (s, n) whether it was trained on the patient.
    """

    logits: npt.NDArray[np.float64]
    inside: npt.NDArray[np.bool_]


def together(train: FeatureBatches, held_out: FeatureBatches) -> FeatureBatches:
    """Training and held-out patients as one set in their plain views, the training patients first."""
    views = [
        part.views[0] if part.rows is None else np.asarray(part.views[0])[part.rows]
        for part in (train, held_out)
    ]
    return FeatureBatches(
        (np.concatenate(views),),
        np.concatenate([train.clinical, held_out.clinical]),
        np.concatenate([train.labels, held_out.labels]),
    )


def halves(strata: LabelVector, *, pairs: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Random halves and their complements, (2 x pairs, n): each patient is in one of the two.

    Args:
        strata: (n,) a half takes as much of each as of any other, so that no half lacks a class.
    """
    out = np.zeros((2 * pairs, len(strata)), dtype=np.bool_)
    for pair in range(pairs):
        odd = rng.integers(2)
        for stratum in np.unique(strata):
            rows = rng.permutation(np.flatnonzero(strata == stratum))
            take = (len(rows) + odd) // 2
            odd = (odd + len(rows)) % 2  # single patients left over go to either side in turn
            out[2 * pair, rows[:take]] = True
        out[2 * pair + 1] = ~out[2 * pair]
    return out


def train_shadows(
    setup: TrainingSetup,
    patients: FeatureBatches,
    *,
    strata: LabelVector,
    model: ModelConfig,
    training: TrainingConfig,
    classes: int,
    pairs: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> Shadows:
    """Train twice `pairs` heads, each on a half of the patients, with their plain views.

    Args:
        setup: of the audited model; its backbone's features are the shadow models' too.
        patients: as `together` gives them.
        strata: class and membership of each patient.
        model: architecture of the audited model.
        training: its optimiser, batch size and rate.
        classes: how many.
        progress: told shadow models done and in all.
    """
    rng = np.random.default_rng([seed, 1])
    inside = halves(strata, pairs=pairs, rng=rng)
    logits = []
    for number, half in enumerate(inside):
        head = head_of(model, classes=classes, seed=int(rng.integers(2**31)))
        chosen = patients.subset(np.flatnonzero(half))
        Trainer(head, chosen, config=training, seed=[seed, number, 2], device=setup.device).run(EPOCHS)
        logits.append(predict(head, patients, device=setup.device))
        progress(number + 1, len(inside))
    return Shadows(np.stack(logits), inside)
