"""Hostile input at the server's port: refused or bounded, and the server goes on serving."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from federation_kit import free_port
from stic_core.errors import NotAdmittedError
from stic_core.keys import load_private, make_key_pair
from stic_server.certificates import make_certificates
from stic_server.connections import BoundedConnection
from stic_server.flower_link import FleetServer, Listen
from stic_server.sites import admit


class Port:
    """A running server, and how to reach it."""

    def __init__(self, folder: Path) -> None:
        make_certificates(folder, names=["127.0.0.1"])
        admit(folder / "sites", name="center1", public_key=make_key_pair(folder / "center1.key"))
        self.folder, self.port = folder, free_port()
        self.server = FleetServer(
            Listen("127.0.0.1", self.port, folder / "server.crt", folder / "server.key", folder / "ca.crt")
        )
        self.server.watch(folder / "sites")
        self.server.start()
        self.context = ssl.create_default_context(cafile=str(folder / "ca.crt"))

    def connect(self, *, tls: bool = True) -> socket.socket:
        """A connection of its own."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        if not tls:
            return plain
        line = self.context.wrap_socket(plain, server_hostname="127.0.0.1", do_handshake_on_connect=False)
        try:
            line.do_handshake()
        except OSError:
            line.close()
            raise
        return line

    def post(self, path: str, content: bytes, **headers: str) -> int:
        """Status of a request."""
        url = f"https://127.0.0.1:{self.port}{path}"
        with httpx.Client(verify=self.context, trust_env=False) as client:
            return client.post(
                url, content=content, headers={"content-type": "application/protobuf", **headers}
            ).status_code

    def serves(self) -> bool:
        """Whether an honest request is still answered."""
        with httpx.Client(verify=self.context, trust_env=False, timeout=10) as client:
            return client.get(f"https://127.0.0.1:{self.port}/health").status_code == 200


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """A server in this process, on a port of its own, under TLS."""
    made = Port(tmp_path_factory.mktemp("port"))
    yield made
    made.server.stop()


@pytest.mark.parametrize("seed", range(5))
def test_garbage_before_tls(port: Port, seed: int) -> None:
    """Bytes that are no TLS close that connection and no other."""
    with port.connect(tls=False) as raw:
        raw.sendall(random.Random(seed).randbytes(500))
        raw.settimeout(10)
        try:
            while raw.recv(1000):
                pass
        except ConnectionResetError:
            pass
    assert port.serves()


@pytest.mark.parametrize("seed", range(5))
def test_garbage_inside_tls(port: Port, seed: int) -> None:
    """Bytes that are no HTTP are answered 400 or closed."""
    with port.connect() as line:
        line.sendall(random.Random(seed).randbytes(500) + b"\r\n\r\n")
        line.settimeout(15)
        try:
            answered = line.recv(100)
        except (ConnectionResetError, ssl.SSLError):
            answered = b""
    assert answered == b"" or answered.startswith(b"HTTP/1.1 400")
    assert port.serves()


@pytest.mark.parametrize(
    "endpoint", ["activate-node", "pull-messages", "push-messages", "push-object", "send-node-heartbeat"]
)
@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f"], ids=["empty", "ff", "length"]
)
def test_malformed_protobuf(port: Port, endpoint: str, content: bytes) -> None:
    """No request that is not a signed protobuf gets past the door: 4xx, never 5xx or 2xx."""
    assert 400 <= port.post(f"/v1/fleet/{endpoint}", content) < 500
    assert port.serves()


def test_a_signature_of_another_key_is_refused(port: Port, tmp_path: Path) -> None:
    """A stranger with a key of its own cannot sign on, nor speak as a node that it is not."""
    from stic_client.flower_link import FleetLink

    make_key_pair(tmp_path / "stranger.key")

    class Quiet:
        def note(self, text: str) -> None:
            """Nothing."""

    link = FleetLink(
        f"127.0.0.1:{port.port}",
        ca=port.folder / "ca.crt",
        key=load_private(tmp_path / "stranger.key"),
        state=tmp_path / "node.json",
        observer=Quiet(),
    )
    with pytest.raises(NotAdmittedError):
        link.serve(None, node_config={}, until=lambda: True)  # pyright: ignore[reportArgumentType]


# The ssl module leaves a socket to the garbage collector when its handshake is aborted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_connections_are_bounded(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the places taken, further ones are closed; with one free again, the server serves."""
    monkeypatch.setattr(BoundedConnection, "max_connections", 20)
    held = [port.connect() for _ in range(20)]
    try:
        refused = 0
        for _ in range(5):
            try:
                with port.connect() as line:
                    line.settimeout(5)
                    line.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                    refused += line.recv(10) == b""
            except OSError:
                refused += 1
        assert refused == 5
    finally:
        for line in held:
            line.close()
    time.sleep(0.3)
    assert port.serves()


def test_a_trickle_is_cut_off(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow-loris: headers, or a body, a byte at a time, are closed after a look or two."""
    monkeypatch.setattr(BoundedConnection, "look_s", 0.5)
    begin = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-type: application/protobuf\r\n"
    for start in (begin, begin + b"content-length: 1000000\r\n\r\n"):
        with port.connect() as line:
            line.sendall(start)
            began = time.monotonic()
            closed = threading.Event()

            def drip(line: ssl.SSLSocket = line, closed: threading.Event = closed) -> None:
                while not closed.is_set():
                    try:
                        line.sendall(b"a")
                    except OSError:
                        return
                    time.sleep(0.1)

            thread = threading.Thread(target=drip, daemon=True)
            thread.start()
            line.settimeout(8)
            with contextlib.suppress(ConnectionResetError, ssl.SSLError):
                assert line.recv(10) == b""
            assert time.monotonic() - began < 5
            closed.set()
            thread.join(2)
    assert port.serves()


def test_a_slow_but_honest_upload_passes(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body at 4 kB a look is slow and not a trickle: it is read to its end and then judged."""
    monkeypatch.setattr(BoundedConnection, "look_s", 0.5)
    with port.connect() as line:
        line.sendall(b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: 24576\r\n\r\n")
        for _ in range(24):
            line.sendall(b"\xff" * 1024)
            time.sleep(0.1)
        line.settimeout(8)
        assert line.recv(12).startswith(b"HTTP/1.1 4")
