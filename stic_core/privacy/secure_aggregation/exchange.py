"""Which exchange a key, a signature or a mask belongs to, and who must take part in it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal

Role = Literal["keys", "sealed-share", "own-mask", "pair-mask", "survivors"]


@dataclass(frozen=True, slots=True)
class MaskedExchange:
    """One attempt at one masked round.

    Args:
        run_id: of the run.
        plan: digest of the approved plan.
        round: from 1.
        serial: rises with each attempt of a run, so that no attempt has another's keys.
    """

    run_id: str
    plan: str
    round: int
    serial: int

    def statement(self, role: Role, *parts: str) -> bytes:
        """What is signed, or what a key is derived for: nothing else gives the same bytes."""
        label = ["stic-federated secure aggregation 1", role, self.run_id, self.plan, self.round, self.serial]
        return json.dumps([*label, *parts], separators=(",", ":")).encode()


def threshold_of(sites: int, *, share: float) -> int:
    """How many sites must survive and agree: a share of the hospitals in the plan, and always more than half.

    It counts all hospitals of the plan and not those that are online, or the server could split them into two
    groups that know nothing of each other. Rounded up, but not for the sake of 0.667 instead of two thirds.

    Example:
        >>> [threshold_of(sites, share=0.667) for sites in (2, 3, 4, 5, 10)]
        [2, 2, 3, 4, 7]
    """
    return max(sites // 2 + 1, math.ceil(share * sites - 0.02))


def colluders_withstood(sites: int, *, threshold: int) -> int:
    """How many hospitals may be in league with the server before it can open one other hospital's update.

    With c of them, it can have two lists of survivors signed once 2 (threshold - c) honest sites are no more
    than the sites - c that there are. From sites - 1 on, the sum is the last one's update.

    Example:
        >>> [colluders_withstood(n, threshold=t) for n, t in ((2, 2), (3, 2), (3, 3), (4, 3), (10, 7))]
        [0, 0, 1, 1, 3]
    """
    return max(0, min(2 * threshold - sites - 1, sites - 2))
