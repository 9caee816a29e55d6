"""Random numbers from a key: sampling and noise that only the holder of a site's secret can repeat.

The bits are AES-256 in counter mode under a key that HKDF (RFC 5869) makes of the site's secret and of all
that determines an answer. So the same question gets the same noise again, after a kill too, and another
question gets other noise, of which no server can take away anything that it knows.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jaxtyping import Float64

from stic_core.errors import DataError
from stic_core.system.files import PRIVATE, write_atomically

SECRET_BYTES = 32

_BITS = 2.0**-53
"""Between two neighbouring uniform numbers."""


class KeyedRandom:
    """A stream of random numbers.

    Args:
        secret: of the site.
        label: what it is for; another label gives an independent stream.
    """

    def __init__(self, secret: bytes, *, label: str) -> None:
        derived = HKDF(hashes.SHA256(), SECRET_BYTES, salt=None, info=label.encode()).derive(secret)
        self._stream = Cipher(algorithms.AES256(derived), modes.CTR(bytes(16))).encryptor()

    def uniforms(self, count: int) -> Float64[np.ndarray, " n"]:
        """Numbers in [0, 1), of 53 random bits each."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")
        return (words >> np.uint64(11)) * _BITS

    def normals(self, count: int) -> Float64[np.ndarray, " n"]:
        """Standard normal numbers (Box and Muller 1958): each of 106 random bits, none beyond 8.6."""
        pairs = (count + 1) // 2
        radius = np.sqrt(-2 * np.log(self.uniforms(pairs) + _BITS))  # of numbers in (0, 1]
        angle = 2 * np.pi * self.uniforms(pairs)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def site_secret(path: Path) -> bytes:
    """The secret of a site, made where there is none; it is on the disk before it is used.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        with suppress(FileExistsError):  # another process was faster
            write_atomically(path, secrets.token_bytes(SECRET_BYTES), mode=PRIVATE, new=True)
    found = path.read_bytes()
    if len(found) != SECRET_BYTES:
        raise DataError(
            f"{path.parent.name}/{path.name}, which noise comes from, is damaged",
            got=f"{len(found)} bytes",
            expected=SECRET_BYTES,
            advice="Delete it: a new one is made, and rounds that are asked again are charged again.",
        )
    return found
