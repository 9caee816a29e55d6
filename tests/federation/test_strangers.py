"""Whoever is not admitted, at the server's port: no byte of HTTP is read from a stranger, and none is answered."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stic_client.connection.tls import pinned
from stic_client.flower_requests import SignedClient
from stic_core.system import site_certificates
from stic_core.system.keys import load_private, make_key_pair
from stic_server.admission.certificates import make_certificates
from stic_server.admission.registry import admit, admitted, revoke
from stic_server.flower_link import FleetServer, Listen
from stic_server.http import handshakes, listener
from stic_server.http.connection_limits import SiteConnection
from stic_server.http.handshakes import HandshakeLimits, network_of
from support.federation_kit import free_port
from support.waiting import PATIENCE_S, until


class Port:
    """A server that admits center1 and center2, and what reached its HTTP parsers."""

    def __init__(self, folder: Path) -> None:
        make_certificates(folder, names=["127.0.0.1"])
        for name in ("center1", "center2"):
            admit(folder / "sites", name=name, public_key=make_key_pair(folder / f"{name}.key"))
        make_key_pair(folder / "stranger.key")
        self.folder, self.port = folder, free_port()
        crt = folder / "server.crt"
        self.server = FleetServer(
            Listen("127.0.0.1", self.port, crt, crt.with_suffix(".key"), folder / "ca.crt")
        )
        self.look()
        self.server.start()

    def look(self) -> None:
        """What the server does every two seconds."""
        self.server.admit(admitted(self.folder / "sites"))

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """A private key."""
        return load_private(self.folder / f"{name}.key")

    def context(self, name: str | None) -> ssl.SSLContext:
        """What a client of that key has; None shows no certificate."""
        return pinned(self.folder / "ca.crt", key=None if name is None else self.key(name))

    def plain(self, *, source: str = "127.0.0.1") -> socket.socket:
        """A connection without TLS."""
        return socket.create_connection(
            ("127.0.0.1", self.port), timeout=PATIENCE_S, source_address=(source, 0)
        )

    def connect(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """With TLS 1.3, complete as far as a client can see."""
        return context.wrap_socket(self.plain(), server_hostname="127.0.0.1")

    def serves(self, name: str = "center1") -> bool:
        """Whether a site's request is answered."""
        with httpx.Client(verify=self.context(name), trust_env=False, timeout=PATIENCE_S) as client:
            return client.get(f"https://127.0.0.1:{self.port}/").status_code == 404


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    """One, which takes handshakes as fast as a test makes them."""
    monkeypatch.setattr(handshakes, "A_SECOND_PER_ADDRESS", 10_000)
    monkeypatch.setattr(handshakes, "A_SECOND", 10_000)
    made = Port(tmp_path)
    yield made
    made.server.stop()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every byte that an HTTP parser of the server is given."""
    found: list[bytes] = []
    receive = SiteConnection.data_received

    def received(connection: SiteConnection, data: bytes) -> None:
        found.append(data)
        receive(connection, data)

    monkeypatch.setattr(SiteConnection, "data_received", received)
    return found


def _signed_by(
    signer: ec.EllipticCurvePrivateKey, *, name_of: ec.EllipticCurvePublicKey, port: Port
) -> ssl.SSLContext:
    """The stranger's key under a certificate in the name of an admitted one, whoever signed that."""
    own = port.key("stranger")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(site_certificates._issuer(name_of))
        .public_key(own.public_key())
        .serial_number(1)
        .not_valid_before(site_certificates._BEGIN)
        .not_valid_after(site_certificates._END)
        .sign(signer, hashes.SHA384())
    )
    file = port.folder / "forged.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + own.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = pinned(port.folder / "ca.crt")
    context.load_cert_chain(file)
    return context


def _revoked(port: Port) -> ssl.SSLContext:
    revoke(port.folder / "sites", name="center2")
    port.look()
    return port.context("center2")


def _answer(line: socket.socket, *pieces: bytes) -> bytes:
    """What comes back until the end of the connection, or the first kilobyte of it."""
    received = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        for piece in pieces:
            line.sendall(piece)
        while len(received) < 1000 and (more := line.recv(1000)):
            received += more
    return received


STRANGERS: dict[str, Callable[[Port], ssl.SSLContext]] = {
    "no certificate": lambda port: port.context(None),
    "a certificate of its own": lambda port: port.context("stranger"),
    "its key in the name of an admitted one": lambda port: _signed_by(
        port.key("stranger"), name_of=port.key("center1").public_key(), port=port
    ),
    "its key, certified by an admitted site": lambda port: _signed_by(
        port.key("center1"), name_of=port.key("center1").public_key(), port=port
    ),
    "a revoked certificate": _revoked,
}

GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"

REQUESTS = {
    "a request": [GET],
    "pipelined requests": [GET * 1000] * 10,
    "headers without end": [b"GET / HTTP/1.1\r\n", *[b"a: " + b"b" * 16_000 + b"\r\n"] * 50],
    "one header without end": [b"GET / HTTP/1.1\r\na: ", *[b"b" * 16_000] * 50],
    "garbage": [random.Random(0).randbytes(10_000)],
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_no_stranger_gets_a_byte_of_http(port: Port, parsed: list[bytes], stranger: str) -> None:
    """Whatever it sends, what comes back is TLS's no; the parser has seen nothing, and a site is served."""
    context = STRANGERS[stranger](port)
    for pieces in REQUESTS.values():
        with port.connect(context) as line:
            assert _answer(line, *pieces) == b""
    assert parsed == []
    assert port.serves()
    assert parsed != []


def test_a_certificate_is_worth_nothing_without_its_key(port: Port) -> None:
    """A certificate crosses the wire and is no secret; TLS has nobody present one whose key it does not hold."""
    theirs = site_certificates.site_certificate(port.key("center1")).split(b"-----BEGIN PRIVATE")[0]
    own = site_certificates.site_certificate(port.key("stranger")).split(b"-----BEGIN PRIVATE")[1]
    file = port.folder / "stolen.pem"
    file.write_bytes(theirs + b"-----BEGIN PRIVATE" + own)
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        port.context(None).load_cert_chain(file)


def test_a_stranger_hears_that_its_key_is_not_admitted(port: Port) -> None:
    """In TLS's own words, so that its client ends with one line; so does a site that was revoked."""
    for name in ("stranger", "center2"):
        with SignedClient(f"127.0.0.1:{port.port}", ca=port.folder / "ca.crt", key=port.key(name)) as client:
            if name == "center2":
                assert client.ask_admission() == "admitted"
                _revoked(port)
            assert client.ask_admission() == "unknown"


def test_revocation_ends_connections_that_are_open(port: Port) -> None:
    """The revoked site's are closed at once, in the middle of whatever it sends; the others' stay."""
    theirs, other = port.connect(port.context("center2")), port.connect(port.context("center1"))
    with theirs, other:
        theirs.sendall(b"POST /v1/fleet/push-object HTTP/1.1\r\n")
        until(lambda: len(port.server.entrance._open) == 2, what="both are in")
        _revoked(port)
        assert _answer(theirs) == b""
        assert _answer(other, GET).startswith(b"HTTP/1.1 404")


def test_no_session_is_resumed(port: Port, parsed: list[bytes]) -> None:
    """The server gives no ticket, and one of before does not bring a revoked site back."""
    context = port.context("center2")
    with port.connect(context) as line:
        assert _answer(line, GET).startswith(b"HTTP/1.1 404")
        session = line.session
    assert session is None or not session.has_ticket
    _revoked(port)
    parsed.clear()
    with context.wrap_socket(port.plain(), server_hostname="127.0.0.1", session=session) as again:
        assert not again.session_reused
        assert _answer(again, GET) == b""
    assert parsed == []


def test_a_key_is_replaced(port: Port) -> None:
    """From the server's next look on it is the new key that is let in."""
    public = make_key_pair(port.folder / "new.key")
    admit(port.folder / "sites", name="center2", public_key=public, replace=True)
    port.look()
    assert port.serves("new")
    with port.connect(port.context("center2")) as line:
        assert _answer(line, GET) == b""


def test_a_server_without_sites_lets_nobody_in(port: Port, parsed: list[bytes]) -> None:
    """No key is admitted: not even the server's own certificate opens the port."""
    port.server.admit([])
    context = pinned(port.folder / "ca.crt")
    context.load_cert_chain(port.folder / "server.crt", port.folder / "server.key")
    for each in (context, port.context("center1")):
        with port.connect(each) as line:
            assert _answer(line, GET) == b""
    assert parsed == []


def test_older_tls_is_refused(port: Port) -> None:
    """Before TLS 1.3 a certificate crosses the wire in the clear."""
    context = port.context("center1")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with port.plain() as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="127.0.0.1").close()


