"""The way in: strangers get a handshake that fails, admitted sites get HTTP.

asyncio's own server would give each connection that it accepts a minute for its handshake, and
as many of them as come. Here each is counted before TLS, by address, and after TLS, by key.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stic_core.errors import ListenError
from stic_server.http.connection_limits import SiteConnection
from stic_server.http.handshakes import HANDSHAKE_S, HandshakeLimits, network_of
from stic_server.http.tls import BEING_ACCEPTED, context_for

LOG = logging.getLogger(__name__)

CONNECTIONS_PER_SITE = 8
"""A site holds two; one that was cut off may leave some behind until they are missed."""

_BACKLOG = 512
_AT_ONCE, _PAUSE_S = 25, 0.05
"""At most 500 connections are accepted a second, whatever becomes of them: 2 % of a core."""

_GOODBYE_S = 5.0


REFUSED = ("limit", "handshake", "key", "place")
"""Too many at once; no admitted key was shown; a key that was revoked meanwhile; too many of one site."""


class Entrance:
    """Accepts connections and lets in the admitted keys.

    `admit` and `renew` may be called from any thread; the rest runs in the loop that `open` ran in.

    Args:
        certificate: the server's, and its key; files that may be replaced.
        protocol: makes a connection's HTTP.
    """

    def __init__(self, certificate: Path, key: Path, *, protocol: Callable[[], SiteConnection]) -> None:
        self._files, self._protocol = (certificate, key), protocol
        self._keys: Mapping[bytes, str] = {}
        self._shown: tuple[bytes, Mapping[bytes, str]] | None = None
        self._context: ssl.SSLContext | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: Sequence[socket.socket] = ()
        self._accepting: Sequence[asyncio.Task[None]] = ()
        self._open: dict[bytes, set[SiteConnection]] = {}
        self.limits = HandshakeLimits()
        self.refused: Counter[str] = Counter()
        """Connections that got no HTTP, by one of `REFUSED`."""

    def admit(self, keys: Mapping[bytes, str]) -> None:
        """Let in exactly these keys (PEM, SubjectPublicKeyInfo); connections of others end now."""
        self._keys = dict(keys)  # looked at after each handshake, whichever context that began with
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the server has ended
                self._loop.call_soon_threadsafe(self._part)
        self.renew()

    def renew(self) -> None:
        """Look at the certificate again; connections that are open keep the one before."""
        certificate, key = self._files
        wanted = (certificate.read_bytes(), self._keys)
        if wanted == self._shown:
            return
        try:
            self._context = context_for(self._keys, certificate=certificate, key=key)
        except ssl.SSLError:
            if self._context is None:
                raise
            LOG.info("certificate and key are being replaced; looking again")
        else:
            self._shown = wanted

    async def open(self, listeners: Sequence[socket.socket]) -> None:
        """Accept from now on, in this loop."""
        self._loop, self._listeners = asyncio.get_running_loop(), listeners
        self._accepting = [self._start(self._accept(listener)) for listener in listeners]

    async def close(self) -> None:
        """Accept no more; handshakes under way end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    def accepts(self, *, within_s: float) -> bool:
        """Whether connections are accepted; asked from another thread.

        Args:
            within_s: for which the loop may be busy with something else.
        """
        loop = self._loop
        if loop is None:
            return False
        turned = threading.Event()
        try:
            loop.call_soon_threadsafe(turned.set)
        except RuntimeError:  # the loop is closed: the server has ended
            return False
        return (
            turned.wait(within_s)
            and bool(self._accepting)
            and not any(task.done() for task in self._accepting)
            and all(_is_listening(one) for one in self._listeners)
        )

    def enter(self, connection: SiteConnection, key: bytes) -> str | None:
        """Count a connection whose handshake is done; the site's name, None where there is no place for it."""
        name = self._keys.get(key)
        mine = self._open.get(key, set())
        if name is None or len(mine) >= CONNECTIONS_PER_SITE:
            self.refused["key" if name is None else "place"] += 1
            return None
        self._open[key] = mine | {connection}
        if connection.client is not None:
            self.limits.know(network_of(connection.client[0]))
        return name

    def leave(self, connection: SiteConnection, key: bytes) -> None:
        """It is closed."""
        if left := self._open.get(key, set()) - {connection}:
            self._open[key] = left
        else:
            self._open.pop(key, None)

    def _part(self) -> None:
        for key in self._open.keys() - self._keys.keys():
            for connection in self._open[key]:
                connection.transport.abort()

    def _start(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listener: socket.socket) -> None:
        loop, accepted = asyncio.get_running_loop(), 0
        while True:
            try:
                connection, peer = await loop.sock_accept(listener)
            except OSError:  # no file descriptor is free, or the other side is gone already
                await asyncio.sleep(_PAUSE_S)
                continue
            address = network_of(str(peer[0]))
            if self.limits.begin(address):
                self._start(self._greet(connection, address))
            else:
                self.refused["limit"] += 1
                _drop(connection)
            accepted += 1
            if accepted % _AT_ONCE == 0:  # accepting does not wait while others are in the queue
                await asyncio.sleep(_PAUSE_S)

    async def _greet(self, connection: socket.socket, address: str) -> None:
        """One handshake; what comes of it is the protocol's, if it is a site's."""
        BEING_ACCEPTED.set(connection)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=_GOODBYE_S,
            )
        except OSError:  # an SSLError is one; nobody here is told of a stranger
            self.refused["handshake"] += 1
        finally:
            self.limits.end(address)


def _is_listening(listener: socket.socket) -> bool:
    try:
        return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:  # it is closed
        return False


def _drop(connection: socket.socket) -> None:
    """Close, and keep nothing of it in the kernel either."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def open_listeners(host: str, port: int) -> list[socket.socket]:
    """Listen on every address that a host name stands for.

    Raises:
        ListenError: an address cannot be had.
    """
    listeners: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, proto, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, proto)
            listeners.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ListenError(
            f"cannot listen on {host}:{port}",
            got=error.strerror,
            advice="Stop what is using it, perhaps another stic-server, or change listen.port in federation.yaml.",
        ) from None
    return listeners
