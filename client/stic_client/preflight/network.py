"""The way to the server: TLS against the pinned CA, its certificate, its clock, its admission.

Nothing changes at the server, and a client of this site that runs is not disturbed.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from stic_client.connection.faults import refuses_key, why
from stic_client.connection.tls import connection, proxy_of
from stic_client.preflight.identity import dates
from stic_client.preflight.outcome import Check
from stic_core.config import SiteConfig
from stic_core.errors import ProtocolError, SticError, UntrustedServerError, UsageError
from stic_core.protocol.fields import VERSION
from stic_core.system.keys import load_private

# Flower 1.41 signs the time and refuses what is outside -5 s to +305 s.
AHEAD_S, BEHIND_S = 5.0, 300.0
AHEAD_WARNING_S, BEHIND_WARNING_S = 2.0, 60.0

ONLINE = ("server", "certificate", "clock", "admitted", "protocol")
"""Names of the checks that need the server."""

_TIMEOUT_S = 15.0
_NOTHING_THERE = 404
"""What a server of ours answers where Flower has no endpoint for a site."""

Ask = Callable[[SiteConfig], str]
"""Asks the server about this site's key: `admitted`, `unknown` or `unsigned`.

Raises ConnectionError or a SticError where there is no answer.
"""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the server's answer tells.

    Args:
        certificate: as it came, verified already; None where it is not seen.
        ahead_s: how far this machine's clock is ahead of the server's; None where the server admits
            no key of this site, and answers nothing.
        uncertain_s: how far off that may be: HTTP dates have whole seconds.
    """

    certificate: x509.Certificate | None
    ahead_s: float | None
    uncertain_s: float


def check_online(config: SiteConfig, *, ask: Ask) -> Iterator[Check]:
    """All checks that need the server; without one the others are skipped."""
    try:
        greeting = greet(config)
    except (ConnectionError, SticError) as error:
        yield _unreached(config, error)
        for name in ONLINE[1:]:
            yield Check(name, "skipped", "the server was not reached")
        return
    proxy = proxy_of(config.server.address)
    way = f" through the proxy {proxy}" if proxy else ""
    yield Check("server", "ok", f"{config.server.address} reached{way}, certificate from the pinned CA")
    yield _certificate(greeting)
    yield check_clock(greeting)
    yield from _admission(config, ask=ask)


def greet(config: SiteConfig) -> Greeting:
    """A handshake and one GET, with the proxy of the environment and the site's key, if it has one.

    Raises:
        ConnectionError: not reached, or what answers is no server of ours.
        UntrustedServerError: its certificate is not from the pinned CA.
        UsageError: the pinned CA cannot be read.
    """
    address, shown = config.server.address, list[x509.Certificate]()

    def look(event: str, found: dict[str, Any]) -> None:
        # A key that is not admitted is refused before there is an answer: this is all that is seen.
        if event.endswith("start_tls.complete"):
            shown.extend(_peer(found["return_value"]))

    with connection(address, ca=config.server.ca, key=_key_of(config), timeout=_TIMEOUT_S) as client:
        try:
            # A second request over the open connection: the handshake would count as clock error.
            client.get(f"https://{address}/", extensions={"trace": look})
            before = time.time()
            answer = client.get(f"https://{address}/")
            after = time.time()
        except httpx.TransportError as error:
            if refuses_key(error):
                return Greeting(shown[-1] if shown else None, None, 0.0)
            raise ConnectionError(why(error, address, ca=config.server.ca)) from None
    if answer.status_code != _NOTHING_THERE:
        raise ConnectionError(f"it answers HTTP {answer.status_code}")
    clock = _clock_difference(answer.headers.get("date"), before=before, after=after)
    return Greeting(shown[-1] if shown else None, *clock)


def _key_of(config: SiteConfig) -> ec.EllipticCurvePrivateKey | None:
    try:
        return load_private(config.key)
    except UsageError:  # a check of its own
        return None


def _peer(stream: Any) -> Iterator[x509.Certificate]:
    tls = stream.get_extra_info("ssl_object")
    found = tls.getpeercert(True) if tls is not None else None
    if found:
        yield x509.load_der_x509_certificate(found)


