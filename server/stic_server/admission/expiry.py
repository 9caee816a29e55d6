"""How long the server's certificates are still valid, and when that is worth a warning."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stic_core.system.keys import fingerprint_of, load_certificates

EXPIRES_SOON = dt.timedelta(days=30)

RENEW = "Make a new one with stic-server renew."
BACKUP = "Restore it from a backup; without one, make a new CA with stic-server renew --ca."


@dataclass(frozen=True, slots=True)
class Expiry:
    """One certificate of the server's folder.

    Args:
        name: `server`, `ca` or `ca-next`.
        until: its last moment.
    """

    name: str
    file: Path
    fingerprint: str
    until: dt.datetime

    def left(self, now: dt.datetime) -> dt.timedelta:
        """How much longer it is valid; negative once it is over."""
        return self.until - now

    def warning(self, now: dt.datetime) -> str | None:
        """What there is to say of it, or nothing."""
        left = self.left(now)
        if left > EXPIRES_SOON:
            return None
        what = {"server": "the server's certificate", "ca": "the CA's certificate"}.get(
            self.name, "the next CA's certificate"
        )
        command = "stic-server renew" if self.name == "server" else "stic-server renew --ca"
        if left <= dt.timedelta():
            return f"{what} expired on {self.until:%Y-%m-%d}: no site can connect; run {command}"
        return f"{what} expires on {self.until:%Y-%m-%d}, in {left.days} days; run {command}"


def expiries(folder: Path) -> Sequence[Expiry]:
    """The server's certificate, its CA's, and the next CA's where there is one.

    Raises:
        UsageError: a certificate is missing or is none.
    """
    found = []
    for name in ("server", "ca", "ca-next"):
        file = folder / f"{name}.crt"
        if name == "ca-next" and not file.exists():
            continue
        certificate = load_certificates(file, missing=RENEW if name == "server" else BACKUP)[0]
        found.append(Expiry(name, file, fingerprint_of(certificate), certificate.not_valid_after_utc))
    return found
