"""A site's key pair, and the fingerprints that people compare out of band.

Keys are P-384 in OpenSSH format, which Flower's node authentication takes; the
fingerprints are those of `ssh-keygen -l` and `openssl x509 -fingerprint -sha256`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stic_core.errors import UsageError
from stic_core.system.files import PRIVATE, write_atomically
from stic_core.system.given_files import holds_private_key, read_given, what_it_is


def write_private(path: Path, content: bytes) -> None:
    """Write a secret that only its owner can read, from the first byte on; never over another file.

    Raises:
        FileExistsError: there is a file.
    """
    write_atomically(path, content, mode=PRIVATE, new=True)


def read_private(path: Path, *, missing: str) -> bytes:
    """A file with a secret, refused where anyone but its owner can read or write it.

    Args:
        missing: advice where the file is not there.

    Raises:
        UsageError: missing, not readable, or a mode looser than 0600.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except FileNotFoundError:
        raise UsageError(f"no private key at {path}", advice=missing) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read", got=error.strerror) from None
    if mode & 0o077 and not _is_credential(path):
        raise UsageError(
            f"{path} can be read by others",
            got=f"mode {mode:04o}",
            expected="0600",
            advice=f"Run chmod 600 {path}.",
        )
    return content


def _is_credential(path: Path) -> bool:
    """Whether systemd gave this file to this service alone; an ACL may then look like a mode for the group."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.resolve().is_relative_to(Path(folder).resolve())


def make_key_pair(private: Path) -> Path:
    """Make a site's key pair; the private half stays at `private`, mode 0600.

    Returns:
        The path of the public half, `private` with the suffix `.pub`.

    Raises:
        UsageError: a key is there already.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    try:
        write_private(
            private,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            ),
        )
    except FileExistsError:
        raise UsageError(
            f"{private} exists", advice="It is not overwritten; move it away to make a new key."
        ) from None
    public = private.with_suffix(".pub")
    write_atomically(public, public_line(key.public_key()))
    return public


def public_line(key: ec.EllipticCurvePublicKey) -> bytes:
    """The public half as a file holds it."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b"\n"


def load_private(path: Path) -> ec.EllipticCurvePrivateKey:
    """A site's private key.

    Raises:
        UsageError: missing, readable by others, or not such a key.
    """
    content = read_private(
        path,
        missing="A new site makes one with `stic-client --site SITE enroll`; "
        "one that is lost is replaced as docs/runbook.md says.",
    )
    try:
        key = serialization.load_ssh_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(
            f"{path} is not a usable private key",
            got=_why_unusable(content),
            expected="ECDSA P-384 in OpenSSH format, without a password",
            advice="Restore it from the backup, or replace it as docs/runbook.md says.",
        )
    return key


def _why_unusable(content: bytes) -> str:
    if not holds_private_key(content):
        return what_it_is(content) if content else "an empty file"
    return "a private key of another kind, with a password, or damaged"


def load_public(path: Path) -> ec.EllipticCurvePublicKey:
    """A site's public key.

    Raises:
        UsageError: missing, or not such a key.
    """
    expected, advice = (
        "ECDSA P-384 in OpenSSH format, as `enroll` writes it",
        "Ask the site for the file that ends in .pub.",
    )
    content = read_given(path, kind="public key", expected=expected, advice=advice)
    if holds_private_key(content):
        raise UsageError(
            f"{path} is a private key, which must never leave its site",
            expected=expected,
            advice="Delete this copy. If the site sent it, the key has to be replaced: the site runs "
            "stic-client --site SITE rotate-key and sends site-next.pub.",
        )
    try:
        key = serialization.load_ssh_public_key(content.strip())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise UsageError(
            f"{path} is not a site's public key",
            got="a public key of another kind" if key is not None else what_it_is(content),
            expected=expected,
            advice=advice,
        )
    return key


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """As `ssh-keygen -lf FILE.pub` shows it."""
    return line_fingerprint(public_line(key).decode())


def line_fingerprint(line: str) -> str:
    """The same of a key as a line of `site.pub`."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def sign(key: ec.EllipticCurvePrivateKey, statement: bytes) -> str:
    """A signature of a statement (ECDSA, SHA-256), as hexadecimal text."""
    return key.sign(statement, ec.ECDSA(hashes.SHA256())).hex()


def signed_by(public: str, statement: bytes, *, signature: str) -> bool:
    """Whether a statement was signed with the private half of a key.

    Args:
        public: as a line of `site.pub`.
        signature: as `sign` gives it.
    """
    try:
        key = serialization.load_ssh_public_key(public.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(bytes.fromhex(signature), statement, ec.ECDSA(hashes.SHA256()))
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        return False
    return True


def load_certificates(path: Path, *, missing: str | None = None) -> Sequence[x509.Certificate]:
    """The certificates of a PEM file, one or more.

    Args:
        missing: advice where there is none.

    Raises:
        UsageError: missing, or holds none.
    """
    content = read_given(path, kind="certificate", expected="a certificate in PEM format", advice=missing)
    if holds_private_key(content):
        raise UsageError(
            f"{path} is a private key, and nobody but its owner may have it",
            expected="a certificate, a file that ends in .crt",
            advice="Delete this copy. If somebody sent it to you, tell the operator: this key has to be replaced.",
        )
    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError:
        raise UsageError(
            f"{path} is not a certificate",
            got=what_it_is(content),
            expected="a certificate in PEM format",
            advice=missing or "Ask the operator for ca.crt.",
        ) from None
    return found


def fingerprint_of(certificate: x509.Certificate) -> str:
    """As `openssl x509 -noout -fingerprint -sha256` shows it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def certificate_fingerprint(path: Path) -> str:
    """As `openssl x509 -noout -fingerprint -sha256 -in FILE` shows it; all of them, where a file holds several.

    Nobody may be led to trust a certificate whose fingerprint was not shown.

    Raises:
        UsageError: missing, or not a certificate.
    """
    return ", ".join(map(fingerprint_of, load_certificates(path)))