def _clock_difference(date: str | None, *, before: float, after: float) -> tuple[float | None, float]:
    """How far this clock is ahead, and by how much that may be wrong, in seconds."""
    try:
        server = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None, 0.0
    # The header was cut to whole seconds: on average half a second is missing.
    return (before + after) / 2 - (server + 0.5), 0.5 + (after - before) / 2


def _unreached(config: SiteConfig, error: Exception) -> Check:
    if isinstance(error, UntrustedServerError):
        return Check("server", "problem", f"{error.what}: {error.got}", error.advice or "")
    if isinstance(error, UsageError):
        return Check(
            "server",
            "problem",
            f"{error.what}: {error.got}" if error.got else error.what,
            error.advice or "Ask the operator for ca.crt and set server.ca in site.yaml.",
        )
    return Check(
        "server",
        "problem",
        f"{config.server.address} not reached: {error}",
        "Is the server running? This machine needs one outgoing TCP connection to it: check the firewall, "
        "server.address in site.yaml, and HTTPS_PROXY where the hospital has a proxy.",
    )


def _certificate(greeting: Greeting) -> Check:
    if greeting.certificate is None:
        return Check("certificate", "skipped", "the connection does not show it")
    remedy = "Tell the operator to renew it; there is nothing to do here."
    return dates(
        "certificate", greeting.certificate, now=dt.datetime.now(dt.UTC), remedy=remedy, good="the server's"
    )


def check_clock(greeting: Greeting) -> Check:
    """This machine's clock against the server's; beyond the window every request is refused."""
    if greeting.ahead_s is None:
        return Check("clock", "skipped", "the server tells its time only to a site that it admits")
    ahead = greeting.ahead_s
    # What lies within the measurement's own error is no difference.
    surely = max(abs(ahead) - greeting.uncertain_s, 0.0)
    if not surely:
        return Check("clock", "ok", "agrees with the server's to the second")
    found = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    remedy = "Set this machine's clock, best with NTP (timedatectl set-ntp true)."
    limit, early = (AHEAD_S, AHEAD_WARNING_S) if ahead > 0 else (BEHIND_S, BEHIND_WARNING_S)
    if surely > limit:
        return Check("clock", "problem", f"{found}: the server refuses this site's signatures", remedy)
    if surely > early:
        return Check("clock", "warning", f"{found}; beyond {limit:.0f} s it refuses this site", remedy)
    return Check("clock", "ok", found)


def _admission(config: SiteConfig, *, ask: Ask) -> Iterator[Check]:
    try:
        load_private(config.key)
        answer = ask(config)
    except UsageError:
        yield Check("admitted", "skipped", "no usable key to ask with")
        yield Check("protocol", "skipped", "no usable key to ask with")
        return
    except ProtocolError as error:
        yield Check("admitted", "skipped", "the server does not say")
        yield Check(
            "protocol",
            "problem",
            f"what answers does not speak our protocol ({error.what})",
            "Compare server.address and the version of stic-federated with the operator.",
        )
        return
    except (ConnectionError, SticError) as error:
        yield Check("admitted", "skipped", f"the server stopped answering ({type(error).__name__})")
        yield Check("protocol", "skipped", "the server stopped answering")
        return
    if answer == "admitted":
        yield Check("admitted", "ok", "the server knows this site's key")
    elif answer == "unknown":
        yield Check(
            "admitted",
            "problem",
            "the server does not know this site's key",
            f"Send {config.key.with_suffix('.pub').name} to the operator, who runs "
            f"stic-server admit {config.site} FILE after comparing fingerprints.",
        )
    else:
        yield Check(
            "admitted",
            "problem",
            "the server refuses this site's signature",
            "Check the clock: a time more than 5 s ahead of the server's is refused.",
        )
    # The version of the messages is in the first of a run: until then it can only be our own.
    yield Check(
        "protocol",
        "ok",
        f"the server speaks Flower's Fleet protocol; the messages' version, here {VERSION}, is compared in a run",
    )
