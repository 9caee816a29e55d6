"""An admitted site that sends what it likes to the server's port: refused or bounded, and the server goes on serving.

What a stranger can send is in `test_strangers.py`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from stic_client.connection.tls import pinned
from stic_core.system.keys import load_private, make_key_pair
from stic_server.admission.certificates import make_certificates
from stic_server.admission.registry import admit
from stic_server.flower_link import FleetServer, Listen
from stic_server.http import handshakes
from stic_server.http.connection_limits import LEAST_BYTES, MAX_HEADERS, SiteConnection
from stic_server.http.listener import CONNECTIONS_PER_SITE
from stic_server.http.request_guard import AT_ONCE, SMALL_BODY, Guard
from support.federation_kit import free_port
from support.waiting import PATIENCE_S, until

Headers = list[tuple[str, str]]


class Port:
    """A running server, and how its admitted site center1 reaches it."""

    def __init__(self, folder: Path) -> None:
        make_certificates(folder, names=["127.0.0.1"])
        for name in ("center1", "center2"):
            admit(folder / "sites", name=name, public_key=make_key_pair(folder / f"{name}.key"))
        self.folder, self.port, self.notes = folder, free_port(), list[str]()
        self.server = FleetServer(
            Listen("127.0.0.1", self.port, folder / "server.crt", folder / "server.key", folder / "ca.crt"),
            note=self.notes.append,
        )
        self.server.watch(folder / "sites")
        self.server.start()
        self.contexts = {
            name: pinned(folder / "ca.crt", key=load_private(folder / f"{name}.key"))
            for name in ("center1", "center2")
        }

    def connect(self, *, name: str = "center1") -> ssl.SSLSocket:
        """A connection of its own."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        return self.contexts[name].wrap_socket(plain, server_hostname="127.0.0.1")

    def post(
        self, path: str, content: bytes, headers: Headers | None = None, *, name: str = "center1"
    ) -> int:
        """Status of a request."""
        url = f"https://127.0.0.1:{self.port}{path}"
        named = [("content-type", "application/protobuf"), *(headers or [])]
        with httpx.Client(verify=self.contexts[name], trust_env=False) as client:
            return client.post(url, content=content, headers=named).status_code

    def signed(self, *, at: dt.datetime | None = None, name: str = "center1") -> Headers:
        """What a site sends with a request: the time, signed, as Flower's client does it."""
        key = load_private(self.folder / f"{name}.key")
        time_text = (at or dt.datetime.now(dt.UTC)).isoformat()
        return [
            ("flwr-public-key", base64.b64encode(public_key_to_bytes(key.public_key())).decode()),
            ("flwr-timestamp", time_text),
            ("flwr-signature", base64.b64encode(sign_message(key, time_text.encode())).decode()),
        ]

    def serves(self) -> bool:
        """Whether an honest request is still answered."""
        with httpx.Client(verify=self.contexts["center1"], trust_env=False, timeout=PATIENCE_S) as client:
            return client.get(f"https://127.0.0.1:{self.port}/health").status_code == 404


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """A server in this process, on a port of its own, under TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handshakes, "A_SECOND_PER_ADDRESS", 10_000)  # these tests come without a pause
        patch.setattr(handshakes, "A_SECOND", 10_000)
        made = Port(tmp_path_factory.mktemp("port"))
        yield made
        made.server.stop()


@pytest.mark.parametrize("seed", range(5))
def test_garbage_inside_tls(port: Port, seed: int) -> None:
    """Bytes that are no HTTP are answered 400 or closed."""
    with port.connect() as line:
        line.sendall(random.Random(seed).randbytes(500) + b"\r\n\r\n")
        line.settimeout(PATIENCE_S)
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
    """No request that is not a signed protobuf gets past the guard: 4xx, never 5xx or 2xx."""
    assert 400 <= port.post(f"/v1/fleet/{endpoint}", content) < 500
    assert port.serves()


def _closed(line: ssl.SSLSocket) -> bool:
    """Whether the server ends a connection without a byte of HTTP."""
    line.settimeout(PATIENCE_S)
    try:
        return line.recv(100) == b""
    except (ConnectionResetError, ssl.SSLError):
        return True


def test_connections_of_a_site_are_bounded(port: Port) -> None:
    """With its places taken, its further connections are closed; another site has its own places."""
    until(lambda: not port.server.entrance._open, what="the connections of the tests before are gone")
    held = [port.connect() for _ in range(CONNECTIONS_PER_SITE)]
    try:
        for line in held:
            line.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert line.recv(12) == b"HTTP/1.1 404"
        held += [port.connect() for _ in range(3)]
        assert all(map(_closed, held[CONNECTIONS_PER_SITE:]))
        assert port.post("/", b"", name="center2") == 404
    finally:
        for line in held:
            line.close()
    until(lambda: not port.server.entrance._open, what="those that were held are gone")
    assert port.serves()


@pytest.mark.parametrize("field", [b"a: b\r\n", b"a: " + b"b" * 65_536], ids=["many headers", "one header"])
def test_headers_without_end(port: Port, field: bytes) -> None:
    """16 kB and no blank line: the connection ends, and nothing was answered or kept."""
    with port.connect() as line:
        line.sendall(b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\n")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
            for _ in range(0, 2 * MAX_HEADERS, len(field)):
                line.sendall(field)
        assert _closed(line)
    assert port.serves()


def test_headers_may_be_long(port: Port) -> None:
    """Just below the bound, and a body in the same piece, is an ordinary request."""
    with port.connect() as line:
        begin = (
            b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: 30000\r\n"
            + _lines(port.signed())
            + b"a: "
        )
        line.sendall(begin + b"b" * (MAX_HEADERS - len(begin) - 4) + b"\r\n\r\n" + b"c" * 30_000)
        assert line.recv(12) == b"HTTP/1.1 415"  # read whole, and no protobuf


@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "one after the other"])
def test_pipelining(port: Port, monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    """A request that does not wait for the answer to the one before ends the connection."""
    answering, go_on = threading.Event(), threading.Event()
    app = port.server._config.loaded_app

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            answering.set()
            while not go_on.is_set():
                await asyncio.sleep(0.01)
        await app(scope, receive, send)

    monkeypatch.setattr(port.server._config, "loaded_app", slow)
    request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    with port.connect() as line:
        if apart:
            line.sendall(request)
            assert answering.wait(PATIENCE_S)
            line.sendall(request)
        else:
            line.sendall(request * 1000)
        assert _closed(line)
    go_on.set()
    assert port.serves()


def test_requests_of_a_site_at_once_are_bounded(port: Port) -> None:
    """So many bodies under way: the next request is told to come again, and another site is not."""
    begin = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-type: application/protobuf\r\ncontent-length: 1000\r\n"
    lines = [port.connect(name="center2") for _ in range(AT_ONCE)]
    try:
        for line in lines:
            line.sendall(begin + _lines(port.signed(name="center2")) + b"\r\na")
        guard = port.server._config.app
        assert isinstance(guard, Guard)
        until(lambda: len(guard._under_way.get("center2", ())) == AT_ONCE, what="all are under way")
        assert port.post("/v1/fleet/pull-messages", b"", port.signed(name="center2"), name="center2") == 503
        assert port.notes[-1:] == ["center2: too much at once; it may try again"]
    finally:
        port.notes.clear()
        for line in lines:
            line.close()
    until(lambda: not guard._under_way["center2"], what="nothing is under way")
    assert (
        port.post("/v1/fleet/pull-messages", b"", port.signed(name="center2"), name="center2") == 401
    )  # nobody's node


def test_only_content_may_be_large(port: Port) -> None:
    """Announcements and questions have 2 kB: 413 for one that says it has more than 256."""
    for path in ("push-messages", "pull-messages", "activate-node"):
        with port.connect() as line:
            begin = f"POST /v1/fleet/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {SMALL_BODY + 1}\r\n"
            line.sendall(begin.encode() + _lines(port.signed()) + b"\r\n")
            assert line.recv(12) == b"HTTP/1.1 413"


def test_a_trickle_is_cut_off(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow-loris: headers, or a body, a byte at a time, are closed after a look or two."""
    monkeypatch.setattr(SiteConnection, "look_s", 0.5)
    begin = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-type: application/protobuf\r\n"
    for start in (begin, begin + _lines(port.signed()) + b"content-length: 1000000\r\n\r\n"):
        with port.connect() as line:
            line.sendall(start)
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
            line.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionResetError, ssl.SSLError):
                assert line.recv(10) == b""
            closed.set()
            thread.join(PATIENCE_S)
    assert port.serves()


