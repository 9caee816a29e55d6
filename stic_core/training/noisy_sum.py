"""A sum over patients with Gaussian noise, on a grid that does not tell the sum by its last bits.

Noise that is added in floating point leaves gaps between the values that a sum can take, and which gaps
depends on the sum (Mironov 2012). Here the sum is rounded to a fixed grid first, and so is the noise: their
total can be any point of the grid whatever the sum was, and equals the rounded total of the sum and exact noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stic_core.privacy.accounting import NoiseLevel
from stic_core.privacy.keyed_random import KeyedRandom

MARGIN = 2.0**-10
"""The share by which contributions are cut below the bound: more than rounding (to float32, to the grid) adds."""

_FINE = 2.0**-24
"""The grid's step, as a share of the bound (down to a power of two)."""


def grid_step(bound: float) -> float:
    """Between neighbouring points of the grid: a power of two, so that its multiples are exact."""
    return 2.0 ** math.floor(math.log2(bound)) * _FINE


def noisy_sum(total: Tensor, *, level: NoiseLevel, random: KeyedRandom) -> Tensor:
    """A sum of what patients contributed, with noise.

    Args:
        total: (d,), on any device; each patient contributed a vector of norm `max_grad_norm` or less.

    Returns:
        (d,), float64: multiples of `grid_step(max_grad_norm)`.
    """
    step = grid_step(level.max_grad_norm)
    deviation = level.noise_multiplier * level.max_grad_norm / step
    noise = torch.from_numpy(random.normals(total.numel())).mul_(deviation).round_()
    return (total.double() / step).round_().add_(noise.to(total.device)).mul_(step)
