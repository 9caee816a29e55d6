"""A new certificate before the old one ends, and a new CA without a day on which a site cannot connect.

A CA is exchanged in three steps. A next one is made beside the one in use; the sites add its
certificate to those that they trust; then the server's certificate comes from the next one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from stic_core.errors import UsageError
from stic_core.system.files import PRIVATE, flush_folder, write_atomically
from stic_core.system.keys import load_certificates, write_private
from stic_server.admission.certificates import fits, issue, load_key, new_ca, new_server_key, pem, private_pem
from stic_server.admission.expiry import BACKUP, RENEW, Expiry, expiries


def check_keys(folder: Path) -> None:
    """Private keys are their owner's alone, and the server's fits its certificate.

    Raises:
        UsageError: one does not, with what to do.
    """
    key = load_key(folder / "server.key", missing="Make one with stic-server renew.")
    for name in ("ca", "ca-next"):
        if (file := folder / f"{name}.key").exists():  # it may be kept elsewhere
            load_key(file, missing="")
    if not fits(load_certificates(folder / "server.crt", missing=RENEW)[0], key):
        raise UsageError(
            f"{folder / 'server.crt'} is not the certificate for server.key",
            advice=RENEW,
        )


def renew(folder: Path, *, names: Sequence[str]) -> Expiry:
    """Make a new server certificate from the same CA; sites notice nothing.

    The server's key stays, so that one file is replaced and nothing is half done; one is made
    where there is none.

    Args:
        names: host names and addresses by which sites reach the server.

    Raises:
        UsageError: the CA's key is not there or is another's, or the CA is over.
    """
    ca = load_certificates(folder / "ca.crt", missing=BACKUP)[0]
    ca_key = load_key(folder / "ca.key", missing=BACKUP)
    if not fits(ca, ca_key):
        raise UsageError(
            f"{folder / 'ca.key'} is not the key for ca.crt",
            advice="A change of the CA was interrupted: run stic-server renew --ca --switch again."
            if (folder / "ca-next.crt").exists()
            else BACKUP,
        )
    if ca.not_valid_after_utc <= dt.datetime.now(dt.UTC):
        raise UsageError(
            f"the CA expired on {ca.not_valid_after_utc:%Y-%m-%d}",
            advice="Make a new one with stic-server renew --ca.",
        )
    path = folder / "server.key"
    if not path.exists():
        write_private(path, private_pem(new_server_key()))
    key = load_key(path, missing="")
    write_atomically(folder / "server.crt", pem(issue(ca, ca_key, key=key.public_key(), names=names)))
    return expiries(folder)[0]


def make_next_ca(folder: Path) -> Expiry:
    """Make the CA that follows, `ca-next.crt` and `ca-next.key`; the one in use stays in use.

    Again, it is the one that was made before: sites may trust it already.
    """
    file, private = folder / "ca-next.crt", folder / "ca-next.key"
    if not file.exists():
        certificate, key = new_ca()
        private.unlink(missing_ok=True)  # of a command that was interrupted: nobody saw its certificate
        write_private(private, private_pem(key))
        write_atomically(file, pem(certificate))
    return expiries(folder)[-1]


def switch_ca(folder: Path, *, names: Sequence[str]) -> Sequence[Expiry]:
    """Take the next CA into use: a new server key and certificate from it; the old CA's key is deleted.

    Each step leaves a folder from which the same command goes on.

    Args:
        names: host names and addresses by which sites reach the server.

    Raises:
        UsageError: there is no next CA.
    """
    file = folder / "ca-next.crt"
    if not file.exists():
        raise UsageError(
            "there is no next CA", advice="Make it with stic-server renew --ca, and send it to the sites."
        )
    ca = load_certificates(file)[0]
    ca_key = _key_of_next(folder, ca)
    key = new_server_key()
    write_atomically(folder / "server.key", private_pem(key), mode=PRIVATE)
    write_atomically(folder / "server.crt", pem(issue(ca, ca_key, key=key.public_key(), names=names)))
    if (folder / "ca-next.key").exists():
        (folder / "ca-next.key").replace(folder / "ca.key")
    file.replace(folder / "ca.crt")
    flush_folder(folder)
    return expiries(folder)


def _key_of_next(folder: Path, ca: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    """The next CA's key; an interrupted switch may have put it into its place already."""
    path = folder / "ca-next.key"
    key = load_key(path if path.exists() else folder / "ca.key", missing=BACKUP)
    if not fits(ca, key):
        raise UsageError(f"{path} is not the key for ca-next.crt", advice=BACKUP)
    return key
