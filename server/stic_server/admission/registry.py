"""Which sites are admitted: one public key a site, in a folder that the operator fills.

Keys that were revoked or replaced lie in `revoked/` beside the others. What lies there is
not admitted, even if somebody copies it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stic_core.errors import RefusedError, UsageError
from stic_core.system.files import flush_folder, write_atomically
from stic_core.system.keys import key_fingerprint, load_public, public_line
from stic_core.system.names import did_you_mean, site_name

_REVOKED = "revoked"
_PENDING = ".pending"


@dataclass(frozen=True, slots=True)
class AdmittedSite:
    """A site under the name that the operator gave it."""

    name: str
    key: ec.EllipticCurvePublicKey

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it."""
        return key_fingerprint(self.key)


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether an admitted site is there.

    Args:
        online: the server counts on it now.
        last_seen: of its last sign of life, seconds since the epoch; None before the first.
    """

    online: bool
    last_seen: float | None


@dataclass(frozen=True, slots=True)
class Registry:
    """What a look into the folder found.

    Args:
        sites: admitted, by name.
        unreadable: names whose file is no key, such as one that is being copied, with the reason.
    """

    sites: Sequence[AdmittedSite]
    unreadable: dict[str, UsageError]

    @property
    def names(self) -> set[str]:
        """Admitted, or about to be: a file that cannot be read takes no admission back."""
        return {site.name for site in self.sites} | {name for name in self.unreadable if "/" not in name}


def scan(folder: Path) -> Registry:
    """All admitted sites, and the files that cannot be read: one of them does not hide the others."""
    gone, unreadable = _revoked(folder)
    never = {site.fingerprint for site in gone}
    sites = []
    for path in sorted(folder.glob("*.pub")):
        try:
            site = AdmittedSite(path.stem, load_public(path))
        except UsageError as error:
            unreadable[path.stem] = error
        else:
            if site.fingerprint not in never:
                sites.append(site)
    return Registry(sites, unreadable)


def admitted(folder: Path) -> Sequence[AdmittedSite]:
    """All admitted sites, by name.

    Raises:
        UsageError: a file in the folder is not a site's public key.
    """
    found = scan(folder)
    for error in found.unreadable.values():
        raise error
    return found.sites


def public_keys(folder: Path) -> dict[str, str]:
    """The keys of the admitted sites by name, each as a line of `site.pub`, for a plan to name.

    Raises:
        UsageError: a file in the folder is not a site's public key.
    """
    return {site.name: public_line(site.key).decode().strip() for site in admitted(folder)}


def revoked(folder: Path) -> Sequence[AdmittedSite]:
    """All keys that were revoked or replaced, with the names that they had.

    Raises:
        UsageError: a file among them is not a site's public key.
    """
    sites, unreadable = _revoked(folder)
    for error in unreadable.values():
        raise error
    return sites


def _revoked(folder: Path) -> tuple[list[AdmittedSite], dict[str, UsageError]]:
    sites, unreadable = [], {}
    for path in sorted((folder / _REVOKED).glob("*.pub")):
        try:
            sites.append(AdmittedSite(path.stem.rpartition("-")[0], load_public(path)))
        except UsageError as error:
            unreadable[f"{_REVOKED}/{path.stem}"] = error
    return sites, unreadable


def admit(
    folder: Path, *, name: str, public_key: Path, replace: bool = False, again: bool = False
) -> AdmittedSite:
    """Admit a site, or take a site's new key in place of its old one.

    Args:
        folder: where the admitted keys lie.
        public_key: the file that the site sent.
        replace: the site is admitted with another key, which is revoked.
        again: the key was revoked, and is admitted all the same.

    Raises:
        UsageError: not a name, not a key, or one that is admitted already.
        RefusedError: the key was revoked.
    """
    site = AdmittedSite(site_name(name), load_public(public_key))
    _complete(folder)
    known = admitted(folder)
    if any((other.name, other.fingerprint) == (name, site.fingerprint) for other in known):
        return site
    before = next((other for other in known if other.name == name), None)
    _refuse(site, known=known, before=before, replace=replace)
    for old in revoked(folder):
        if old.fingerprint == site.fingerprint and not again:
            raise RefusedError(
                f"this key was revoked; it belonged to {old.name}",
                got=site.fingerprint,
                advice="Ask the site for a new one (stic-client --site SITE rotate-key); or, if it was revoked by "
                "mistake, add --again.",
            )
    for path in _files_of(folder, site.key):
        path.unlink()
    if before is None:
        write_atomically(folder / f"{name}.pub", public_line(site.key))
    else:
        _replace(folder, before, site)
    return site


def _refuse(
    site: AdmittedSite, *, known: Sequence[AdmittedSite], before: AdmittedSite | None, replace: bool
) -> None:
    for other in known:
        if other.fingerprint == site.fingerprint:
            raise UsageError(f"this key is already admitted as {other.name}")
    if before is not None and not replace:
        raise UsageError(
            f"{site.name} is already admitted with another key",
            got=site.fingerprint,
            expected=before.fingerprint,
            advice="If the site changed its key, compare the new fingerprint with the site and add --replace.",
        )
    if before is None and replace:
        raise UsageError(
            f"{site.name} is not admitted: there is no key to replace",
            advice="Leave out --replace for a new site.",
        )


def revoke(folder: Path, *, name: str) -> AdmittedSite:
    """Take a site's admission back; its key cannot be admitted again by accident.

    Raises:
        UsageError: no such site is admitted.
    """
    _complete(folder)
    sites = {site.name: site for site in admitted(folder)}
    if name not in sites:
        raise UsageError(
            f"{name} is not admitted",
            expected=" or ".join(sites) or "an admitted site; there is none",
            advice=did_you_mean(name, sites),
        )
    (folder / _REVOKED).mkdir(exist_ok=True)
    (folder / f"{name}.pub").replace(_file_of(folder, sites[name]))
    flush_folder(folder / _REVOKED)
    flush_folder(folder)
    return sites[name]


def _replace(folder: Path, before: AdmittedSite, site: AdmittedSite) -> None:
    """One key for another in one step: at no moment has the site none, and the old one is not forgotten.

    The old key is noted first, as pending; what interrupts this is completed by the next change.
    """
    pending = _file_of(folder, before).with_suffix(".pub" + _PENDING)
    write_atomically(pending, public_line(before.key))
    write_atomically(folder / f"{site.name}.pub", public_line(site.key))
    _complete(folder)


def _complete(folder: Path) -> None:
    """A key that was noted as pending is revoked if it was replaced, and forgotten if it was not."""
    notes = list((folder / _REVOKED).glob(f"*.pub{_PENDING}"))
    if not notes:
        return
    current = {site.fingerprint for site in admitted(folder)}
    for note in notes:
        if key_fingerprint(load_public(note)) in current:
            note.unlink()
        else:
            note.replace(note.with_suffix(""))
    flush_folder(folder / _REVOKED)


def _file_of(folder: Path, site: AdmittedSite) -> Path:
    """Where a revoked key lies: a site may have had several."""
    return folder / _REVOKED / f"{site.name}-{_digest(site.key)}.pub"


def _files_of(folder: Path, key: ec.EllipticCurvePublicKey) -> list[Path]:
    return list((folder / _REVOKED).glob(f"*-{_digest(key)}.pub"))


def _digest(key: ec.EllipticCurvePublicKey) -> str:
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    return hashlib.sha256(point).hexdigest()[:16]
