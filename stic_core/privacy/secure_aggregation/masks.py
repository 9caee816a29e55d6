"""Masks on vectors over the integers modulo 2^32: each site's own, and one for each pair that cancels in the sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

RingVector: TypeAlias = npt.NDArray[np.uint32]
"""Integers modulo 2^32, of shape (n,)."""


def keystream(key: bytes, *, size: int) -> RingVector:
    """As many ring elements as asked for, from ChaCha20 with a key that is used for nothing else."""
    # The key is derived for one purpose, so the nonce may be constant; its first 4 bytes count blocks.
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(4 * size))
    return np.frombuffer(stream, dtype="<u4").astype(np.uint32, copy=False)


def masked(values: RingVector, *, site: str, own: bytes, pairs: Mapping[str, bytes]) -> RingVector:
    """Values under a site's own mask and one for each other site.

    Args:
        site: whose values they are.
        own: key of its own mask.
        pairs: keys that it has in common with each other site, by name.
    """
    out = values + keystream(own, size=len(values))
    for other, key in sorted(pairs.items()):
        _apply(out, key, added=site < other)
    return out


def without_own(values: RingVector, keys: Iterable[bytes]) -> RingVector:
    """A sum of masked values without the sites' own masks."""
    out = values.copy()
    for key in keys:
        out -= keystream(key, size=len(out))
    return out


def without_pairs(values: RingVector, *, absent: str, pairs: Mapping[str, bytes]) -> RingVector:
    """A sum of masked values without the masks that the sites in it have in common with one that is not.

    Args:
        absent: the site that is not in the sum.
        pairs: keys of the absent site and each site in the sum, by the latter's name.
    """
    out = values.copy()
    for other, key in sorted(pairs.items()):
        _apply(out, key, added=other > absent)
    return out


def ring_sum(vectors: Iterable[RingVector]) -> RingVector:
    """The sum modulo 2^32; the same bits in any order."""
    return reduce(np.add, vectors)


def to_bytes(values: RingVector) -> npt.NDArray[np.uint8]:
    """Values as they travel: little-endian, 4 bytes each."""
    return np.frombuffer(values.astype("<u4", copy=False).tobytes(), dtype=np.uint8)


def from_bytes(content: npt.NDArray[np.uint8]) -> RingVector:
    """The values of `to_bytes`."""
    return np.frombuffer(content.tobytes(), dtype="<u4").astype(np.uint32, copy=False)


def _apply(values: RingVector, key: bytes, *, added: bool) -> None:
    stream = keystream(key, size=len(values))
    if added:
        values += stream
    else:
        values -= stream
