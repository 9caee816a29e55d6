"""What one connection may take from the server: a bounded number of them, and none that only trickles.

uvicorn closes a connection that idles between two requests; it waits for ever for a request
that never becomes whole. Whoever opens thousands of connections, or sends a byte a minute,
would hold the port against the hospitals.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_CONNECTIONS = 512
"""A site holds two or three; further connections are closed as they come."""

LOOK_S = 10.0
LEAST_BYTES = 1024
"""A connection that owes a request must send this much between two looks: 100 bytes a second."""


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with bounds."""

    max_connections = MAX_CONNECTIONS
    look_s = LOOK_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take the connection, if there is room."""
        if len(self.connections) >= self.max_connections:
            # uvicorn's own bookkeeping expects every connection to be known before it is lost.
            super().connection_made(transport)
            transport.abort()
            return
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.look_s, self._look)

    def data_received(self, data: bytes) -> None:
        """Count, and pass on."""
        self._bytes += len(data)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops: an idle connection is not asked to say goodbye, which it may never do."""
        closing = self.transport.is_closing()
        super().shutdown()
        if closing:
            return  # closing it a second time has detached it from its TLS layer: it has no buffer to ask about
        if self.cycle is None or (
            self.cycle.response_complete and not self.transport.get_write_buffer_size()
        ):
            self.transport.abort()

    def _look(self) -> None:
        cycle = self.cycle
        owes_a_request = cycle is None or (cycle.more_body and not cycle.response_complete)
        if owes_a_request and self._bytes < LEAST_BYTES:
            self.transport.abort()
            return
        self._bytes = 0
        self._timer = self.loop.call_later(self.look_s, self._look)


def show_certificate(context: ssl.SSLContext, *, certificate: Path, key: Path) -> bool:
    """Show another certificate in the handshakes from now on.

    The context itself is left alone: the event loop uses it while another thread calls this.

    Returns:
        False where certificate and key do not fit, as while the two files are being replaced.
    """
    fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        fresh.load_cert_chain(certificate, key)
    except ssl.SSLError:
        return False

    def hello(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, current: ssl.SSLContext) -> None:
        del name, current
        connection.context = fresh

    context.sni_callback = hello  # called for clients that name no server, too
    return True
