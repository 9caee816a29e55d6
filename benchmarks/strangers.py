"""Rounds while strangers attack the port, against quiet rounds of the same run.

    python benchmarks/strangers.py [--rounds 10] [--rate 1000] [--same-address] [--only NAME]

The run is that of round_overhead.py: real processes, TLS, 12.9 MB each way, sites that answer at
once. Each attack has four phases of as many rounds: quiet; a control, in which the attacker attacks
another process that only accepts and closes; the attack; and quiet again. On a machine with few
cores the attacker takes computing time from the rounds whatever it attacks: the control says how
much. Attackers run with `nice 19` and make at most `--rate` attempts a second, from 127.0.0.2; with
`--same-address` from the sites' own address, as behind one proxy.

The last line of the output is JSON. `ratio` is the median round under attack over the median quiet
round beside it, `control_ratio` the same for the control; `rss_growth_mb` is the server's most
resident memory under attack over the most of the quiet rounds and of the control before it;
`rss_mb` are the most of each phase, in order. The server's process gives freed blocks of 1 MB and
more back at once (MALLOC_MMAP_THRESHOLD_); else the buffers of its messages, which glibc keeps by
hundreds of MB, would hide what an attack takes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import round_overhead  # pyright: ignore[reportMissingImports] - this script's own folder
from cryptography.hazmat.primitives.asymmetric import ec

from stic_core.system.site_certificates import site_certificate

SITES = 2
WORKERS = 64
IDLE = 10_000
WARM_UP = 15
"""Rounds until the server's memory is what it stays."""

HEADER = b"a: " + b"b" * 1000 + b"\r\n"
REQUEST = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


