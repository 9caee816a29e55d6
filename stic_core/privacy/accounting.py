"""What noisy training costs a patient: epsilon of steps that were taken, and the noise that an epsilon needs.

The moments accountant of Mironov, Talwar and Zhang (2019) for the Poisson-subsampled Gaussian, as Opacus has
it. Renyi divergences add up over steps, rounds and runs, which is what a ledger needs; Opacus' numerical (PRV)
accountant is some per cent tighter, and its result depends on the grid that it integrates on.

Two datasets are neighbours if one patient's contribution is left out of every step (add or remove a patient, the
number of patients being known: "zero-out" in Kairouz et al. 2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

ORDERS: tuple[float, ...] = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *range(11, 64),
    *(64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512),
)
"""Orders of the Renyi divergence: Opacus' own and higher ones, which small epsilons need."""

_TOLERANCE = 1e-3
"""By which share of an epsilon the noise may be too much."""


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
    from opacus.accountants.analysis import rdp  # takes seconds, and few commands need it

    curve = np.zeros(len(ORDERS))
    for one in taken:
        curve += one.steps * _curve(one.noise_multiplier, one.sample_rate)
    if not curve.any():
        return 0.0
    with warnings.catch_warnings():
        # "The optimal order is the largest one": then epsilon is larger than it need be, and still holds.
        warnings.simplefilter("ignore", UserWarning)
        epsilon, _ = rdp.get_privacy_spent(orders=list(ORDERS), rdp=curve.tolist(), delta=delta)
    return max(0.0, float(epsilon))


@lru_cache(maxsize=256)
def noise_for(epsilon: float, *, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise multiplier with which so many steps cost at most epsilon, to a thousandth of it."""
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return float(
            get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=sample_rate,
                steps=steps,
                accountant="rdp",
                epsilon_tolerance=_TOLERANCE * epsilon,
                alphas=list(ORDERS),
            )
        )


@lru_cache(maxsize=1024)
def _curve(noise_multiplier: float, sample_rate: float) -> npt.NDArray[np.float64]:
    """Renyi divergence of one step, at each order."""
    from opacus.accountants.analysis import rdp

    return np.asarray(
        rdp.compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=list(ORDERS))
    )
