"""A TLS transport that is closed and used again, in any order, as when a server stops under load."""

from __future__ import annotations

import asyncio
import itertools
from asyncio import sslproto

import pytest

from stic_server.http.closing import ClosingOnce


class _TlsLayer:
    """As much of asyncio's as its transport calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def _start_shutdown(self) -> None:
        self.calls.append("shutdown")

    def _abort(self, *_: object) -> None:
        self.calls.append("abort")

    def _write_appdata(self, _: object) -> None:
        self.calls.append("write")

    def _get_write_buffer_size(self) -> int:
        return 0

    def _pause_reading(self) -> None: ...

    def _resume_reading(self) -> None: ...


OPERATIONS = {
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "write": lambda transport: transport.write(b"answer"),
    "size": lambda transport: transport.get_write_buffer_size(),
    "pause": lambda transport: transport.pause_reading(),
    "resume": lambda transport: transport.resume_reading(),
}


def _transports() -> tuple[_TlsLayer, asyncio.Transport]:
    layer = _TlsLayer()
    return layer, sslproto._SSLProtocolTransport(None, layer)


def test_the_fault_is_asyncios() -> None:
    """Regression: closed twice, asyncio's own transport has no TLS layer to ask (Python 3.11 to 3.13)."""
    _, bare = _transports()
    bare.close()
    bare.close()
    with pytest.raises(AttributeError):
        bare.get_write_buffer_size()


def test_any_use_after_any_end() -> None:
    """All orders of up to four uses: none fails, the connection says goodbye once, and nothing follows that."""
    for length in range(1, 5):
        for order in itertools.product(OPERATIONS, repeat=length):
            layer, bare = _transports()
            transport = ClosingOnce(bare)
            for name in order:
                OPERATIONS[name](transport)
            ends = [index for index, call in enumerate(layer.calls) if call in {"shutdown", "abort"}]
            assert layer.calls.count("shutdown") <= 1
            assert not ends or "write" not in layer.calls[ends[0] :]
            assert transport.is_closing() == bool(ends)
            bare.abort()  # else asyncio warns of it
