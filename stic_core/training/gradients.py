"""Where the gradient of an optimiser's step comes from: batches as they are, or lots of patients with noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from stic_core.training.batches import AnyBatches
from stic_core.training.objectives import Objective

StepLoss: TypeAlias = tuple[Tensor, int]
"""Sum of the patients' losses, and how many patients there were."""


@runtime_checkable  # the tests execute annotations
class Gradients(Protocol):
    """What an optimiser steps by."""

    def epoch(self) -> Iterator[StepLoss]:
        """The steps of one epoch: each parameter's gradient is set when one is yielded."""
        ...


class BatchGradients:
    """Every patient once per epoch, in batches.

    Args:
        module: what trains.
        batches: training patients.
        objective: what is minimised.
        rng: of shuffling and of the choice among views.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: AnyBatches,
        *,
        objective: Objective,
        batch_size: int,
        rng: np.random.Generator,
        device: torch.device,
    ) -> None:
        self._module, self._batches, self._objective = module, batches, objective
        self._batch_size, self._rng, self._device = batch_size, rng, device

    def epoch(self) -> Iterator[StepLoss]:
        """See `Gradients`."""
        batches = self._batches.epoch(self._rng, batch_size=self._batch_size, device=self._device)
        for inputs, clinical, target in batches:
            loss = self._objective.loss(self._module(inputs, clinical), target)
            penalty = self._objective.penalty()
            self._module.zero_grad(set_to_none=True)
            (loss if penalty is None else loss + penalty).backward()
            yield loss.detach() * len(target), len(target)
