"""Training and prediction over cached features: pure in the data, the configuration and the seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch.nn import functional

from stic_core.config import TrainingConfig
from stic_core.dataset import SiteDataset, Split
from stic_core.features import FeatureCache
from stic_core.model import STICHead
from stic_core.tasks import Task
from stic_core.types import ClinicalMatrix, LabelVector


@dataclass(frozen=True, slots=True)
class Examples:
    """Patients of one split, ready for the head.

    Args:
        views: feature maps, view 0 plain; float16, (views, patients, 3, channels, 7, 7).
        clinical: the 20 columns.
        labels: class indices.
    """

    views: tuple[np.ndarray, ...]
    clinical: ClinicalMatrix
    labels: LabelVector

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """What a few epochs came to.

    Args:
        loss: mean cross-entropy over the last epoch's patients; None without patients.
        examples: training patients.
        steps: optimiser steps.
    """

    loss: float | None
    examples: int
    steps: int


def examples_of(dataset: SiteDataset, cache: FeatureCache, *, split: Split, task: Task) -> Examples:
    """The labelled patients of one split; augmented views for `train` only."""
    rows = dataset.indices(split)
    labels = dataset.label_indices(task)[rows]
    views = [cache.plain[rows]]
    if split == "train":
        views += list(cache.augmented)
    return Examples(tuple(views), np.asarray(dataset.clinical[rows]), labels)


def class_weights(labels: LabelVector, *, classes: int) -> torch.Tensor:
    """Inverse frequencies with mean 1 over the patients; a class without patients weighs 0."""
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = np.divide(
        len(labels), counts * np.count_nonzero(counts), where=counts > 0, out=np.zeros(classes)
    )
    return torch.from_numpy(weights).float()


class Trainer:
    """A head with its optimiser, trained epoch by epoch.

    Args:
        head: trained in place.
        examples: training patients; none is allowed and trains nothing.
        config: batch size, rates, balance.
        seed: of shuffling and of the choice among views.
    """

    def __init__(
        self,
        head: STICHead,
        examples: Examples,
        *,
        config: TrainingConfig,
        seed: list[int],
        device: torch.device,
    ) -> None:
        self.head, self.examples, self.config, self.device = head.to(device), examples, config, device
        self._rng = np.random.default_rng(seed)
        self._optimiser = torch.optim.AdamW(
            head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        classes = head.classifier.output.out_features
        self._weights = (
            class_weights(examples.labels, classes=classes).to(device) if config.class_balanced else None
        )

    def run(self, epochs: int) -> TrainOutcome:
        """Train for some epochs; each takes one view a patient, drawn anew."""
        examples, config = self.examples, self.config
        if len(examples) == 0:
            return TrainOutcome(None, 0, 0)
        self.head.train()
        loss_sum, steps = 0.0, 0
        for _ in range(epochs):
            order = self._rng.permutation(len(examples))
            chosen = self._rng.integers(len(examples.views), size=len(examples))
            loss_sum = 0.0
            for start in range(0, len(order), config.batch_size):
                rows = order[start : start + config.batch_size]
                features = np.stack([examples.views[chosen[row]][row] for row in rows])
                logits = self.head(
                    torch.from_numpy(features).to(self.device).float(),
                    torch.from_numpy(examples.clinical[rows]).to(self.device),
                )
                target = torch.from_numpy(examples.labels[rows]).to(self.device)
                loss = functional.cross_entropy(logits, target, weight=self._weights)
                self._optimiser.zero_grad(set_to_none=True)
                loss.backward()
                self._optimiser.step()
                loss_sum += float(loss.detach()) * len(rows)
                steps += 1
        return TrainOutcome(loss_sum / len(examples), len(examples), steps)


@torch.inference_mode()
def predict(
    head: STICHead, examples: Examples, *, device: torch.device, batch_size: int = 256
) -> Float64[np.ndarray, "n k"]:
    """Logits for the plain view of each patient, in order."""
    head = head.to(device).eval()
    parts = [
        head(
            torch.from_numpy(np.asarray(examples.views[0][start : start + batch_size])).to(device).float(),
            torch.from_numpy(examples.clinical[start : start + batch_size]).to(device),
        )
        for start in range(0, len(examples), batch_size)
    ]
    classes = head.classifier.output.out_features
    if not parts:
        return np.empty((0, classes))
    return torch.cat(parts).double().cpu().numpy()


def pick_device(wanted: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)
