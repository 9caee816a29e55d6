"""Who the site is and whom it trusts: its key, and the CA's certificate."""

from __future__ import annotations

import datetime as dt

from cryptography import x509

from stic_client.connection.keys import SiteKeys
from stic_client.preflight.outcome import Check
from stic_core.config import SiteConfig
from stic_core.errors import UsageError
from stic_core.system.keys import (
    fingerprint_of,
    key_fingerprint,
    load_certificates,
    load_private,
    load_public,
)

EXPIRES_SOON = dt.timedelta(days=30)


def check_key(config: SiteConfig) -> Check:
    """The private key: there, its owner's alone, and the other half of `site.pub`."""
    try:
        key = load_private(config.key)
    except UsageError as error:
        return Check("key", "problem", _clause(error), error.advice or f"Make one with {_enroll(config)}.")
    ours = key_fingerprint(key.public_key())
    public = config.key.with_suffix(".pub")
    try:
        sent = key_fingerprint(load_public(public))
    except UsageError as error:
        return Check(
            "key",
            "warning",
            _clause(error),
            f"The operator needs it: make it again with ssh-keygen -y -f {config.key} > {public}.",
        )
    if sent != ours:
        return Check(
            "key",
            "problem",
            f"{public.name} is not the public half of {config.key.name}",
            f"Make it again with ssh-keygen -y -f {config.key} > {public}, and send it to the operator.",
        )
    try:
        following = SiteKeys(config.key).next_key()
    except UsageError as error:
        return Check("key", "problem", _clause(error), error.advice or "Make another with rotate-key.")
    waits = (
        f"; a new one is waiting for the operator: {key_fingerprint(following.public_key())}"
        if following
        else ""
    )
    return Check("key", "ok", f"{ours}, mode 0600{waits}")


def _enroll(config: SiteConfig) -> str:
    return f"stic-client --site {config.site} enroll"


def _clause(error: UsageError) -> str:
    return error.what if error.got is None else f"{error.what} ({error.got})"


def check_ca(config: SiteConfig, *, now: dt.datetime) -> Check:
    """The certificates of the CAs that are pinned, mostly one, and their dates."""
    try:
        certificates = load_certificates(config.server.ca)
    except UsageError as error:
        return Check(
            "ca", "problem", error.what, "Ask the operator for ca.crt and set server.ca in site.yaml."
        )
    # Several while the operator exchanges the CA: the one that ends last is the one that counts.
    certificate = max(certificates, key=lambda one: one.not_valid_after_utc)
    shown = ", ".join(f"CA {fingerprint_of(one)[:23]}..." for one in certificates)
    remedy = "Ask the operator for the new ca.crt, and compare its fingerprint by telephone."
    return dates("ca", certificate, now=now, remedy=remedy, good=shown)


def dates(name: str, certificate: x509.Certificate, *, now: dt.datetime, remedy: str, good: str) -> Check:
    """A certificate's dates: expired, or soon to be.

    Args:
        name: of the check.
        now: the time here, aware.
        remedy: what to do about an old one.
        good: what is said of it beside its last day.
    """
    until = certificate.not_valid_after_utc
    if now < certificate.not_valid_before_utc:
        return Check(
            name,
            "problem",
            f"the certificate begins on {certificate.not_valid_before_utc:%Y-%m-%d}, "
            f"but this machine's date is {now:%Y-%m-%d}",
            "Set this machine's clock, best with NTP.",
        )
    if now >= until:
        return Check(name, "problem", f"the certificate expired on {until:%Y-%m-%d}", remedy)
    if until - now < EXPIRES_SOON:
        return Check(name, "warning", f"the certificate expires on {until:%Y-%m-%d}", remedy)
    return Check(name, "ok", f"{good}, valid until {until:%Y-%m-%d}")
