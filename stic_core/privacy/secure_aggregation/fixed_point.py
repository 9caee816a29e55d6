"""Real numbers as integers modulo 2^32, so that a sum over sites is exact and has no order.

A site's share of all patients is at most its part of 1, and each value is clipped at a bound first; so the
sum of all sites stays within the bound, and cannot wrap. Behind the values may come small whole numbers, such
as counts, which are summed as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stic_core.errors import DataError, ProtocolError
from stic_core.privacy.secure_aggregation.masks import RingVector

_SPAN = 2**31 - 2**16
"""Steps between 0 and the bound: below 2^31 by more than all sites' roundings, of half a step each."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A site's values for a sum.

    Args:
        values: ring elements.
        clipped: how many values were beyond the bound.
    """

    values: RingVector
    clipped: int


def encode(values: npt.NDArray[np.floating], *, share: float, bound: float) -> Encoded:
    """Values times a site's share, rounded to the nearest step of bound / 2^31.

    Args:
        values: shape (n,).
        share: of all patients, 0 to 1; all sites' add up to 1 at most.
        bound: larger values are clipped.

    Raises:
        DataError: a value is not finite.
    """
    if not np.isfinite(values).all():
        raise DataError(
            "the trained weights are not finite",
            advice="Its training diverged: lower training.learning_rate, or look at its data.",
        )
    wide = np.asarray(values, dtype=np.float64)
    clipped = int(np.count_nonzero(np.abs(wide) > bound))
    steps = np.rint(np.clip(wide, -bound, bound) * (share * _SPAN / bound)).astype(np.int64)
    return Encoded(steps.astype(np.uint32), clipped)  # modulo 2^32


def decode(total: RingVector, *, share: float, bound: float) -> npt.NDArray[np.float64]:
    """The mean over the sites in a sum, weighted by their shares.

    Args:
        total: sum of what they encoded.
        share: of all patients, that these sites have together; above 0.
        bound: that they encoded with.
    """
    return total.view(np.int32).astype(np.float64) * (bound / (share * _SPAN))


def encode_counts(counts: Sequence[int], *, sites: int) -> RingVector:
    """Whole numbers from 0, whose sum over all sites stays below 2^32.

    Args:
        sites: how many add their own.

    Raises:
        ProtocolError: one is so large that the sum could wrap.
    """
    if any(not 0 <= count < 2**32 // sites for count in counts):
        raise ProtocolError("a count is too large for a masked sum", expected=f"below {2**32 // sites}")
    return np.array(counts, dtype=np.uint32)