@pytest.mark.parametrize("seed", range(3))
def test_garbage_before_tls(port: Port, seed: int) -> None:
    """Bytes that are no TLS close that connection and no other."""
    with port.plain() as raw:
        _answer(raw, random.Random(seed).randbytes(500))
    assert port.serves()


def test_a_handshake_has_its_time(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that never begins one is closed, and its place is free."""
    monkeypatch.setattr(listener, "HANDSHAKE_S", 0.1)
    with port.plain() as silent:
        assert silent.recv(1) == b""
    until(lambda: not port.server.entrance.limits.pending, what="the place is free again")


def test_idle_connections_by_the_thousand(port: Port) -> None:
    """Without a handshake: an address gets its share, no more; a site elsewhere is served meanwhile.

    1,500 take seconds; STIC_IDLE_CONNECTIONS=10000 is the ten thousand. Both ends are in this
    process, so it can open half as many as it has file descriptors.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(int(os.environ.get("STIC_IDLE_CONNECTIONS", "1500")), soft // 2 - 300)
    assert many > 10 * handshakes.PENDING_PER_ADDRESS, f"raise the limit on open files, {soft}, for this test"
    held: list[socket.socket] = []
    pending = port.server.entrance.limits.pending
    most = opened = 0
    try:
        for _ in range(0, many, 100):  # no more at once than the kernel queues
            some = [socket.socket() for _ in range(100)]
            held += some
            for line in some:
                line.setblocking(False)
                line.connect_ex(("127.0.0.1", port.port))
            opened += _connected(some)
            most = max(most, pending["127.0.0.1"])
        assert most == handshakes.PENDING_PER_ADDRESS
        assert opened > many * 0.9
        transport = httpx.HTTPTransport(
            verify=port.context("center1"), local_address="127.0.0.2", trust_env=False
        )
        with httpx.Client(transport=transport, timeout=PATIENCE_S) as elsewhere:
            assert elsewhere.get(f"https://127.0.0.1:{port.port}/").status_code == 404
    finally:
        for line in held:
            line.close()
    until(lambda: not pending, what="the places are free again")
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


class Clock:
    """Seconds, as a test sets them."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_how_many_handshakes_may_be_under_way() -> None:
    """Sixteen of one address and 128 in all; an address that a site came from is not crowded out by others."""
    limits = HandshakeLimits(Clock())
    assert [limits.begin("a") for _ in range(17)] == [True] * 16 + [False]
    clock = Clock()
    limits = HandshakeLimits(clock)
    for number in range(8):
        clock.now += 1  # so that it is not the number in a second that counts
        assert all(limits.begin(f"c{number}") for _ in range(16))
    clock.now += 1
    assert not limits.begin("site")
    limits.know("site")
    assert limits.begin("site")
    limits.end("c0")
    limits.end("site")
    assert limits.begin("d")
    assert not limits.begin("e")


def test_how_many_handshakes_may_begin_in_a_second() -> None:
    """Twenty of one address and sixty in all, and again in the next second; those of sites are not counted."""
    clock = Clock()
    limits = HandshakeLimits(clock)

    def tries(address: str, count: int) -> int:
        begun = 0
        for _ in range(count):
            if limits.begin(address):
                limits.end(address)
                begun += 1
        return begun

    for _ in range(2):
        assert [tries(name, 30) for name in "abcd"] == [20, 20, 20, 0]
        limits.know("site")
        assert tries("site", 30) == 20
        clock.now += 1.0
    for _ in range(100):
        assert limits.begin("site")
        limits.know("site")
        limits.end("site")


def test_addresses_that_are_remembered_are_bounded() -> None:
    """The one that a site came from last is the last to be forgotten."""
    limits = HandshakeLimits(Clock())
    for number in range(5000):
        limits.know(str(number))
        limits.know("always")
    assert len(limits._known) == 1024
    assert "always" in limits._known


def test_who_has_one_ipv6_address_has_many() -> None:
    """All addresses of a /64 count as one; an IPv4 address is itself."""
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("192.0.2.1") == "192.0.2.1"


def test_the_servers_own_health_is_not_on_the_sites_port(port: Port) -> None:
    """404 for an admitted site; and the port counts as served from its start to its end."""
    with httpx.Client(verify=port.context("center1"), trust_env=False, timeout=PATIENCE_S) as client:
        assert client.get(f"https://127.0.0.1:{port.port}/health").status_code == 404
    assert port.server.answers()
    port.server.stop()
    assert not port.server.answers()
