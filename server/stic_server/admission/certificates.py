"""The federation's own CA and the server's certificate, made with `cryptography` alone."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stic_core.errors import UsageError
from stic_core.system.files import write_atomically
from stic_core.system.keys import read_private, write_private
from stic_core.system.site_certificates import key_usage

CA_DAYS = 3650
SERVER_DAYS = 825  # what browsers and many TLS stacks still accept


def make_certificates(folder: Path, *, names: Sequence[str]) -> None:
    """Write `ca.crt`, `ca.key`, `server.crt` and `server.key`; keys have mode 0600.

    Args:
        folder: where they go; files that exist are not replaced.
        names: host names and addresses by which sites reach the server.

    Raises:
        FileExistsError: one of the keys is there already.
    """
    ca, ca_key = new_ca()
    key = new_server_key()
    certificate = issue(ca, ca_key, key=key.public_key(), names=names)
    write_private(folder / "ca.key", private_pem(ca_key))
    write_private(folder / "server.key", private_pem(key))
    write_atomically(folder / "ca.crt", pem(ca))
    write_atomically(folder / "server.crt", pem(certificate))


def new_ca() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A CA of the federation's own, and its key."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("STIC-Federated CA")
    certificate = (
        _builder(subject=name, issuer=name, key=key.public_key(), until=_in_days(CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    return certificate, key


def new_server_key() -> ec.EllipticCurvePrivateKey:
    """A key for the server's certificate."""
    return ec.generate_private_key(ec.SECP256R1())


def issue(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    *,
    key: ec.EllipticCurvePublicKey,
    names: Sequence[str],
) -> x509.Certificate:
    """The server's certificate; it does not outlive its CA.

    Args:
        key: the server's.
        names: host names and addresses by which sites reach the server.
    """
    until = min(_in_days(SERVER_DAYS), ca.not_valid_after_utc)
    return (
        _builder(subject=_name(names[0]), issuer=ca.subject, key=key, until=until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA384())
    )


def load_key(path: Path, *, missing: str) -> ec.EllipticCurvePrivateKey:
    """A private key of the server's side.

    Args:
        missing: advice where there is none.

    Raises:
        UsageError: missing, a mode looser than 0600, or not such a key.
    """
    content = read_private(path, missing=missing)
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{path} is not a usable private key", expected="PEM, without a password")
    return key


def fits(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether a certificate is for this key."""
    return certificate.public_key() == key.public_key()


def pem(certificate: x509.Certificate) -> bytes:
    """As a file holds it."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """As a file of mode 0600 holds it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "STIC-Federated"),
            x509.NameAttribute(NameOID.COMMON_NAME, common[:64]),
        ]
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    *, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: dt.datetime
) -> x509.CertificateBuilder:
    begins = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)  # clocks differ a little
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _in_days(days: int) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
