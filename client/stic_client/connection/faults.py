"""Why the server is not reached, in words that say whom to ask."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import httpx

from stic_client.connection.tls import pinned, proxy_of
from stic_core.errors import UntrustedServerError, UsageError

_REFUSALS = frozenset({"UNKNOWN_CA", "CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN"})
"""What TLS calls a key that the server does not admit."""

_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64
"""OpenSSL's X509_V_ERR_ of the same names."""

_SHOWN_WITHIN_S = 5.0


def refuses_key(error: httpx.TransportError) -> bool:
    """Whether it is the server that ended a connection, because of the key that was shown.

    With TLS 1.3 that comes with the first answer: to this side the connection was complete.
    """
    return any(
        isinstance(cause, ssl.SSLError) and (cause.reason or "").rpartition("_ALERT_")[2] in _REFUSALS
        for cause in _causes(error)
    )


def why(error: httpx.TransportError, address: str, *, ca: Path | None = None) -> str:
    """A transport error in a few words.

    Args:
        ca: the pinned CA's certificate, with which the names in a server's certificate can be looked at.

    Raises:
        UntrustedServerError: a certificate that does not verify is no passing fault.
    """
    proxy = proxy_of(address)
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            _refuse_certificate(cause, address, proxy=proxy, ca=ca)
    if isinstance(error, httpx.ProxyError):
        hint = {
            "407": "; it requires a user and a password: HTTPS_PROXY=http://user:password@host:port",
            "403": f"; ask the network's operators to allow this machine to CONNECT to {address}",
        }.get(str(error)[:3], "")
        return f"the proxy {proxy} answers {error}{hint}"
    if isinstance(error, httpx.ConnectError):
        if any(isinstance(cause, ssl.SSLError) for cause in chain):
            return f"no TLS connection{f' through the proxy {proxy}' if proxy else ''}"
        return _no_connection(chain, proxy=proxy, host=(proxy or address).rpartition(":")[0])
    if isinstance(error, httpx.TimeoutException):
        return f"timed out{f' through the proxy {proxy}' if proxy else ''}"
    return type(error).__name__


def _no_connection(chain: list[BaseException], *, proxy: str | None, host: str) -> str:
    for cause in chain:
        if isinstance(cause, socket.gaierror):
            if cause.errno == socket.EAI_AGAIN:
                return f"the name {host} cannot be looked up at the moment"
            return f"the name {host} is not found"
    if proxy:
        return f"the proxy {proxy} cannot be reached"
    numbers = {cause.errno for cause in chain if isinstance(cause, OSError)}
    if errno.ECONNREFUSED in numbers:
        return "connection refused"
    if numbers & {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return "no route to it"
    return "no connection"


def _refuse_certificate(
    fault: ssl.SSLCertVerificationError, address: str, *, proxy: str | None, ca: Path | None
) -> NoReturn:
    """Raise what the certificate's fault means; a proxy that intercepts TLS shows one of its own."""
    if fault.verify_code in {_OTHER_HOST, _OTHER_ADDRESS}:
        names = _names(address, ca) if ca is not None and proxy is None else []
        raise UntrustedServerError(
            f"the certificate of {address} is from the right CA, but not for this name",
            got=f"a certificate for {', '.join(names)}" if names else fault.verify_message,
            expected=f"one for {address.rpartition(':')[0]}",
            advice="Set server.address in site.yaml to a name that it has; or the operator adds this name to "
            "listen.names in federation.yaml and runs stic-server renew.",
        ) from None
    if fault.verify_code == _EXPIRED:
        raise UntrustedServerError(
            f"the certificate of {address}, or its CA's, has expired",
            got=fault.verify_message,
            advice="If this machine's clock is right, the operator runs stic-server status and then stic-server renew.",
        ) from None
    if fault.verify_code == _NOT_YET_VALID:
        raise UntrustedServerError(
            f"the certificate of {address} is not valid yet",
            got=fault.verify_message,
            advice="Check the date and time of this machine, and of the server's.",
        ) from None
    raise UntrustedServerError(
        f"the certificate of {address} is not trusted" + (f", or its proxy's ({proxy})" if proxy else ""),
        got=fault.verify_message,
        expected="a certificate from the CA in server.ca",
        advice="Compare the CA's fingerprint with the operator; someone may be intercepting the connection.",
    ) from None


def _names(address: str, ca: Path) -> list[str]:
    """The names in the certificate of a server whose CA is the pinned one; none where they cannot be had."""
    host, _, port = address.rpartition(":")
    try:
        context = pinned(ca)
        context.check_hostname = False  # the CA still has to be the pinned one; nothing is sent
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SHOWN_WITHIN_S) as connection,
            context.wrap_socket(connection) as secured,
        ):
            certificate = secured.getpeercert() or {}
    except (OSError, ValueError, UsageError):
        return []
    return [str(entry[1]) for entry in certificate.get("subjectAltName", ()) if isinstance(entry, tuple)]


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
