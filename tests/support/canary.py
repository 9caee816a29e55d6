"""Marks in a hospital's data, a tap on the wire before encryption, and the search for the marks."""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

# Runs in each process before anything else (Python imports `sitecustomize` at its start). TLS
# is the last place where the text is in clear: asyncio's server uses SSLObject, httpx SSLSocket.
TAP = """
import os, ssl, threading

_folder = os.environ.get("STIC_TAP")
if _folder:
    _lock = threading.Lock()

    def _keep(direction, data):
        with _lock, open(os.path.join(_folder, f"{os.getpid()}.{direction}"), "ab") as file:
            file.write(data)

    def _tap_read(kind):
        read = kind.read

        def tapped(self, length=1024, buffer=None):
            got = read(self, length) if buffer is None else read(self, length, buffer)
            _keep("in", got if buffer is None else bytes(memoryview(buffer)[:got]))
            return got

        kind.read = tapped

    def _tap_write(kind, name):
        write = getattr(kind, name)

        def tapped(self, data, *arguments):
            sent = write(self, data, *arguments)
            _keep("out", bytes(memoryview(data).cast("B")[:sent]))
            return sent

        setattr(kind, name, tapped)

    for _kind, _name in ((ssl.SSLObject, "write"), (ssl.SSLSocket, "send")):
        _tap_read(_kind)
        _tap_write(_kind, _name)
"""


@dataclass(frozen=True)
class Canaries:
    """Marks by what they mark: texts, and bytes of images."""

    texts: tuple[str, ...]
    pixels: tuple[bytes, ...]

    def needles(self) -> Mapping[bytes, str]:
        """Each form in which a mark could travel; lower case for texts."""
        out: dict[bytes, str] = {}
        for text in self.texts:
            for name, raw in (
                ("utf-8", text.encode()),
                ("utf-16-le", text.encode("utf-16-le")),
                ("utf-16-be", text.encode("utf-16-be")),
                ("hex", text.encode().hex().encode()),
            ):
                out[raw.lower()] = f"{text} as {name}"
        for number, block in enumerate(self.pixels):
            out[block] = f"pixels {number}"
        for raw, what in list(out.items()):
            source = next((text.encode() for text in self.texts if what == f"{text} as utf-8"), raw)
            for shift in range(3):
                # The middle is the same whatever stands before and after it.
                coded = base64.b64encode(b"\0" * shift + source)
                inner = coded[4 if shift else 0 : len(coded) // 4 * 4 - 4]
                out[inner] = f"{what} as base64"
        return out


def pixel_marks(images: npt.NDArray[np.uint8], *, width: int = 24) -> Iterator[bytes]:
    """Pieces of each image's rows that no other data would hold by chance, as bytes and as float32."""
    for image in images:
        rows = image.reshape(-1, image.shape[-1])
        varied = [
            start
            for start in range(0, len(rows) - width, 997)
            if len(np.unique(rows[start : start + width])) >= width // 2
        ]
        for start in varied[:: max(1, len(varied) // 4)][:4]:
            piece = rows[start : start + width]
            yield piece.tobytes()
            for phase in range(piece.shape[1]):
                yield np.ascontiguousarray(piece[:, phase]).tobytes()
                yield (piece[:, phase].astype(np.float32) / np.float32(255)).tobytes()


class _Search:
    """Thousands of needles in megabytes: a needle's first eight bytes are looked up at every place at once."""

    def __init__(self, needles: Mapping[bytes, str]) -> None:
        self._needles = needles
        self._by_start: dict[int, list[bytes]] = {}
        for raw in needles:
            self._by_start.setdefault(int.from_bytes(raw[:8], "little"), []).append(raw)
        self._starts = np.array(sorted(self._by_start), dtype=np.uint64)
        self._pairs = np.zeros(
            (2, 1 << 16), dtype=bool
        )  # which two bytes a needle begins with, and goes on with
        for place in (0, 1):
            self._pairs[place, (self._starts >> np.uint64(16 * place)) & np.uint64(0xFFFF)] = True

    def __call__(self, content: bytes) -> set[str]:
        """What of the needles is there."""
        data = np.frombuffer(content + bytes(8), dtype=np.uint8).astype(np.uint16)
        pairs = data[:-1] | (data[1:] << 8)
        at = np.flatnonzero(self._pairs[0, pairs[: len(content)]])
        at = at[self._pairs[1, pairs[at + 2]]]
        start = np.zeros(len(at), dtype=np.uint64)
        for place in range(4):
            start |= pairs[at + 2 * place].astype(np.uint64) << np.uint64(16 * place)
        at, start = at[(hit := np.isin(start, self._starts))], start[hit]
        return {
            self._needles[raw]
            for where, key in zip(at.tolist(), start.tolist(), strict=True)
            for raw in self._by_start[key]
            if content.startswith(raw, where)
        }


def find(canaries: Canaries, files: Iterable[Path]) -> dict[str, list[str]]:
    """Which marks are in which files: as they are, unpacked, or in base64; a text in either case."""
    search = _Search(canaries.needles())
    found: dict[str, list[str]] = {}
    for path in files:
        for layer in _layers(path.read_bytes()):
            for what in search(layer) | search(layer.lower()):
                found.setdefault(what, []).append(path.name)
    return found


def _layers(content: bytes, *, depth: int = 2) -> Iterator[bytes]:
    yield content
    if depth == 0:
        return
    for match in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", content):
        packed = content[match.start() :]
        try:
            unpacked = zlib.decompressobj(31 if packed[:1] == b"\x1f" else 15).decompress(packed, 1 << 24)
        except (zlib.error, gzip.BadGzipFile):
            continue
        yield from _layers(unpacked, depth=depth - 1)
    for match in re.finditer(rb"[A-Za-z0-9+/]{200,}={0,2}", content):
        text = match[0][: len(match[0]) // 4 * 4]
        yield from _layers(base64.b64decode(text), depth=depth - 1)
