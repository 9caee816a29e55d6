"""Hostile input at the server's port: refused or bounded, and the server goes on serving."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import gc
import os
import random
import resource
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from stic_core.errors import NotAdmittedError
from stic_core.system.keys import load_private, make_key_pair
from stic_server.admission.certificates import make_certificates
from stic_server.admission.registry import admit
from stic_server.flower_link import FleetServer, Listen
from stic_server.http.connection_limits import LEAST_BYTES, BoundedConnection
from stic_server.http.listener import MAX_PER_ADDRESS
from support.federation_kit import free_port
from support.waiting import PATIENCE_S, until

Headers = list[tuple[str, str]]


class Port:
    """A running server, and how to reach it."""

    def __init__(self, folder: Path) -> None:
        make_certificates(folder, names=["127.0.0.1"])
        admit(folder / "sites", name="center1", public_key=make_key_pair(folder / "center1.key"))
        self.folder, self.port, self.notes = folder, free_port(), list[str]()
        self.server = FleetServer(
            Listen("127.0.0.1", self.port, folder / "server.crt", folder / "server.key", folder / "ca.crt"),
            note=self.notes.append,
        )
        self.server.watch(folder / "sites")
        self.server.start()
        self.context = ssl.create_default_context(cafile=str(folder / "ca.crt"))

    def connect(self, *, tls: bool = True) -> socket.socket:
        """A connection of its own."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        if not tls:
            return plain
        line = self.context.wrap_socket(plain, server_hostname="127.0.0.1", do_handshake_on_connect=False)
        try:
            line.do_handshake()
        except OSError:
            line.close()
            raise
        return line

    def post(self, path: str, content: bytes, headers: Headers | None = None) -> int:
        """Status of a request."""
        url = f"https://127.0.0.1:{self.port}{path}"
        named = [("content-type", "application/protobuf"), *(headers or [])]
        with httpx.Client(verify=self.context, trust_env=False) as client:
            return client.post(url, content=content, headers=named).status_code

    def signed(self, *, at: dt.datetime | None = None) -> Headers:
        """What center1 sends with a request: the time, signed, as Flower's client does it."""
        key = load_private(self.folder / "center1.key")
        time_text = (at or dt.datetime.now(dt.UTC)).isoformat()
        return [
            ("flwr-public-key", base64.b64encode(public_key_to_bytes(key.public_key())).decode()),
            ("flwr-timestamp", time_text),
            ("flwr-signature", base64.b64encode(sign_message(key, time_text.encode())).decode()),
        ]

    def serves(self) -> bool:
        """Whether an honest request is still answered."""
        with httpx.Client(verify=self.context, trust_env=False, timeout=PATIENCE_S) as client:
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
        raw.settimeout(PATIENCE_S)
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
    """With every connection taken, further ones are closed; with one free again, the server serves."""
    monkeypatch.setattr(BoundedConnection, "max_connections", 20)
    held = [port.connect() for _ in range(20)]
    try:
        refused = 0
        for _ in range(5):
            try:
                with port.connect() as line:
                    line.settimeout(PATIENCE_S)
                    line.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                    refused += line.recv(10) == b""
            except OSError:
                refused += 1
        assert refused == 5
    finally:
        for line in held:
            line.close()
        gc.collect()  # here, under this test's filter, and not in whichever test comes later
    until(lambda: not port.server._uvicorn.server_state.connections, what="those that were held are gone")
    assert port.serves()


