"""What noisy training costs a patient: epsilon of steps that were taken, and the noise that an epsilon needs.

The moments accountant of Mironov, Talwar and Zhang (2019) for the Poisson-subsampled Gaussian, as Opacus has
it. Renyi divergences add up over steps, rounds and runs, which is what a ledger needs; Opacus' numerical (PRV)
accountant is some per cent tighter, and its result depends on the grid that it integrates on.

Two datasets are neighbours if one patient's contribution is left out of every step (add or remove a patient, the
number of patients being known: "zero-out" in Kairouz et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from stic_core.errors import ConfigError

ORDERS: tuple[float, ...] = (
    *(1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 4.5, 5, 5.5),
    *range(6, 64),
    *(64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512),
)
"""Orders of the Renyi divergence: fewer broken ones than Opacus has, which take it long, and higher ones, which
small epsilons need."""

_TOLERANCE = 1e-3
"""By which share the noise may be more than is needed."""

_MOST_NOISE = 1e6


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """How a site's training is made private.

    Args:
        sample_rate: the probability that a patient takes part in a step.
        noise_multiplier: standard deviation of the noise over `max_grad_norm`.
        max_grad_norm: bound on the norm of what one patient contributes to a step.
    """

    sample_rate: float
    noise_multiplier: float
    max_grad_norm: float


@dataclass(frozen=True, slots=True)
class NoisySteps:
    """Steps of noisy training that a patient may have been in.

    Args:
        noise_multiplier: standard deviation of the noise over the bound on a patient's contribution.
        sample_rate: the probability that a patient takes part in a step.
        steps: how many.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


def epsilon_of(taken: Iterable[NoisySteps], *, delta: float) -> float:
    """The smallest epsilon for which all these steps together are (epsilon, delta)-private.

    Example:
        >>> round(epsilon_of([NoisySteps(noise_multiplier=4.0, sample_rate=0.01, steps=10_000)], delta=1e-5), 2)
        1.04
    """
    curve = np.zeros(len(ORDERS))
    for one in taken:
        curve += one.steps * _curve(one.noise_multiplier, one.sample_rate)
    if not curve.any():
        return 0.0
    # Canonne, Kamath and Steinke 2020, proposition 12. Opacus has the same, and warns where the best order is
    # the last one: epsilon is then larger than it need be, and still holds.
    orders = np.array(ORDERS)
    epsilons = curve + np.log1p(-1 / orders) - (np.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(np.nanmin(epsilons)))


@lru_cache(maxsize=256)
def noise_for(epsilon: float, *, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise multiplier with which so many steps cost at most epsilon, to a thousandth.

    Raises:
        ConfigError: none does, as epsilon or delta is too small.
    """

    def cost(noise: float) -> float:
        return epsilon_of([NoisySteps(noise, sample_rate, steps)], delta=delta)

    low, high = 0.0, 1.0
    while cost(high) > epsilon:
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            raise ConfigError(
                "training.privacy",
                got=f"epsilon {epsilon:g}, delta {delta:g}",
                expected="larger ones: no noise gives these",
            )
    while high - low > _TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > epsilon else (low, middle)
    return high


@lru_cache(maxsize=1024)
def _curve(noise_multiplier: float, sample_rate: float) -> npt.NDArray[np.float64]:
    """Renyi divergence of one step, at each order."""
    from opacus.accountants.analysis import rdp  # takes seconds to import, and few commands need it

    return np.asarray(
        rdp.compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(ORDERS))
    )
