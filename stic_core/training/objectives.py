"""What a site minimises: the loss of a batch, and what an algorithm adds to it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stic_core.config import AlgorithmConfig, TrainingConfig
from stic_core.models.stic import NaiveHead, head_in
from stic_core.tensors.array_types import LabelVector


@runtime_checkable  # the tests execute annotations
class Objective(Protocol):
    """What each step of an optimiser goes by."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a batch: what is reported.

        Args:
            logits: (n, classes).
            target: (n,) class indices.
        """
        ...

    def per_patient(self, logits: Tensor, target: Tensor) -> Tensor:
        """(n,) losses, whose mean is `loss`."""
        ...

    def penalty(self) -> Tensor | None:
        """Added to the loss before its gradient is taken; None where there is nothing to add."""
        ...


class CrossEntropy:
    """Cross-entropy, weighed by class where asked, with the authors' L2 penalty of the naive models.

    Args:
        module: what trains.
        labels: of the training patients.
        config: `class_balanced` and `l2`.
    """

    def __init__(
        self, module: nn.Module, labels: LabelVector, *, config: TrainingConfig, device: torch.device
    ) -> None:
        head = head_in(module)
        classes = head.classifier.output.out_features
        self._weights = class_weights(labels, classes=classes).to(device) if config.class_balanced else None
        self._l2, self._penalised = config.l2, head.third if isinstance(head, NaiveHead) else None

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `Objective`."""
        return functional.cross_entropy(logits, target, weight=self._weights)

    def per_patient(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `Objective`; unweighted, since counts of classes get no noise."""
        assert self._weights is None  # configuration refuses class_balanced with privacy
        return functional.cross_entropy(logits, target, reduction="none")

    def penalty(self) -> Tensor | None:
        """The squared weights of a naive model's last hidden layer, times `l2`."""
        if not self._l2 or self._penalised is None:
            return None
        return self._l2 * self._penalised.weight.square().sum()


def objective_of(
    algorithm: AlgorithmConfig,
    module: nn.Module,
    labels: LabelVector,
    *,
    config: TrainingConfig,
    device: torch.device,
) -> Objective:
    """What an algorithm asks a site to minimise in a round.

    Args:
        module: what trains, with the weights that the round begins with.
    """
    match algorithm.name:
        case "fedavg":
            return CrossEntropy(module, labels, config=config, device=device)


def class_weights(labels: LabelVector, *, classes: int) -> Tensor:
    """Inverse frequencies with mean 1 over the patients; a class without patients weighs 0."""
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = np.divide(
        len(labels), counts * np.count_nonzero(counts), where=counts > 0, out=np.zeros(classes)
    )
    return torch.from_numpy(weights).float()