class Attacker:
    """One process that attacks a port until SIGTERM, and then says what it did.

    Args:
        port: on 127.0.0.1.
        source: its own address.
        rate: attempts a second.
    """

    def __init__(self, port: int, *, source: str, rate: float) -> None:
        self._target, self._source, self._gap = ("127.0.0.1", port), (source, 0), 1.0 / rate
        self._next = time.monotonic()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        with tempfile.NamedTemporaryFile() as file:
            file.write(site_certificate(ec.generate_private_key(ec.SECP384R1())))
            file.flush()
            self._context.load_cert_chain(file.name)
        self.attempts = self.received = 0

    async def _turn(self) -> None:
        """Wait for the rate's next attempt."""
        self._next = max(self._next + self._gap, time.monotonic() - 1.0)
        self.attempts += 1
        await asyncio.sleep(max(0.0, self._next - time.monotonic()))

    async def _open(self, *, tls: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            *self._target, local_addr=self._source, ssl=self._context if tls else None
        )

    async def _send(self, *, tls: bool, begin: bytes = b"", more: bytes = b"") -> None:
        """Connect, send `begin` and `more` without end, and read whatever comes."""
        reader, writer = await self._open(tls=tls)
        try:
            writer.write(begin)
            while more:
                writer.write(more)
                await writer.drain()
                await asyncio.sleep(0)  # the others have their turn, whatever the kernel takes
            self.received += len(await reader.read())
        finally:
            writer.transport.abort()

    async def handshakes(self) -> None:
        """TLS with a key of its own."""
        await self._send(tls=True)

    async def garbage(self) -> None:
        """16 kB that are no TLS."""
        await self._send(tls=False, begin=random.randbytes(16_384))

    async def headers(self) -> None:
        """A request whose headers do not end."""
        await self._send(tls=True, begin=b"GET / HTTP/1.1\r\n", more=HEADER * 16)

    async def pipelining(self) -> None:
        """Requests that wait for no answer."""
        await self._send(tls=True, more=REQUEST * 500)

    async def _one_after_another(self, attempt: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._turn()
            with contextlib.suppress(OSError):
                await attempt()

    async def idle(self) -> None:
        """Ten thousand connections on which nothing is sent; those that are closed are opened again."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, IDLE + 100)), hard))
        held: list[socket.socket | None] = [None] * (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100)
        while True:
            for place in range(min(IDLE, len(held))):
                if _is_open(held[place]):
                    await asyncio.sleep(0)
                    continue
                await self._turn()
                fresh = held[place] = socket.socket()
                fresh.setblocking(False)
                with contextlib.suppress(OSError):
                    fresh.bind(self._source)
                    fresh.connect_ex(self._target)

    async def run(self, kind: str) -> None:
        """Attack."""
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        if kind == "idle":
            work = [asyncio.create_task(self.idle())]
        else:
            attempt = getattr(self, kind)
            work = [asyncio.create_task(self._one_after_another(attempt)) for _ in range(WORKERS)]
        print("begins", flush=True)
        await stop.wait()
        print(json.dumps({"attempts": self.attempts, "bytes_received": self.received}), flush=True)
        os._exit(0)  # not all of ten thousand connections say goodbye
        del work


def _is_open(line: socket.socket | None) -> bool:
    """Whether nobody has closed it: there is nothing to read, not even an end."""
    with contextlib.suppress(BlockingIOError):
        return False if line is None else bool(line.recv(1, socket.MSG_PEEK))
    return True


ATTACKS = ("handshakes", "idle", "garbage", "headers", "pipelining")


def sink(port: int) -> None:
    """Accept and close, as cheaply as can be."""
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    while True:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM, as Linux counts it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


class Watch:
    """A run's rounds, and its server's memory."""

    def __init__(self, server: subprocess.Popen[bytes], folder: Path) -> None:
        self._server, self._folder = server, folder
        self._most, self._over = 0.0, threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                self._most = max(self._most, resident_mb(self._server.pid))

    def rows(self) -> list[dict[str, Any]]:
        """The rounds that are over."""
        for file in self._folder.glob("runs/*/rounds.jsonl"):
            return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        return []

    def phase(self, rounds: int, *, within: float) -> tuple[list[float], float]:
        """So many whole rounds from now on: the seconds of each, and the most memory meanwhile."""
        begin = len(self.rows())
        self._most, until = 0.0, time.monotonic() + within
        while len(rows := self.rows()) < begin + 1 + rounds:
            if self._server.poll() is not None or time.monotonic() > until:
                raise SystemExit(
                    f"{len(rows) - begin} rounds in {within:g} s; the server's code: {self._server.poll()}"
                )
            time.sleep(0.05)
        return [row["seconds"] for row in rows[begin + 1 :]], self._most  # the first had begun before


@contextlib.contextmanager
def attack(kind: str, port: int, options: argparse.Namespace) -> Any:
    """An attacker while the block runs; what it says of itself is put into the dictionary that is given."""
    source = "127.0.0.1" if options.same_address else "127.0.0.2"
    command = [
        "nice",
        "-n",
        "19",
        sys.executable,
        __file__,
        "--as-attacker",
        kind,
        str(port),
        source,
        str(options.rate),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said: dict[str, Any] = {}
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it says that it begins
        began = time.monotonic()
        yield said
        process.terminate()
        out, _ = process.communicate(timeout=30)
        found = json.loads(out)
        said["attempts_per_second"] = round(found["attempts"] / (time.monotonic() - began), 1)
        said["bytes_received"] = found["bytes_received"]
    finally:
        process.kill()
        process.wait()


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run, in phases."""
    port, other = round_overhead._free_port(), round_overhead._free_port()
    kinds = [options.only] if options.only else list(ATTACKS)
    phases = 1 + 3 * len(kinds)
    this = [sys.executable, __file__]
    # More rounds than are measured: a phase begins in the middle of one.
    rounds = phases * (options.rounds + 30)
    server = subprocess.Popen(
        [*this, "--as-server", str(folder), str(port), str(rounds)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)},
    )
    dead = subprocess.Popen(["nice", "-n", "19", *this, "--as-sink", str(other)])
    within = options.rounds * options.patience
    try:
        watch = Watch(server, folder)
        while len(watch.rows()) < WARM_UP:
            if server.poll() is not None:
                raise SystemExit("the server has ended")
            time.sleep(0.1)
        before, memory = watch.phase(options.rounds, within=within)
        found: dict[str, Any] = {}
        for kind in kinds:
            with attack(kind, other, options):
                control, control_memory = watch.phase(options.rounds, within=within)
            with attack(kind, port, options) as said:
                under, most = watch.phase(options.rounds, within=within)
            after, quiet_memory = watch.phase(options.rounds, within=within)
            quiet = statistics.median(before + after)
            found[kind] = {
                "quiet_seconds": round(quiet, 3),
                "attack_seconds": round(statistics.median(under), 3),
                "control_seconds": round(statistics.median(control), 3),
                "ratio": round(statistics.median(under) / quiet, 2),
                "control_ratio": round(statistics.median(control) / quiet, 2),
                "rss_growth_mb": round(max(0.0, most - max(memory, control_memory)), 1),
                "rss_mb": [round(one, 1) for one in (memory, control_memory, most, quiet_memory)],
                **said,
            }
            print(json.dumps({kind: found[kind]}), file=sys.stderr)
            before, memory = after, quiet_memory
    finally:
        server.send_signal(signal.SIGINT)  # its sites end with it
        for process in (dead, server):
            if process is dead:
                process.kill()
            process.wait(30)
    return {
        "rounds": options.rounds,
        "cores": os.cpu_count(),
        "attackers": f"one process, nice 19, at most {options.rate:g} attempts a second, {WORKERS} at once",
        "same_address": options.same_address,
        "attacks": found,
    }


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="in each phase")
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--same-address", action="store_true")
    parser.add_argument("--only", choices=ATTACKS)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for a round before giving up")
    parser.add_argument("--as-server", nargs=3, metavar=("FOLDER", "PORT", "ROUNDS"), help=argparse.SUPPRESS)
    parser.add_argument("--as-sink", metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument(
        "--as-attacker", nargs=4, metavar=("KIND", "PORT", "FROM", "RATE"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.as_server:
        folder, port, rounds = options.as_server
        round_overhead.quiet_flower()
        with contextlib.suppress(KeyboardInterrupt):
            round_overhead.server(Path(folder), sites=SITES, rounds=int(rounds), port=int(port))
    elif options.as_sink:
        sink(int(options.as_sink))
    elif options.as_attacker:
        kind, port, source, rate = options.as_attacker
        asyncio.run(Attacker(int(port), source=source, rate=float(rate)).run(kind))
    else:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Path(folder), options)))


if __name__ == "__main__":
    main()
