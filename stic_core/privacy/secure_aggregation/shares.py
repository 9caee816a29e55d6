"""Shamir's shares of a 32-byte secret: any `threshold` of them give it back, fewer tell nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, islice

from Crypto.Protocol.SecretSharing import Shamir

_HALF = 16  # PyCryptodome shares 16 bytes at a time, over GF(2^128)
_TRIES = 500


def split(secret: bytes, *, holders: int, threshold: int) -> list[bytes]:
    """A share of 32 bytes for each holder; the share at place i has number i + 1."""
    halves = [
        Shamir.split(threshold, holders, secret[start : start + _HALF], False)
        for start in range(0, 2 * _HALF, _HALF)
    ]
    return [first + second for (_, first), (_, second) in zip(*halves, strict=True)]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret, from as many shares as it was split for; from others, anything.

    Args:
        shares: by number.
    """
    numbered = sorted(shares.items())
    return b"".join(
        Shamir.combine([(number, share[start : start + _HALF]) for number, share in numbered], False)
        for start in range(0, 2 * _HALF, _HALF)
    )


def reconstruct(
    shares: Mapping[int, bytes], *, threshold: int, is_right: Callable[[bytes], bool]
) -> bytes | None:
    """The secret, although some shares may be wrong; None where no combination that was tried gives it.

    Args:
        shares: by number, more than `threshold` perhaps.
        is_right: whether a candidate is the secret.
    """
    chosen: Sequence[int]
    for chosen in islice(combinations(sorted(shares), threshold), _TRIES):
        if is_right(secret := combine({number: shares[number] for number in chosen})):
            return secret
    return None
