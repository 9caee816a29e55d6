"""Who signed a request: an admitted key, and each signature once.

A site signs the time of each request with its key. Flower looks at that only after it has read
the whole body, takes the same signature again for five minutes, and for any request. Here it
is looked at before a byte of the body is read, and a signature that was used is used up: a
request that someone captured is worth nothing.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PUBLIC_KEY, SIGNATURE, TIMESTAMP = b"flwr-public-key", b"flwr-signature", b"flwr-timestamp"
"""Headers of Flower's node authentication."""

REMEMBERED_S = 330.0
"""Flower takes a signature from 5 s ahead of its clock to 305 s behind it; longer than that."""

MOST_PER_SITE = 100_000
"""Requests of one site in that time, 300 a second; more are refused, so that memory is bounded."""

Verdict = Literal["fresh", "unsigned", "repeated", "too many"]


@dataclass(frozen=True, slots=True)
class Signer:
    """What the headers of a request say of its sender.

    Args:
        verdict: `fresh` is an admitted site; `unsigned` may be anybody.
        site: the admitted site, where there is one.
    """

    verdict: Verdict
    site: str = ""


class _Site:
    """An admitted site and the signatures that it used lately."""

    def __init__(self, name: str, key: ec.EllipticCurvePublicKey) -> None:
        self.name, self.key = name, key
        self._used: set[bytes] = set()
        self._order: deque[tuple[float, bytes]] = deque()

    def use(self, timestamp: bytes, *, now: float) -> Verdict:
        while self._order and self._order[0][0] < now - REMEMBERED_S:
            self._used.discard(self._order.popleft()[1])
        if timestamp in self._used:
            return "repeated"
        if len(self._used) >= MOST_PER_SITE:
            return "too many"
        self._used.add(timestamp)
        self._order.append((now, timestamp))
        return "fresh"


class Signatures:
    """The keys of admitted sites, and which of their signatures were used.

    What is remembered is the signed time, not the signature: ECDSA lets anyone turn one
    signature into another of the same text.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sites: Mapping[bytes, _Site] = {}

    def admit(self, keys: Mapping[bytes, str]) -> None:
        """Know exactly these keys (PEM, SubjectPublicKeyInfo) under these names."""
        sites: dict[bytes, _Site] = {}
        for pem, name in keys.items():
            known = self._sites.get(pem)
            key = serialization.load_pem_public_key(pem)
            assert isinstance(key, ec.EllipticCurvePublicKey)  # admitted keys are
            sites[pem] = known if known is not None and known.name == name else _Site(name, key)
        self._sites = sites

    def look(self, headers: Iterable[tuple[bytes, bytes]], *, key: bytes) -> Signer:
        """Judge a request by its headers; a signature that passes is used up.

        Args:
            key: that the connection was opened with, PEM; a request signed with another, whoever's,
                is unsigned.
        """
        found: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in (PUBLIC_KEY, SIGNATURE, TIMESTAMP):
                # Of a header that comes twice, Flower might read the other one.
                if name in found:
                    return Signer("unsigned")
                found[name] = value
        try:
            pem = base64.b64decode(found[PUBLIC_KEY], validate=True)
            signature = base64.b64decode(found[SIGNATURE], validate=True)
            timestamp = found[TIMESTAMP]
        except (KeyError, binascii.Error):
            return Signer("unsigned")
        site = self._sites.get(pem)
        if site is None or pem != key:
            return Signer("unsigned")
        try:
            site.key.verify(signature, timestamp, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            # Not the site's doing: anyone can name its key.
            return Signer("unsigned")
        return Signer(site.use(timestamp, now=self._clock()), site.name)
