"""Strangers at the port of a real server, all the while that real sites train."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from stic_client.connection.tls import pinned
from support.federation_kit import Home, make_home
from support.waiting import PATIENCE_S, await_line

pytestmark = pytest.mark.processes

GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"

ATTACKS = {
    "pipelining": [GET * 500] * 4,
    "headers without end": [b"GET / HTTP/1.1\r\n", *[b"a: " + b"b" * 16_000 + b"\r\n"] * 20],
    "one header without end": [b"GET / HTTP/1.1\r\na: ", *[b"b" * 16_000] * 20],
}


def _attack(home: Home, context: ssl.SSLContext, pieces: list[bytes]) -> bytes:
    """One connection from another address, complete as far as a stranger can see; what came back inside TLS."""
    received = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(
            ("127.0.0.1", home.port), timeout=PATIENCE_S, source_address=("127.0.0.2", 0)
        ) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        with contextlib.suppress(OSError):
            for piece in pieces:
                line.sendall(piece)
        received = line.recv(1000)
    return received


# CPython leaves a TLS socket open whose peer resets it before the handshake began.
@pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_run_goes_on_among_strangers(tmp_path: Path) -> None:
    """Without a certificate and with its own, pipelining and headers without end: not a byte of HTTP, and every round counts."""
    home = make_home(tmp_path, rounds=3)
    ca = home.path / "server" / "ca.crt"
    contexts = [pinned(ca), pinned(ca, key=ec.generate_private_key(ec.SECP384R1()))]
    over, received, tries = threading.Event(), set[bytes](), Counter[str]()

    def attack() -> None:
        while not over.wait(0.01):
            for name, pieces in ATTACKS.items():
                for context in contexts:
                    received.add(_attack(home, context, pieces))
                    tries[name] += 1

    attackers = threading.Thread(target=attack, daemon=True)
    with (
        home.running("stic-server", "start") as server,
        home.running("stic-client", "--site", "center1", "--once", output=tmp_path / "center1.log"),
        home.running("stic-client", "--site", "center2", "--once", output=tmp_path / "center2.log"),
    ):
        await_line(server, "listening on")
        attackers.start()
        output, _ = server.communicate(timeout=PATIENCE_S)
    over.set()
    attackers.join(PATIENCE_S)
    assert server.returncode == 0, output
    assert "Traceback" not in output
    assert received == {b""}
    assert min(tries[name] for name in ATTACKS) > 1
    assert [row["sites"] for row in home.rounds()] == [["center1", "center2"]] * 3
