"""A site's key as TLS needs it: a certificate that the site makes, and what the server trusts instead of one.

Hospital and operator exchange a public key, never a certificate. TLS accepts a certificate whose
issuer it trusts; so the key counts as an issuer of its own name, made of the key's fingerprint.
The site signs a certificate for its own key in that name. The server writes down the same name
with the key that was admitted, and asks whether that key signed what the site presents. Neither
has to see anything of the other but the public key.
"""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stic_core.system.keys import key_fingerprint

# A key is valid until it is revoked: a site whose clock is wrong is to hear of its clock, not of a certificate.
_BEGIN = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_END = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)  # RFC 5280, 4.1.2.5: no end that is known


def site_certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    """What a site presents: a certificate of its key, signed by the same key, and the key; both PEM."""
    own = (
        _builder(subject=_name("site"), issuer=_issuer(key.public_key()), key=key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA384())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return own.public_bytes(serialization.Encoding.PEM) + private


def trust_anchor(key: ec.EllipticCurvePublicKey) -> bytes:
    """An admitted public key as an issuer that TLS can trust, DER.

    Who signed it says nothing and is never looked at (RFC 5280, 6.1.1: a trust anchor is a name
    and a key), so a key signs it that is thrown away. TLS must take it though it does not end in
    a root: `ssl.VERIFY_X509_PARTIAL_CHAIN`.
    """
    anchor = (
        _builder(subject=_issuer(key), issuer=_name("admitted"), key=key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True), critical=True)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    return anchor.public_bytes(serialization.Encoding.DER)


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as Flower and TLS hold it: SubjectPublicKeyInfo, PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def presented_key(certificate: bytes) -> bytes:
    """The key of a certificate in DER, as `public_pem` writes it; empty where it is no site's certificate."""
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return b""
    return public_pem(key) if isinstance(key, ec.EllipticCurvePublicKey) else b""


def _issuer(key: ec.EllipticCurvePublicKey) -> x509.Name:
    return _name(key_fingerprint(key))


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "STIC-Federated"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _builder(
    *, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
    )


def key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    """What a certificate's key may do, and nothing else."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
