"""Training and prediction over examples: pure in the data, the configuration and the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn

from stic_core.config import TrainingConfig
from stic_core.models.parameters import get_flat
from stic_core.models.stic import head_in
from stic_core.tensors.flat import FlatArray
from stic_core.training.batches import AnyBatches, ImageBatches
from stic_core.training.gradients import BatchGradients, Gradients
from stic_core.training.objectives import CrossEntropy, Objective
from stic_core.training.schedules import rate_of_round, should_stop

_IMAGES_AT_ONCE = 32
"""Patients a batch of a prediction over images; 96 slices keep VGG16 below 2 GB."""


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


@dataclass(frozen=True, slots=True)
class FitOutcome:
    """What a whole training at one site came to.

    Args:
        best: the trainable tensors with the lowest validation loss; the last ones where
            there is nothing to validate on.
        best_epoch: after how many epochs they were had.
        losses: validation loss after each epoch.
    """

    best: FlatArray
    best_epoch: int
    losses: tuple[float | None, ...]

    @property
    def best_loss(self) -> float | None:
        """The lowest validation loss."""
        return self.losses[self.best_epoch - 1] if self.best_epoch else None


class Trainer:
    """A model with its optimiser, trained epoch by epoch.

    Args:
        module: trained in place: a head over cached features, or a network over images.
        batches: training patients; none is allowed and trains nothing.
        config: batch size, rates.
        seed: of shuffling and of the choice among views.
        objective: what is minimised; None is the cross-entropy that `config` asks for.
        gradients: what each step goes by; None is the gradient of each batch. `config.privacy` says nothing here.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: AnyBatches,
        *,
        config: TrainingConfig,
        seed: list[int],
        device: torch.device,
        objective: Objective | None = None,
        gradients: Gradients | None = None,
    ) -> None:
        self.module, self.batches, self.config, self.device = module.to(device), batches, config, device
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # Fused: one pass over the tensors instead of seven, which is half of a cached step on a CPU.
        self._optimiser = torch.optim.AdamW(
            self._trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._gradients = gradients or BatchGradients(
            module,
            batches,
            objective=objective or CrossEntropy(module, batches.labels, config=config, device=device),
            batch_size=config.batch_size,
            rng=np.random.default_rng(seed),
            device=device,
        )

    def run(
        self, epochs: int = 1, *, steps: int | None = None, learning_rate: float | None = None
    ) -> TrainOutcome:
        """Train for some epochs; each takes one view a patient, drawn anew.

        Args:
            steps: stop after so many optimiser steps, whatever the epochs.
            learning_rate: from now on; None leaves it.
        """
        if len(self.batches) == 0:
            return TrainOutcome(None, 0, 0)
        if learning_rate is not None:
            for group in self._optimiser.param_groups:
                group["lr"] = learning_rate
        self.module.train()
        done, epoch, loss = 0, 0, None
        while (epoch < epochs) if steps is None else (done < steps):
            loss, more = self._epoch(None if steps is None else steps - done)
            done, epoch = done + more, epoch + 1
        return TrainOutcome(loss, len(self.batches), done)

    def _epoch(self, steps: int | None) -> tuple[float | None, int]:
        """One epoch, or its first steps: mean loss of a patient (None without any), and steps."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        seen, done = 0, 0
        for loss, patients in self._gradients.epoch():
            if self.config.gradient_clip is not None:
                nn.utils.clip_grad_norm_(self._trained, self.config.gradient_clip)
            self._optimiser.step()
            # Added up on the device: reading each loss would make the GPU wait for us.
            total += loss
            seen, done = seen + patients, done + 1
            if done == steps:
                break
        return float(total) / seen if seen else None, done


def fit(
    trainer: Trainer,
    *,
    rounds: int,
    validate: Callable[[], float | None],
    on_epoch: Callable[[int, int], None] | None = None,
) -> FitOutcome:
    """As many epochs (or steps) as a federation of so many rounds, one optimiser throughout.

    Learning rate and early stopping go by rounds, as they do in the federation; the best
    weights are chosen epoch by epoch.

    Args:
        rounds: each `local_epochs` epochs, or `local_steps` steps.
        validate: mean validation loss of the module as it is; None where there is nobody.
        on_epoch: told what is done and what there is to do.
    """
    config = trainer.config
    a_round = 1 if config.local_steps else config.local_epochs
    total = rounds * a_round if len(trainer.batches) else 0
    best, best_epoch, best_loss = get_flat(trainer.module), 0, None
    losses: list[float | None] = []
    for epoch in range(1, total + 1):
        of_rounds = losses[a_round - 1 :: a_round]
        if (epoch - 1) % a_round == 0 and should_stop(config, of_rounds):
            break
        number = (epoch - 1) // a_round + 1
        rate = rate_of_round(config, number=number, rounds=rounds, losses=of_rounds)
        trainer.run(1, steps=config.local_steps, learning_rate=rate)
        loss = validate()
        losses.append(loss)
        if best_loss is None or loss is None or loss < best_loss:
            best, best_epoch, best_loss = get_flat(trainer.module), epoch, loss
        if on_epoch:
            on_epoch(epoch, total)
    return FitOutcome(best, best_epoch, tuple(losses))


@torch.inference_mode()
def predict(
    module: nn.Module, batches: AnyBatches, *, device: torch.device, batch_size: int | None = None
) -> Float64[np.ndarray, "n k"]:
    """Logits for the plain view of each patient, in order."""
    module = module.to(device).eval()
    size = batch_size or (_IMAGES_AT_ONCE if isinstance(batches, ImageBatches) else 256)
    parts = [
        module(inputs, clinical) for inputs, clinical, _ in batches.plain(batch_size=size, device=device)
    ]
    if not parts:
        return np.empty((0, head_in(module).classifier.output.out_features))
    return torch.cat(parts).double().cpu().numpy()
