"""How many handshakes may be under way, and how many may begin in a second: all that a stranger can have.

A stranger is known as such only when the handshake fails. Until then it holds a file descriptor
and memory and costs a millisecond of computing, so all three are counted, in all and by
address. Connections of admitted sites are counted elsewhere: strangers take no place of theirs.
"""

from __future__ import annotations

import ipaddress
import resource
import time
from collections import Counter
from collections.abc import Callable

HANDSHAKE_S = 10.0
"""A handshake takes three round trips at most; a slow line makes that a second or two."""

PENDING, PENDING_PER_ADDRESS = 128, 16
A_SECOND, A_SECOND_PER_ADDRESS = 60, 20
"""A handshake costs a millisecond, so strangers have 2 to 8 % of a core. Those of admitted sites do not count."""

_ADDRESSES = 1024


class HandshakeLimits:
    """Counts handshakes: those under way, and those of strangers in a second.

    An address from which an admitted site came is known from then on: strangers elsewhere, however
    many, take no handshake from it.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The rest is for the sites' connections, and for checkpoints.
        self._descriptors = 1 << 20 if soft == resource.RLIM_INFINITY else soft // 4
        self._clock, self._since = clock, clock()
        self._begun: Counter[str] = Counter()
        self._known: dict[str, None] = {}
        self.pending: Counter[str] = Counter()

    def begin(self, address: str) -> bool:
        """Whether a handshake may begin, which then is counted as under way."""
        now = self._clock()
        if now - self._since >= 1.0:
            self._since = now
            self._begun.clear()
        pending = self.pending.total()
        if (
            pending >= self._descriptors
            or self.pending[address] >= PENDING_PER_ADDRESS
            or self._begun[address] >= A_SECOND_PER_ADDRESS
        ):
            return False
        if address not in self._known and (pending >= PENDING or self._begun.total() >= A_SECOND):
            return False
        self._begun[address] += 1
        self.pending[address] += 1
        return True

    def end(self, address: str) -> None:
        """It is over, one way or the other."""
        self.pending[address] -= 1
        if not self.pending[address]:
            del self.pending[address]

    def know(self, address: str) -> None:
        """An admitted site came from here: its handshake was no stranger's."""
        if self._begun[address]:
            self._begun[address] -= 1
        self._known.pop(address, None)
        self._known[address] = None  # the latest is the last
        if len(self._known) > _ADDRESSES:
            del self._known[next(iter(self._known))]


def network_of(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: whoever has one address there has them all."""
    if ":" not in address:
        return address
    whole = ipaddress.IPv6Address(address.partition("%")[0])
    return str(ipaddress.IPv6Network((whole, 64), strict=False))
