"""Which process of a site is the one that signed on: a copy of the site's folder has its key, and is another.

Flower knows a site by its key alone. Two clients with one key would share a node: each would take questions, and
the answers of one of them would be lost. A client names its process in each request; the one that signed on last is
served, and any other is told so. A process that was killed is followed by one that names it on signing it off.
"""

from __future__ import annotations

from collections.abc import Iterable

HEADER = b"stic-instance"
SIGN_ON = "/v1/fleet/activate-node"
TAKEN_OVER = 423
"""The status for a request of a process whose place another one has."""

_LONGEST = 64


class Instances:
    """The process of each site that signed on last. A client that names none (Flower's own) is not looked at."""

    def __init__(self) -> None:
        self._of: dict[str, bytes] = {}

    def is_replaced(self, site: str, *, path: str, instance: bytes) -> bool:
        """Whether another process of the site has signed on since; while one is online Flower refuses a second."""
        known = self._of.get(site, b"")
        return bool(path != SIGN_ON and instance and known and instance != known)

    def signed_on(self, site: str, *, instance: bytes) -> None:
        """Flower took the sign-on."""
        self._of[site] = instance


def instance_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What a request says of its process; b"" where it says nothing."""
    return next((value[:_LONGEST] for name, value in headers if name == HEADER), b"")
