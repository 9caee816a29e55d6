"""What one connection of a site may take from the server.

uvicorn closes a connection that idles between two requests; it waits for ever for a request
that never becomes whole, reads headers without end, and reads the next requests while it answers
one. A site that is malicious, or whose program is broken, would hold the server against the others.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from stic_core.system.site_certificates import presented_key
from stic_server.http.closing import ClosingOnce

MAX_HEADERS = 16 * 1024
"""Bytes of a request before its body; ours have less than 1 kB."""

LOOK_S = 10.0
LEAST_BYTES = 1024
"""A connection that owes a request must send this much between two looks: 100 bytes a second."""

KEY = "stic.key"
"""Under a scope's `extensions`: the key that the connection was opened with, PEM."""


class Admission(Protocol):
    """Who may come in; see `listener.Entrance`."""

    def enter(self, connection: SiteConnection, key: bytes, /) -> str | None:
        """The site's name, None where there is no place."""
        ...

    def leave(self, connection: SiteConnection, key: bytes, /) -> None:
        """The connection is closed."""
        ...


class SiteConnection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 for one admitted key, one request at a time, with bounds.

    Args:
        admission: asked before the first byte is parsed.
        arguments: uvicorn's own.
    """

    look_s = LOOK_S

    def __init__(self, *, admission: Admission, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._admission = admission
        self._key = b""
        self._bytes = 0
        self._headers_due, self._header_bytes = True, 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The handshake is done: take the connection, if it is an admitted site's."""
        super().connection_made(ClosingOnce(transport))
        key = presented_key(transport.get_extra_info("ssl_object").getpeercert(True))
        if self._admission.enter(self, key) is None:
            self.transport.abort()
            return
        self._key = key
        self._timer = self.loop.call_later(self.look_s, self._look)

    def data_received(self, data: bytes) -> None:
        """Count, and pass on: no more than headers may have, until they are whole."""
        self._bytes += len(data)
        while data and not self.transport.is_closing():
            if not self._headers_due:
                super().data_received(data)
                return
            room = MAX_HEADERS - self._header_bytes
            if room == 0:
                self.transport.abort()
                return
            piece, data = data[:room], data[room:]
            self._header_bytes += len(piece)
            super().data_received(piece)

    def on_message_begin(self) -> None:
        """A request begins; none may while another is not answered."""
        if self.cycle is not None and not _answered(self.cycle):
            self.transport.abort()
            raise ConnectionAbortedError("pipelining")  # which ends the parser
        super().on_message_begin()
        self.scope["extensions"] = {KEY: self._key}  # pyright: ignore[reportGeneralTypeIssues]

    def on_headers_complete(self) -> None:
        """A body follows, of a length that the guard has looked at."""
        self._headers_due, self._header_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next bytes are headers again."""
        self._headers_due = True
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking, and free the place."""
        if self._timer is not None:
            self._timer.cancel()
        self._admission.leave(self, self._key)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops: an idle connection is not asked to say goodbye, which it may never do."""
        super().shutdown()
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


def _answered(cycle: RequestResponseCycle) -> bool:
    """Whether all of a response is on its way: the other side may have it before the app comes to its end."""
    whole = cycle.response_started and not cycle.chunked_encoding and cycle.expected_content_length == 0
    return cycle.response_complete or whole