def test_a_slow_but_honest_upload_passes(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that grows by 1 kB from one look to the next is slow and not a trickle: it is read and then judged."""
    look, looks, sent = SiteConnection._look, 0, threading.Semaphore(0)

    def looking(connection: SiteConnection) -> None:
        nonlocal looks
        if connection._bytes < LEAST_BYTES and looks < 8:
            # This test's next piece is under way; on a busy machine a look would come before it.
            connection._timer = connection.loop.call_later(connection.look_s, connection._look)
            return
        looks += 1
        look(connection)
        sent.release()

    monkeypatch.setattr(SiteConnection, "look_s", 0.01)
    monkeypatch.setattr(SiteConnection, "_look", looking)
    with port.connect() as line:
        line.settimeout(PATIENCE_S)
        begin = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-type: application/protobuf\r\n"
        line.sendall(begin + _lines(port.signed()) + b"content-length: 8192\r\n\r\n")
        for _ in range(8):
            line.sendall(b"\xff" * LEAST_BYTES)
            assert sent.acquire(timeout=PATIENCE_S)
        assert line.recv(12) == b"HTTP/1.1 400"


def test_a_request_of_another_key_is_refused_before_the_body_is_read(port: Port) -> None:
    """With 200 MB announced and one byte sent, the answer is there: unsigned, forged, a stranger's, another site's."""
    make_key_pair(port.folder / "stranger.key")
    forged = dict(port.signed()) | {"flwr-signature": base64.b64encode(b"\0" * 100).decode()}
    for path, headers in (
        ("push-object", {}),
        ("push-object", forged),
        ("push-object", dict(port.signed(name="stranger"))),
        ("push-object", dict(port.signed(name="center2"))),
        ("activate-node", dict(port.signed(name="stranger"))),
        ("activate-node", dict(port.signed(name="center2"))),
    ):
        length = 200_000_000 if path == "push-object" else 1000
        with port.connect() as line:
            begin = f"POST /v1/fleet/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n"
            line.sendall(begin.encode() + _lines(list(headers.items())) + b"\r\na")
            line.settimeout(PATIENCE_S)
            assert line.recv(12) == b"HTTP/1.1 401"
    assert port.serves()


def _lines(headers: Headers) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode()


def _malleated(signature: str) -> str:
    """Another signature of the same text by the same key, which anyone can compute."""
    order = int(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
    )
    r, s = decode_dss_signature(base64.b64decode(signature))
    return base64.b64encode(encode_dss_signature(r, order - s)).decode()


def test_a_signature_counts_once(port: Port) -> None:
    """Captured headers are worth nothing: not again, not elsewhere, not with the signature's twin, not doubled."""
    key = dict(port.signed())["flwr-public-key"]
    sign_on = ActivateNodeRequest(public_key=base64.b64decode(key), heartbeat_interval=20).SerializeToString()
    headers = port.signed()
    assert port.post("/v1/fleet/activate-node", sign_on, headers) == 200
    assert port.post("/v1/fleet/activate-node", sign_on, headers) == 401
    assert port.post("/v1/fleet/deactivate-node", b"", headers) == 401
    twin = dict(headers) | {"flwr-signature": _malleated(dict(headers)["flwr-signature"])}
    assert port.post("/v1/fleet/activate-node", sign_on, list(twin.items())) == 401
    fresh = port.signed()
    for doubled in ([*fresh, headers[1]], [headers[1], *fresh]):
        assert port.post("/v1/fleet/activate-node", sign_on, doubled) == 401
    assert port.notes == [
        "center1: the same signed request came twice; the second was rejected"
    ]  # once a minute, not once a request
    assert (
        port.post("/v1/fleet/pull-messages", b"", fresh) == 401
    )  # nobody's node; but the signature is fresh
    assert port.post("/v1/fleet/pull-messages", b"", port.signed()) == 401


def test_the_twin_of_a_signature_is_valid(port: Port) -> None:
    """What the test above sends is a signature that Flower would take: it signs on once."""
    headers = dict(port.signed())
    sign_on = ActivateNodeRequest(
        public_key=base64.b64decode(headers["flwr-public-key"]), heartbeat_interval=0
    ).SerializeToString()
    headers["flwr-signature"] = _malleated(headers["flwr-signature"])
    # 401 would be an invalid signature; here only the heartbeat is out of range.
    assert port.post("/v1/fleet/activate-node", sign_on, list(headers.items())) == 400


@pytest.mark.parametrize("seconds", [-400, 60])
def test_a_signature_of_another_time_is_refused(port: Port, seconds: int) -> None:
    """Older than five minutes, or from the future: kept back by whoever captured it, it is worth nothing."""
    headers = port.signed(at=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds))
    sign_on = ActivateNodeRequest(
        public_key=base64.b64decode(headers[0][1]), heartbeat_interval=20
    ).SerializeToString()
    assert port.post("/v1/fleet/activate-node", sign_on, headers) == 401


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 100,
        PullMessagesRequest(node=Node(node_id=1)).SerializeToString(),
        b"\x0a\xff\xff\xff\xff\x0f",
    ],
    ids=["no protobuf", "another node", "length"],
)
@pytest.mark.parametrize("endpoint", ["pull-messages", "push-messages", "push-object"])
def test_a_site_speaks_for_itself_alone(port: Port, endpoint: str, content: bytes) -> None:
    """An admitted site with a broken request, or in the name of another node: 4xx."""
    assert 400 <= port.post(f"/v1/fleet/{endpoint}", content, port.signed()) < 500
    assert port.serves()