def test_a_trickle_is_cut_off(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow-loris: headers, or a body, a byte at a time, are closed after a look or two."""
    monkeypatch.setattr(BoundedConnection, "look_s", 0.5)
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
    look, looks, sent = BoundedConnection._look, 0, threading.Semaphore(0)

    def looking(connection: BoundedConnection) -> None:
        nonlocal looks
        if connection._bytes < LEAST_BYTES and looks < 8:
            # This test's next piece is under way; on a busy machine a look would come before it.
            connection._timer = connection.loop.call_later(connection.look_s, connection._look)
            return
        looks += 1
        look(connection)
        sent.release()

    monkeypatch.setattr(BoundedConnection, "look_s", 0.01)
    monkeypatch.setattr(BoundedConnection, "_look", looking)
    with port.connect() as line:
        line.settimeout(PATIENCE_S)
        begin = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-type: application/protobuf\r\n"
        line.sendall(begin + _lines(port.signed()) + b"content-length: 8192\r\n\r\n")
        for _ in range(8):
            line.sendall(b"\xff" * LEAST_BYTES)
            assert sent.acquire(timeout=PATIENCE_S)
        assert line.recv(12) == b"HTTP/1.1 400"


def test_whoever_has_no_key_is_refused_before_the_body_is_read(port: Port) -> None:
    """With 200 MB announced and one byte sent, the answer is there: 401, or 413 for a stranger's sign-on."""
    make_key_pair(port.folder / "stranger.key")
    stranger = public_key_to_bytes(load_private(port.folder / "stranger.key").public_key())
    named = dict(port.signed()) | {"flwr-public-key": base64.b64encode(stranger).decode()}
    forged = dict(port.signed()) | {"flwr-signature": base64.b64encode(b"\0" * 100).decode()}
    for path, headers, status in (
        ("push-object", {}, b"401"),
        ("push-object", forged, b"401"),
        ("push-object", named, b"401"),
        ("activate-node", named, b"413"),
    ):
        with port.connect() as line:
            begin = f"POST /v1/fleet/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: 200000000\r\n"
            line.sendall(begin.encode() + _lines(list(headers.items())) + b"\r\na")
            line.settimeout(PATIENCE_S)
            assert line.recv(12) == b"HTTP/1.1 " + status
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
    node = Node(node_id=port.server._state.get_node_id_by_public_key(key))
    empty = PushMessagesRequest(node=node)
    two = PushMessagesRequest(node=node)
    for _ in range(2):
        two.messages_list.add().metadata.src_node_id = node.node_id
    for content in (empty, two):
        assert port.post("/v1/fleet/push-messages", content.SerializeToString(), port.signed()) == 400
    assert port.serves()


def _connected(lines: list[socket.socket]) -> int:
    """How many of these connections come about, whatever becomes of them then."""
    poll, found = select.poll(), 0
    for line in lines:
        poll.register(line, select.POLLOUT)
    while found < len(lines) and (ready := poll.poll(3000)):
        for descriptor, _ in ready:
            poll.unregister(descriptor)
            found += 1
    return found


def test_idle_connections_by_the_thousand(port: Port) -> None:
    """Without a handshake: an address gets its share, no more; a site elsewhere is served meanwhile.

    1,500 take seconds; STIC_IDLE_CONNECTIONS=10000 is the ten thousand. Both ends are in this
    process, so it can open half as many as it has file descriptors.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(int(os.environ.get("STIC_IDLE_CONNECTIONS", "1500")), soft // 2 - 300)
    assert many > 2 * MAX_PER_ADDRESS, f"raise the limit on open files, {soft}, for this test"
    held: list[socket.socket] = []
    taken = port.server.limiter.taken
    most = opened = 0
    try:
        for _ in range(0, many, 100):  # no more at once than the kernel queues
            some = [socket.socket() for _ in range(100)]
            held += some
            for line in some:
                line.setblocking(False)
                line.connect_ex(("127.0.0.1", port.port))
            opened += _connected(some)
            most = max(most, taken["127.0.0.1"])
        assert most == taken["127.0.0.1"] == MAX_PER_ADDRESS
        assert opened > many * 0.9
        transport = httpx.HTTPTransport(verify=port.context, local_address="127.0.0.2", trust_env=False)
        with httpx.Client(transport=transport, timeout=PATIENCE_S) as elsewhere:
            assert elsewhere.get(f"https://127.0.0.1:{port.port}/health").status_code == 200
    finally:
        for line in held:
            line.close()
    until(lambda: not taken["127.0.0.1"], what="the places are free again")
    assert port.serves()
