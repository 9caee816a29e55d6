"""Before TLS: how many connections are open, and from where.

uvicorn hears of a connection only after its TLS handshake. Whoever opened thousands and never
began one would take the process's file descriptors, and with them its checkpoints. So each
connection is counted where it is accepted, and closed there when there are too many. (asyncio
gives a handshake a minute.)
"""

from __future__ import annotations

import resource
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from stic_core.errors import ListenError
from stic_server.http.connection_limits import MAX_CONNECTIONS

MAX_PER_ADDRESS = MAX_CONNECTIONS // 2
"""One address never takes every connection. Sites behind one proxy share an address, so it may take many."""

_CLOSED_AT_ONCE = 200


class ConnectionLimiter:
    """How many connections are open, in all and by address.

    Args:
        most: in all; half of the files that this process may open at the most, since
            checkpoints need files, too.
        most_per_address: of one address.
    """

    def __init__(self, most: int = MAX_CONNECTIONS, most_per_address: int = MAX_PER_ADDRESS) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = most if soft == resource.RLIM_INFINITY else min(most, soft // 2)
        self._most_per_address = most_per_address
        self.taken: Counter[str] = Counter()

    def take(self, address: str) -> bool:
        """Whether there was a place, which is taken now."""
        if self.taken.total() >= self._most or self.taken[address] >= self._most_per_address:
            return False
        self.taken[address] += 1
        return True

    def leave(self, address: str) -> None:
        """A place is free again."""
        self.taken[address] -= 1
        if not self.taken[address]:
            del self.taken[address]


class _Accepted(socket.socket):
    """A connection that says when it is closed."""

    on_close: Callable[[], None] | None = None

    def close(self) -> None:
        """Free the place, once."""
        on_close, self.on_close = self.on_close, None
        super().close()
        if on_close is not None:
            on_close()


class LimitedListener(socket.socket):
    """A listening socket that accepts no more connections than the limiter allows.

    asyncio calls `accept`; uvloop would not, so the server runs on asyncio's own loop.
    """

    limiter: ConnectionLimiter

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection for which there is a place; those before it are closed.

        Raises:
            ConnectionAbortedError: many had no place; asyncio looks at the others first, and comes back.
        """
        for _ in range(_CLOSED_AT_ONCE):
            plain, peer = super().accept()
            address = str(peer[0])
            if self.limiter.take(address):
                connection = _Accepted(plain.family, plain.type, plain.proto, fileno=plain.detach())
                connection.on_close = partial(self.limiter.leave, address)
                return connection, peer
            plain.close()
        raise ConnectionAbortedError


def open_listeners(host: str, port: int, limiter: ConnectionLimiter) -> list[socket.socket]:
    """Bind every address that a host name stands for; uvicorn listens on them and closes them.

    Raises:
        ListenError: an address cannot be had.
    """
    listeners: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, proto, _, address in dict.fromkeys(found):
            listener = LimitedListener(family, kind, proto)
            listeners.append(listener)
            listener.limiter = limiter
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ListenError(
            f"cannot listen on {host}:{port}",
            got=error.strerror,
            advice="Stop what is using it, perhaps another stic-server, or change listen.port in federation.yaml.",
        ) from None
    return listeners
