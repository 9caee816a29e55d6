"""A connection's transport that may be closed twice, and used after it: both happen when a server stops under load.

asyncio's TLS transport detaches itself from its TLS layer on a second `close`, and from then on every use of it is
an `AttributeError`. uvicorn closes where a response ends, where a connection idles and where the server stops,
whichever comes first and whatever came before.
"""

from __future__ import annotations

import asyncio
from typing import Any


class ClosingOnce(asyncio.Transport):
    """Passes on what it is told; of several `close` the first, and nothing to write after it.

    Args:
        transport: of the connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Part of asyncio's interface, as all that follows."""
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Whether it was closed, by either side."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Once."""
        if not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        """At once, also where it is being closed."""
        self._transport.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nothing once it is closed."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def get_write_buffer_size(self) -> int:
        """Bytes."""
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Nothing once it is closed."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Nothing once it is closed."""
        if not self._transport.is_closing():
            self._transport.resume_reading()
