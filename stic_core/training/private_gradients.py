"""Gradients of DP-SGD (Abadi et al. 2016): each patient's is cut to a norm, and their sum gets noise.

Patients are drawn independently for every step, each in one of its views: all views of a patient are one
patient. The noisy sum is divided by the expected number of patients, never by the number that was drawn.

Gradients per patient are Opacus'. The convolution over the whole map is a linear layer to it. The GRU is
Keras' (`reset_after=False`) and not torch's, whose twin Opacus' DPGRU is; Opacus takes its gradients through
torch.func from the layer as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.linear import compute_linear_grad_sample
from opacus.grad_sample.utils import register_grad_sampler
from torch import Tensor, nn

from stic_core.models.stic import WholeMapConvolution
from stic_core.privacy.accounting import NoiseLevel
from stic_core.privacy.keyed_random import KeyedRandom
from stic_core.training.batches import Batch, FeatureBatches
from stic_core.training.gradients import StepLoss
from stic_core.training.noisy_sum import MARGIN, noisy_sum
from stic_core.training.objectives import Objective

_AT_ONCE = 32
"""Patients whose gradients are written out at a time: 400 MB with VGG16. Few, so that float32's rounding inside such
a part, at worst, stays below `noisy_sum.MARGIN` for lots of some five hundred; between parts it is float64's."""


class PrivateGradients:
    """Lots of independently drawn patients, with noise.

    Args:
        module: the head that trains.
        batches: training patients over cached features.
        objective: what is minimised; its penalty, which depends on no patient, is added after the noise.
        level: of sampling, bound and noise.
        secret, label: where sampling and noise come from; see `KeyedRandom`.
    """

    def __init__(
        self,
        module: nn.Module,
        batches: FeatureBatches,
        *,
        objective: Objective,
        level: NoiseLevel,
        secret: bytes,
        label: str,
        device: torch.device,
    ) -> None:
        self._module, self._batches, self._objective = module, batches, objective
        self._level, self._device = level, device
        self._drawing = KeyedRandom(secret, label=f"{label}\nsampling")
        self._noise = KeyedRandom(secret, label=f"{label}\nnoise")
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def epoch(self) -> Iterator[StepLoss]:
        """See `Gradients`; an epoch has as many lots as patients make on average."""
        for _ in range(math.ceil(1 / self._level.sample_rate)):
            loss, count = self._sum_of_lot()
            self._add_noise()
            yield loss, count

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """The patients of the next lot, perhaps none, and the view of each."""
        patients, views = len(self._batches), len(self._batches.views)
        drawn = self._drawing.uniforms(2 * patients)
        chosen = np.flatnonzero(drawn[:patients] < self._level.sample_rate)
        return chosen, (drawn[patients:][chosen] * views).astype(np.int64)

    def _sum_of_lot(self) -> StepLoss:
        chosen, views = self.draw()
        if len(chosen) == 0:
            for parameter in self._parameters:
                parameter.grad = torch.zeros_like(parameter)
            return torch.zeros((), device=self._device), 0
        lot = self._batches.lot(chosen, views=views, device=self._device)
        return clipped_sum(self._module, lot, objective=self._objective, bound=self._level.max_grad_norm)

    @torch.no_grad()
    def _add_noise(self) -> None:
        level = self._level
        sums = torch.cat([_gradient(parameter).flatten() for parameter in self._parameters])
        noisy = noisy_sum(sums, level=level, random=self._noise)
        noisy /= level.sample_rate * len(self._batches)
        sizes = [parameter.numel() for parameter in self._parameters]
        for parameter, part in zip(self._parameters, noisy.split(sizes), strict=True):
            parameter.grad = part.reshape(parameter.shape).to(parameter.dtype)
        self._add_penalty()

    @torch.enable_grad()
    def _add_penalty(self) -> None:
        if (penalty := self._objective.penalty()) is not None:
            penalty.backward()


def clipped_sum(module: nn.Module, lot: Batch, *, objective: Objective, bound: float) -> StepLoss:
    """Set each parameter's gradient to the sum over patients of gradients cut to `bound`, less `MARGIN` of it.

    Each patient's gradient is written out, and it is its own norm that it is cut by. (Ghost clipping takes the
    norm from products of activations; weights made for it could have these cancel, and leave a gradient uncut.)
    A gradient that is not finite counts as none, since NaN in an answer would tell of its patient.
    """
    inputs, clinical, target = lot
    inputs.requires_grad_()  # nobody wants that gradient, but torch warns of hooks on layers without any
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    sums = [
        torch.zeros(parameter.shape, dtype=torch.float64, device=inputs.device) for parameter in parameters
    ]
    total = torch.zeros((), device=inputs.device)
    with _per_patient(module) as hooked:
        for start in range(0, len(target), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            losses = objective.per_patient(hooked(inputs[part], clinical[part]), target[part])
            losses.sum().backward()
            total += losses.detach().sum()
            each = [_gradients(parameter).flatten(1) for parameter in parameters]
            norms = torch.stack([one.norm(dim=1) for one in each]).norm(dim=0)
            kept = (bound * (1 - MARGIN) / norms).clamp(max=1.0)  # of a norm of 0 as well
            if not (finite := norms.isfinite()).all():
                kept, each = kept[finite], [one[finite] for one in each]
            for place, one in enumerate(each):
                sums[place] += torch.einsum("n,nd->d", kept, one).reshape(sums[place].shape)
            hooked.set_grad_sample_to_none()
    for parameter, found in zip(parameters, sums, strict=True):
        parameter.grad = found.to(parameter.dtype)
    return total, len(target)


@contextmanager
def _per_patient(module: nn.Module) -> Iterator[GradSampleModule]:
    """Opacus' hooks on a module, for one step: whatever else is computed with it is as without them."""
    hooked = GradSampleModule(module, loss_reduction="sum")
    try:
        yield hooked
    finally:
        hooked.to_standard_module()


def _gradients(parameter: nn.Parameter) -> Tensor:
    """Of each patient, (n, ...); Opacus puts them there."""
    found = getattr(parameter, "grad_sample", None)
    assert isinstance(found, Tensor)
    return found


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None  # each was set by the lot
    return parameter.grad


@register_grad_sampler(WholeMapConvolution)
def _whole_map_gradients(
    layer: WholeMapConvolution, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """As of a linear layer over the flattened map."""
    linear = cast("nn.Linear", layer)  # its weight and its bias are all that is asked for
    found = compute_linear_grad_sample(linear, [activations[0].flatten(2)], backprops)
    return {parameter: each.reshape(len(each), *parameter.shape) for parameter, each in found.items()}
