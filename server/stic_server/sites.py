"""Which sites are admitted: one public key a site, in a folder that the operator fills."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import TypeAdapter, ValidationError

from stic_core.config import SiteName
from stic_core.errors import UsageError
from stic_core.keys import key_fingerprint, load_public

_SITE_NAME = TypeAdapter(SiteName)


@dataclass(frozen=True, slots=True)
class AdmittedSite:
    """A site under the name that the operator gave it."""

    name: str
    key: ec.EllipticCurvePublicKey

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it."""
        return key_fingerprint(self.key)


def admitted(folder: Path) -> list[AdmittedSite]:
    """All admitted sites, by name.

    Raises:
        UsageError: a file in the folder is not a site's public key.
    """
    return [AdmittedSite(path.stem, load_public(path)) for path in sorted(folder.glob("*.pub"))]


def admit(folder: Path, *, name: str, public_key: Path) -> AdmittedSite:
    """Admit a site.

    Args:
        folder: where the admitted keys lie.
        public_key: the file that the site sent.

    Raises:
        UsageError: not a name, not a key, or one that is admitted already.
    """
    try:
        _SITE_NAME.validate_python(name)
    except ValidationError:
        raise UsageError(
            "not a site's name", got=repr(name), expected="lower-case letters, digits and hyphens, at most 32"
        ) from None
    site = AdmittedSite(name, load_public(public_key))
    for other in admitted(folder):
        if other.fingerprint == site.fingerprint and other.name == name:
            return site
        if other.fingerprint == site.fingerprint:
            raise UsageError(f"this key is admitted already, as {other.name}")
        if other.name == name:
            raise UsageError(
                f"{name} is admitted already, with another key",
                got=site.fingerprint,
                expected=other.fingerprint,
                advice=f"If the site changed its key, remove {name}.pub from the sites folder first.",
            )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.pub").write_bytes(public_key.read_bytes())
    return site
