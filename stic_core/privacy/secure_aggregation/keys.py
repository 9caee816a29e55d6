"""Key agreement, and sealed messages between two sites that pass through the server."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stic_core.errors import ProtocolError

KEY_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Secrets:
    """What one site makes for one exchange, 32 bytes each.

    Args:
        cipher: X25519 private key, for shares that are sent to it.
        mask: X25519 private key, for the masks that it has in common with each other site.
        seed: of its own mask.
    """

    cipher: bytes
    mask: bytes
    seed: bytes

    @classmethod
    def fresh(cls) -> Secrets:
        """From the operating system's generator."""
        return cls(*(secrets.token_bytes(KEY_BYTES) for _ in range(3)))


def public_of(private: bytes) -> bytes:
    """The public half of an X25519 key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def seed_digest(seed: bytes) -> str:
    """What a site states of its seed, so that a wrong reconstruction is known as such."""
    return hashlib.sha256(b"stic-federated mask seed" + seed).hexdigest()


def agreed_key(private: bytes, public: bytes, *, statement: bytes) -> bytes:
    """The key that two sites have in common for one purpose, 32 bytes.

    Args:
        statement: names the purpose.

    Raises:
        ProtocolError: no public key that a site could have made.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise ProtocolError("a public key for masks cannot be used") from None
    return derived_key(shared, statement=statement)


def is_usable(public: bytes) -> bool:
    """Whether a public key makes a secret at all; those of small order give everybody the same."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def derived_key(secret: bytes, *, statement: bytes) -> bytes:
    """A key for one purpose, 32 bytes (HKDF-SHA-256)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=statement).derive(secret)


def seal(content: bytes, *, key: bytes, statement: bytes) -> bytes:
    """Content that only the other holder of the key can read, and nobody can change."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, statement)


def unseal(sealed: bytes, *, key: bytes, statement: bytes) -> bytes | None:
    """What was sealed; None where it was not sealed with this key for this purpose."""
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], statement)
    except (InvalidTag, ValueError):
        return None
