"""Layouts `png_gray` and `rgb_png`: slices that went through the CT window already.

A picture has no HU, no size and no place; what it has is trusted to be the paper's window.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

from stic_client.ingest.hounsfield import fill_of
from stic_client.ingest.source import Source, quiet
from stic_client.ingest.stack import Stack
from stic_core.data.ct import PHASES, Grid, from_grey

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIZES = (32, 4096)
_BLACK, _WHITE = 6, 200
"""-150 HU in the paper's window; and what no window makes of air unless it is inverted."""


def read_grey(source: Source) -> Stack:
    """A phase as an 8-bit grey PNG, or one with three equal channels.

    Raises:
        PatientError: anything else.
    """
    pixels = _pixels(source)
    if pixels.ndim == 3:
        if not (pixels[..., :1] == pixels[..., :3]).all():
            raise source.refuse(
                "the picture has colours", expected="grey", advice="Use layout rgb_png, or grey files."
            )
        pixels = pixels[..., 0]
    return _stack(source, pixels)


def read_rgb(source: Source) -> dict[str, Stack]:
    """All phases in one RGB PNG: NC red, ART green, PV blue.

    Raises:
        PatientError: anything else.
    """
    pixels = _pixels(source)
    if pixels.ndim != 3:
        raise source.refuse("the picture is grey", expected="RGB: NC, ART, PV", advice="Use layout png_gray.")
    if (pixels[..., 0] == pixels[..., 1]).all() or (pixels[..., 1] == pixels[..., 2]).all():
        raise source.refuse(
            "two channels are the same",
            expected="a different phase in each",
            advice="Make the picture again.",
        )
    return {phase: _stack(source, pixels[..., channel]) for channel, phase in enumerate(PHASES)}


def _stack(source: Source, grey: np.ndarray) -> Stack:
    if np.ptp(grey) == 0:
        raise source.refuse(
            "the picture shows nothing", got="one grey value", advice="Make the picture again."
        )
    around = fill_of(grey.astype(np.float32))
    if around is not None and around > _WHITE:
        raise source.refuse(
            "the picture is inverted",
            got=f"grey {around:.0f} all around",
            expected="0, which is air",
            advice="Make the picture again with the paper's window; air is black.",
        )
    hu = from_grey(np.ascontiguousarray(grey))
    rows, cols = grey.shape
    warnings = ()
    if around is not None and around > _BLACK:
        warnings = (f"what surrounds the picture is grey {around:.0f}: with the paper's window it is 0, air",)
    return Stack(
        source=source,
        grid=Grid((rows, cols)),
        z_mm=(0.0,),
        load=lambda _: hu,
        has_geometry=False,
        warnings=warnings,
    )


def _pixels(source: Source) -> np.ndarray:
    """Rows, columns and, unless it is grey, 3 channels, uint8.

    Raises:
        PatientError: no PNG of 8 bits a channel, or a damaged one.
    """
    try:
        data = source.path.read_bytes()
    except OSError as error:
        raise source.unreadable("PNG", error) from None
    _check_chunks(data, source=source)
    low, most = _SIZES
    cols, rows, depth = struct.unpack(">IIB", data[16:25])
    if not (low <= rows <= most and low <= cols <= most):
        raise source.refuse(
            "unsupported number of rows or columns", got=f"{rows} x {cols}", expected=f"{low} to {most} each"
        )
    if depth != 8:
        raise source.refuse(
            "unsupported bits per channel",
            got=depth,
            expected=8,
            advice="Window to 8 bits as the paper does.",
        )
    try:
        with quiet():
            image = Image.open(source.path, formats=["PNG"])
            mode, pixels = image.mode, np.asarray(image)
    except Exception as error:  # noqa: BLE001 - Pillow raises almost anything on broken files
        raise source.unreadable("PNG", error) from None
    if mode == "RGBA" and (pixels[..., 3] == 255).all():
        mode, pixels = "RGB", pixels[..., :3]
    if mode not in {"L", "RGB"}:
        raise source.refuse(
            "the picture is neither grey nor RGB", expected="8-bit L or RGB without transparency"
        )
    return pixels


def _check_chunks(data: bytes, *, source: Source) -> None:
    """Check each chunk's checksum and the end; decoders pass over both.

    Raises:
        PatientError: no PNG, cut short, or a checksum that is wrong.
    """
    if data[:8] != _SIGNATURE:
        raise source.refuse(
            "it is not a PNG file", expected="PNG", advice="Lossy formats alter grey values: use PNG."
        )
    at, compressed, kind = 8, [], b""
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        end = at + 12 + length
        if end > len(data) or zlib.crc32(kind + body) != struct.unpack(">I", data[end - 4 : end])[0]:
            break
        if kind == b"IDAT":
            compressed.append(body)
        at = end
        if kind == b"IEND":
            break
    try:
        complete = zlib.decompressobj()
        complete.decompress(b"".join(compressed), 4 * _SIZES[1] ** 2 + _SIZES[1])
        whole = complete.eof
    except zlib.error:
        whole = False
    if kind != b"IEND" or at != len(data) or not whole:
        raise source.refuse("the picture is damaged or cut short", advice="Copy the file again.")
