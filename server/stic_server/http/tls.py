"""TLS in which the server knows exactly the admitted keys; every other handshake ends before HTTP begins."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stic_core.system.site_certificates import trust_anchor

BEING_ACCEPTED: ContextVar[socket.socket] = ContextVar("BEING_ACCEPTED")
"""The connection whose handshake begins in this asyncio task."""


class _Handshake(ssl.SSLObject):
    """A handshake whose other side hears why it failed: asyncio closes the connection before it can say so."""

    say_why: Callable[[], None]

    def do_handshake(self) -> None:
        """One step."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self.say_why()
            raise


class SiteContext(ssl.SSLContext):
    """TLS 1.3 for sites whose keys are admitted.

    A session is never resumed: a key that was revoked would come back with a ticket.

    Args:
        certificate: the server's, and its key.
        keys: admitted, PEM (SubjectPublicKeyInfo).

    Raises:
        ssl.SSLError: certificate and key do not fit, as while the two files are being replaced.
    """

    sslobject_class = _Handshake

    def __new__(cls, certificate: Path, key: Path, keys: Iterable[bytes]) -> SiteContext:
        """The protocol is fixed."""
        del certificate, key, keys
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, certificate: Path, key: Path, keys: Iterable[bytes]) -> None:
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        self.num_tickets = 0
        self.load_cert_chain(certificate, key)
        self.verify_mode = ssl.CERT_REQUIRED
        self.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        anchors = b"".join(map(_anchor, keys))
        if anchors:
            self.load_verify_locations(cadata=anchors)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As asyncio asks for it."""
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(made, _Handshake)
        made.say_why = partial(_send, BEING_ACCEPTED.get(), outgoing)
        return made


def _send(connection: socket.socket, outgoing: ssl.MemoryBIO) -> None:
    with suppress(OSError):  # it may be gone
        connection.send(outgoing.read())


def _anchor(pem: bytes) -> bytes:
    key = serialization.load_pem_public_key(pem)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # admitted keys are
    return trust_anchor(key)
