"""What patient-level noise costs: macro AUC of phantom models at several epsilons, with a federation and without.

    python benchmarks/privacy.py --cohort /tmp/cohort --out benchmarks/results/privacy.json

The demo's two phantom centres are drawn once (112 and 104 training patients). For each seed, a federation and
each centre alone train from fresh weights of that seed and with its noise; all models are judged on the held-out
patients of both centres together. Larger hospitals are made by counting each patient `copies` times: they have a
large hospital's noise, and no more variety than a small one has, so their figures without noise do not rise.

A phantom result is a phantom result: it says what noise does to this model, and nothing of patients. What was
computed is kept, and the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from stic_core.config import ModelConfig, TrainingConfig
from stic_core.data.dataset import SUMMARY_FILE, load_dataset
from stic_core.models.parameters import get_flat, set_flat
from stic_core.models.stic import STICHead, build_head
from stic_core.phantom import DEMO_COUNTS
from stic_core.phantom.prepared import write_prepared
from stic_core.privacy.accounting import NoiseLevel, noise_for
from stic_core.statistics import Auc, log_loss_sum
from stic_core.statistics.multiclass import one_vs_rest
from stic_core.tasks import TASKS
from stic_core.tensors.flat import FlatArray
from stic_core.training.batches import FeatureBatches
from stic_core.training.objectives import CrossEntropy
from stic_core.training.private_gradients import PrivateGradients
from stic_core.training.setup import ComputeConfig, assemble
from stic_core.training.trainer import Trainer, predict

TASK = TASKS["malignant"]
CENTRES = ("center1", "center2")
SIZES = ((0, 1), (28, 1), (0, 4))
"""Training patients per centre (0 is all of them), and how often each is counted."""

EPSILONS = (1.0, 3.0, 8.0, math.inf)
DELTA = 1e-4
"""Below 1 / patients of every centre."""

VIEWS = 4
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Settings:
    """How a model trains; chosen on seed 99, for each of the two."""

    rounds: int
    local_epochs: int
    batch_size: int
    learning_rate: float
    max_grad_norm: float = 1.0


PLAIN = Settings(rounds=30, local_epochs=2, batch_size=32, learning_rate=1e-3)
NOISY = Settings(rounds=5, local_epochs=2, batch_size=128, learning_rate=2e-2)
"""Few and large steps: each costs privacy."""


@dataclass(frozen=True)
class Centre:
    """One centre's patients by split, over cached features."""

    train: FeatureBatches
    val: FeatureBatches
    test: FeatureBatches

    def some(self, patients: int, *, copies: int, rng: np.random.Generator) -> Centre:
        """So many of its training patients (0: all), each counted so often, and as large a share for validation."""
        everyone = len(self.train)
        chosen = rng.permutation(everyone)[: patients or everyone]
        watched = rng.permutation(len(self.val))[: round(len(self.val) * len(chosen) / everyone)]
        return Centre(self.train.subset(np.tile(chosen, copies)), self.val.subset(watched), self.test)


def centre_of(folder: Path) -> Centre:
    """A drawn centre with its features, computed where they are not cached."""
    setup = assemble(
        load_dataset(folder),
        model=ModelConfig(backbone="tiny"),
        training=TrainingConfig(views=VIEWS),
        task=TASK,
        seed=0,
        compute=ComputeConfig(CPU),
    )
    found = [setup.batches[split] for split in ("train", "val", "test")]
    train, val, test = (part for part in found if isinstance(part, FeatureBatches))
    return Centre(train, val, test)


def fresh(centre: Centre, *, seed: int) -> STICHead:
    """A head with the seed's first weights."""
    channels, grid = centre.train.views[0].shape[2:4]
    return build_head(channels=channels, classes=len(TASK.classes), seed=seed, grid=grid)


def noise_of(patients: int, *, epsilon: float, settings: Settings) -> tuple[NoiseLevel, int] | None:
    """Noise for a whole training of so many patients, and steps per round; None adds none."""
    if math.isinf(epsilon):
        return None
    rate = min(1.0, settings.batch_size / patients)
    steps = math.ceil(settings.local_epochs / rate)
    sigma = noise_for(epsilon, delta=DELTA, sample_rate=rate, steps=steps * settings.rounds)
    return NoiseLevel(rate, sigma, settings.max_grad_norm), steps


