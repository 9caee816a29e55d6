"""Non-inferiority: is one model no worse than another by as much as a margin fixed beforehand?

A confidence interval of the difference decides (G. Piaggio et al., CONSORT for non-inferiority
trials, JAMA 2012, 308:2594): its lower end lies above minus the margin, or it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from stic_core.statistics.auc import AucTest
from stic_core.statistics.values import Interval

MARGIN = 0.05
"""The registered margin: macro AUC by which the federated model may be worse than one trained on pooled data.

The same for a run's report and for a simulation, which writes it down before its first seed.
"""

Verdict: TypeAlias = Literal["non-inferior", "inferior", "open"]


@dataclass(frozen=True)
class NonInferiority:
    """A difference against a margin.

    Args:
        difference: of the figure, first minus second; higher is better.
        ci95: interval of the difference.
        margin: by how much the first may be worse, above 0.
    """

    difference: float
    ci95: Interval
    margin: float = MARGIN

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ValueError(f"margin: got {self.margin}, expected a number above 0")

    @property
    def verdict(self) -> Verdict:
        """What the interval shows; an interval that only touches minus the margin leaves it open."""
        low, high = self.ci95
        if low > -self.margin:
            return "non-inferior"
        return "inferior" if high < -self.margin else "open"


def mean_difference(tests: Sequence[AucTest]) -> tuple[float, Interval]:
    """Mean of several classes' differences of the same patients, and an interval that is no narrower than its own.

    No site releases the covariance between classes. The standard deviation of a mean is at
    most the mean of the standard deviations, so the mean of the half widths is an upper bound.

    Args:
        tests: one a class, at least one.
    """
    mean = sum(test.difference for test in tests) / len(tests)
    half = sum((test.ci95[1] - test.ci95[0]) / 2 for test in tests) / len(tests)
    return mean, (mean - half, mean + half)
