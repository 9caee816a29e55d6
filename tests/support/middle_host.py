"""A host in between, as a process of its own: a TCP relay with a delay, or a hospital's CONNECT proxy.

    python tests/middle_host.py --port 8443 --to 10.77.0.2:8443 --delay 0.1
    python tests/middle_host.py --port 3128 --credentials clerk:secret

stdout has one JSON value a line: what was opened or refused, and where to.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
from contextlib import suppress


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delay: float) -> None:
    """Bytes one way, each as much later as a long line makes it; in order, and many under way at once."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def take() -> None:
        content = b"-"
        while content:
            with suppress(OSError):
                content = b""
                content = await reader.read(1 << 16)
            under_way.put_nowait((loop.time() + delay, content))

    taking = asyncio.create_task(take())
    try:
        while True:
            due, content = await under_way.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not content:
                break
            writer.write(content)
            await writer.drain()
    except OSError:
        pass
    finally:
        taking.cancel()
        writer.close()


class MiddleHost:
    """Takes connections, and passes them on.

    Args:
        to: host:port that every connection goes to; None is a CONNECT proxy.
        credentials: user:password that a proxy asks for; None asks for none.
        forbidden: a proxy says 403 to everybody.
        delay: seconds that what comes back takes longer.
    """

    def __init__(self, *, to: str | None, credentials: str | None, forbidden: bool, delay: float) -> None:
        self._to, self._forbidden, self._delay = to, forbidden, delay
        self._wanted = b"Basic " + base64.b64encode(credentials.encode()) if credentials is not None else None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            target = self._to or await self._asked_for(reader, writer)
            if target is None:
                writer.close()
                return
            host, _, port = target.rpartition(":")
            there, back = await asyncio.open_connection(host, int(port))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.close()
            return
        if self._to is None:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        _say(opened=target)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pass_on(reader, back, delay=0.0))
            group.create_task(_pass_on(there, writer, delay=self._delay))

    async def _asked_for(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str | None:
        """Where a CONNECT leads to; None after a refusal."""
        request, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        method, target, _ = request.split(b" ")
        refusal = None
        if self._forbidden or method != b"CONNECT":
            refusal = b"403 Forbidden"
        elif self._wanted is not None and headers.get(b"proxy-authorization") != self._wanted:
            refusal = b'407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="hospital"'
        if refusal is None:
            return target.decode()
        _say(refused=target.decode(), status=int(refusal[:3]))
        writer.write(b"HTTP/1.1 " + refusal + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        return None


def _say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to")
    parser.add_argument("--credentials")
    parser.add_argument("--forbidden", action="store_true")
    parser.add_argument("--delay", type=float, default=0.0)
    options = parser.parse_args()
    middle = MiddleHost(
        to=options.to, credentials=options.credentials, forbidden=options.forbidden, delay=options.delay
    )
    server = await asyncio.start_server(middle.serve, "0.0.0.0", options.port)
    _say(listening=options.port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