def train(centres: Sequence[Centre], *, epsilon: float, seed: int, settings: Settings) -> FlatArray:
    """FedAvg over the centres, which is plain training of one; the best round by their validation patients."""
    config = TrainingConfig(batch_size=settings.batch_size, learning_rate=settings.learning_rate)
    head = fresh(centres[0], seed=seed)
    shared, best, best_loss = get_flat(head), get_flat(head), math.inf
    sizes = np.array([len(one.train) for one in centres], dtype=np.float64)
    for number in range(1, settings.rounds + 1):
        trained = []
        for place, one in enumerate(centres):
            set_flat(head, shared)
            noise = noise_of(len(one.train), epsilon=epsilon, settings=settings)
            gradients = None
            if noise is not None:
                gradients = PrivateGradients(
                    head,
                    one.train,
                    objective=CrossEntropy(head, one.train.labels, config=config, device=CPU),
                    level=noise[0],
                    secret=hashlib.sha256(f"benchmark {seed}".encode()).digest(),
                    label=f"{len(centres)} {place} {len(one.train)} {epsilon} {number}",
                    device=CPU,
                )
            trainer = Trainer(
                head, one.train, config=config, seed=[seed, number, place], device=CPU, gradients=gradients
            )
            trainer.run(settings.local_epochs, steps=None if noise is None else noise[1])
            trained.append(get_flat(head))
        shared = np.average(trained, axis=0, weights=sizes).astype(np.float32)
        set_flat(head, shared)
        logits = np.concatenate([predict(head, one.val, device=CPU) for one in centres])
        loss = log_loss_sum(logits, labels=np.concatenate([one.val.labels for one in centres]))
        if loss < best_loss:
            best, best_loss = shared, loss
    return best


def macro_auc(weights: FlatArray, centres: Sequence[Centre]) -> float:
    """On all held-out patients together."""
    head = fresh(centres[0], seed=0)
    set_flat(head, weights)
    scores = softmax(np.concatenate([predict(head, one.test, device=CPU) for one in centres]), axis=1)
    found = one_vs_rest(scores, labels=np.concatenate([one.test.labels for one in centres]))
    return float(np.mean([auc.value for auc in found if isinstance(auc, Auc)]))


def one_cell(
    centres: Sequence[Centre], *, patients: int, copies: int, epsilon: float, seed: int, settings: Settings
) -> dict[str, object]:
    """A seed's figures for one size and one epsilon."""
    rng = np.random.default_rng([seed, patients])
    some = [one.some(patients, copies=copies, rng=rng) for one in centres]
    noise = noise_of(len(some[0].train), epsilon=epsilon, settings=settings)
    return {
        "patients": [len(one.train) for one in some],
        "copies": copies,
        "epsilon": None if math.isinf(epsilon) else epsilon,
        "seed": seed,
        "noise_multiplier": None if noise is None else round(noise[0].noise_multiplier, 3),
        "steps": None if noise is None else noise[1] * settings.rounds,
        "federated": macro_auc(train(some, epsilon=epsilon, seed=seed, settings=settings), centres),
        "alone": [
            macro_auc(train([one], epsilon=epsilon, seed=seed, settings=settings), centres) for one in some
        ],
    }


def cohort(folder: Path) -> list[Centre]:
    """Both centres, drawn where they are not there."""
    for name in CENTRES:
        if not (folder / name / SUMMARY_FILE).exists():
            write_prepared(folder / name, centre=name, seed=0, counts=DEMO_COUNTS[name], crop_mm=160.0)
    return [centre_of(folder / name) for name in CENTRES]


def main() -> None:
    """Run every cell that has no result yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(range(len(SIZES))))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    sizes = [SIZES[place] for place in chosen.sizes]
    centres = cohort(chosen.cohort)
    document: dict[str, Any] = {
        "delta": DELTA,
        "settings": {"noisy": vars(NOISY), "plain": vars(PLAIN)},
        "cells": [],
    }
    if chosen.out and chosen.out.exists():
        document = json.loads(chosen.out.read_text())
    done = {(cell["asked"], cell["copies"], cell["epsilon"], cell["seed"]) for cell in document["cells"]}
    for (patients, copies), seed, epsilon in itertools.product(sizes, chosen.seeds, EPSILONS):
        if (patients, copies, None if math.isinf(epsilon) else epsilon, seed) in done:
            continue
        cell = one_cell(
            centres,
            patients=patients,
            copies=copies,
            epsilon=epsilon,
            seed=seed,
            settings=PLAIN if math.isinf(epsilon) else NOISY,
        )
        document["cells"].append({"asked": patients, **cell})
        print(json.dumps(cell), flush=True)
        if chosen.out:
            chosen.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
