"""Whether the server is alive, for whoever starts it: a port of this machine alone, and plain HTTP.

It is answered in the loop that serves the sites, so an answer says that the loop turns.
"""

from __future__ import annotations

import asyncio
import socket

HOST = "127.0.0.1"
_WITHIN_S = 5.0
_LONGEST = 4096


async def serve_health(listener: socket.socket) -> asyncio.Server:
    """Answer `GET /health` with 200 and anything else with 404, until it is closed."""
    return await asyncio.start_server(_answer, sock=listener, limit=_LONGEST)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _WITHIN_S)
        status = b"200 OK" if request.startswith((b"GET /health ", b"HEAD /health ")) else b"404 Not Found"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()
