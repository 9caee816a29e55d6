"""Whom a site trusts: the one CA that it pinned, and what it says of a server that is not reached."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx

from stic_core.errors import UntrustedServerError, UsageError


def pinned(ca: Path) -> ssl.SSLContext:
    """A context that trusts one CA and nothing else.

    Raises:
        UsageError: no certificate there.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=str(ca))
    except FileNotFoundError:
        raise UsageError(
            f"the server's CA certificate is not at {ca}",
            advice="Ask the operator for ca.crt and set server.ca in site.yaml.",
        ) from None
    except ssl.SSLError:
        raise UsageError(f"{ca} is not a certificate") from None
    return context


def why(error: httpx.TransportError, address: str) -> str:
    """A transport error in a few words.

    Raises:
        UntrustedServerError: a certificate that does not verify is no passing fault.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise UntrustedServerError(
                f"the certificate of {address} is not trusted",
                got=cause.verify_message,
                expected="a certificate from the CA in server.ca",
                advice="Compare the CA's fingerprint with the operator; someone may be in between.",
            ) from None
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ProxyError):
        return f"the proxy says no: {error}"
    if isinstance(error, httpx.ConnectError):
        return "connection refused or no route"
    if isinstance(error, httpx.TimeoutException):
        return "timed out"
    return type(error).__name__
