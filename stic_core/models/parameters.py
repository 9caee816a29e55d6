"""A torch module's trainable tensors as the arrays that travel, and back.

Beside the parameters that train go the batch-norm statistics of blocks that train, where the
model averages them. A running variance travels as the second moment, variance + mean^2: the
average of two sites' second moments is that of their patients together, the average of two
variances is not (a site with a brighter scanner would be lost in it). torch's int64 counters
of batches stay: nothing reads them, and an average of them means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from stic_core.models.backbones import Backbone
from stic_core.tensors.flat import MEAN, SECOND_MOMENT, FlatArray, TensorSpec, flatten, specify, unflatten


def trainable_specs(module: nn.Module) -> tuple[TensorSpec, ...]:
    """Names and shapes of what trains; frozen tensors never travel."""
    return specify(_arrays(module))


def get_flat(module: nn.Module) -> FlatArray:
    """A copy of the trainable tensors, on the CPU."""
    return flatten(_arrays(module))


def set_flat(module: nn.Module, flat: FlatArray) -> None:
    """Put a flat array's values into the trainable tensors; `set_flat(m, get_flat(m))` changes nothing.

    (Variances come back to float32's precision of the second moment.)

    Raises:
        ProtocolError: the array does not fit the module.
    """
    arrays = unflatten(flat, trainable_specs(module))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.from_numpy(arrays[name].copy()))
        for name, mean, variance in _statistics(module):
            centre = arrays[name + MEAN].astype(np.float64)
            spread = np.maximum(arrays[name + SECOND_MOMENT] - centre**2, 0)  # rounding may go below 0
            mean.copy_(torch.from_numpy(centre))
            variance.copy_(torch.from_numpy(spread))


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """How many parameters train, and how many there are."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def _statistics(module: nn.Module) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, running mean and running variance of each batch-norm layer whose statistics travel."""
    for prefix, part in module.named_modules():
        if isinstance(part, Backbone) and part.batch_norm == "average":
            for name, norm in part.norms():
                if norm.running_mean is not None and norm.running_var is not None:
                    yield f"{prefix}.{name}" if prefix else name, norm.running_mean, norm.running_var


def _arrays(module: nn.Module) -> dict[str, np.ndarray]:
    out = {
        name: parameter.detach().cpu().numpy()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    for name, mean, variance in _statistics(module):
        centre = mean.cpu().numpy().astype(np.float64)
        out[name + MEAN] = centre
        out[name + SECOND_MOMENT] = variance.cpu().numpy() + centre**2
    return out
