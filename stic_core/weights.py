"""A torch module's trainable tensors as the arrays that travel, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from stic_core.tensors import FlatArray, TensorSpec, flatten, specify, unflatten


def trainable_specs(module: nn.Module) -> tuple[TensorSpec, ...]:
    """Names and shapes of what trains; frozen tensors never travel."""
    return specify(_arrays(module))


def get_flat(module: nn.Module) -> FlatArray:
    """A copy of the trainable tensors, on the CPU."""
    return flatten(_arrays(module))


def set_flat(module: nn.Module, flat: FlatArray) -> None:
    """Put a flat array's values into the trainable tensors.

    Raises:
        ProtocolError: the array does not fit the module.
    """
    arrays = unflatten(flat, trainable_specs(module))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.from_numpy(arrays[name].copy()))


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """How many parameters train, and how many there are."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def _arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {
        name: parameter.detach().cpu().numpy()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
