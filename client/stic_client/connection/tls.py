"""The way to the server: the one CA that is trusted, the key shown, the proxy in between."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stic_core.errors import UsageError
from stic_core.system.keys import load_certificates
from stic_core.system.site_certificates import site_certificate

_CONNECT_S = 10.0

_KEPT_S = 25.0
"""An idle connection is used again within this time; the server closes it after 30 s."""


def pinned(ca: Path, *, key: ec.EllipticCurvePrivateKey | None = None) -> ssl.SSLContext:
    """A context that trusts one CA and nothing else.

    Args:
        key: the site's, which the server asks for; without one it ends the connection.

    Raises:
        UsageError: no certificate there.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    for certificate in load_certificates(
        ca, missing="Ask the operator for ca.crt and set server.ca in site.yaml."
    ):
        context.load_verify_locations(cadata=certificate.public_bytes(serialization.Encoding.DER))
    if key is not None:
        _present(context, key)
    return context


def _present(context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey) -> None:
    """Show a key in handshakes. OpenSSL reads it from a file; this one is in memory alone."""
    descriptor = os.memfd_create("site-certificate")
    with os.fdopen(descriptor, "wb") as file:
        file.write(site_certificate(key))
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")


def proxy_of(address: str) -> str | None:
    """The proxy through which the environment leads to a server: host:port, never who may use it.

    `HTTPS_PROXY`, else `ALL_PROXY`; `NO_PROXY` lists what is reached directly. Lower case works too.
    """
    url = _proxy_url(address)
    return f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}" if url is not None else None


def connection(
    address: str, *, ca: Path, key: ec.EllipticCurvePrivateKey | None, timeout: float
) -> httpx.Client:
    """A client for one server: its CA alone is trusted, the site's key is shown, no redirect is followed.

    A proxy that speaks TLS itself is trusted as this machine trusts (`SSL_CERT_FILE`).

    Raises:
        UsageError: no certificate there, or a proxy of another kind.
    """
    url = _proxy_url(address)
    proxy = None
    if url is not None:
        secure = ssl.create_default_context() if url.scheme == "https" else None
        proxy = httpx.Proxy(url, ssl_context=secure)
    return httpx.Client(
        verify=pinned(ca, key=key),
        proxy=proxy,
        trust_env=False,
        limits=httpx.Limits(keepalive_expiry=_KEPT_S),
        # A way that is not there shows soon; an answer may take long on a slow line.
        timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_S)),
        follow_redirects=False,
    )


def _proxy_url(address: str) -> httpx.URL | None:
    named = getproxies()
    text = named.get("https") or named.get("all")
    if not text or proxy_bypass(address.rpartition(":")[0].strip("[]")):
        return None
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host:
        # Whatever it says may hold a password.
        raise UsageError(
            "HTTPS_PROXY does not name a usable proxy",
            got="another kind of address",
            expected="http://[user:password@]host:port",
            advice="Set it where the client is started; write special characters in the password as %XX.",
        )
    return url