def test_what_flower_cannot_handle_is_refused(port: Port) -> None:
    """An admitted site pushes nothing at all, two replies in one request, a reply without a tree: 400."""
    key = base64.b64decode(port.signed()[0][1])
    node = Node(node_id=port.server._state.get_node_id_by_public_key(key) or 0)
    empty = PushMessagesRequest(node=node)
    two = PushMessagesRequest(node=node)
    for _ in range(2):
        two.messages_list.add().metadata.src_node_id = node.node_id
    for content in (empty, two):
        assert port.post("/v1/fleet/push-messages", content.SerializeToString(), port.signed()) == 400
    assert port.serves()


def test_a_connection_that_is_closing_when_the_server_stops(port: Port) -> None:
    """Regression: closed twice, then told to stop: `AttributeError` in the Fleet API's thread; it ends, and that is all."""
    with port.connect(name="center2"):
        until(lambda: any(port.server.entrance._open.values()), what="it is let in")
        (connection,) = next(iter(port.server.entrance._open.values()))

        async def stop() -> None:
            connection.transport.close()
            connection.transport.close()
            connection.shutdown()
            connection.transport.write(b"late")
            connection.flow.resume_reading()

        loop = port.server.entrance._loop
        assert loop is not None
        asyncio.run_coroutine_threadsafe(stop(), loop).result(PATIENCE_S)
        until(lambda: not any(port.server.entrance._open.values()), what="its place is free")
    assert port.serves()
