"""TLS in which the server knows exactly the admitted keys; every other handshake ends before HTTP begins."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

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


class _Context(ssl.SSLContext):
    sslobject_class = _Handshake

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *arguments: Any, **options: Any
    ) -> ssl.SSLObject:
        """As asyncio asks for it."""
        made = super().wrap_bio(incoming, outgoing, *arguments, **options)
        assert isinstance(made, _Handshake)
        made.say_why = partial(_send, BEING_ACCEPTED.get(), outgoing)
        return made


def context_for(keys: Iterable[bytes], *, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 for sites whose keys are admitted.

    A session is never resumed: a key that was revoked would come back with a ticket.

    Args:
        keys: admitted, PEM (SubjectPublicKeyInfo).
        certificate: the server's, and its key.

    Raises:
        ssl.SSLError: certificate and key do not fit, as while the two files are being replaced.
    """
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if anchors := b"".join(map(_anchor, keys)):
        context.load_verify_locations(cadata=anchors)
    return context


def _send(connection: socket.socket, outgoing: ssl.MemoryBIO) -> None:
    with suppress(OSError):  # it may be gone
        connection.send(outgoing.read())


def _anchor(pem: bytes) -> bytes:
    key = serialization.load_pem_public_key(pem)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # admitted keys are
    return trust_anchor(key)
