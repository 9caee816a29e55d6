"""Stored values of CT pixels: decoded, checked for their width, and which of them are padding."""

from __future__ import annotations

import re

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from stic_client.ingest.damaged_frames import DECODED, check_codestreams, check_smooth, decompress
from stic_client.ingest.elements import known, numbers, text, value
from stic_client.ingest.hounsfield import reaching_border, without_fill
from stic_client.ingest.source import Source, quiet
from stic_core.data.ct import AIR_HU
from stic_core.tensors.array_types import HUSlice

_SIZES = (32, 2048)
_PHOTOMETRIC = (
    "MONOCHROME1",
    "MONOCHROME2",
    "RGB",
    "PALETTE COLOR",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_RCT",
    "YBR_ICT",
)

CT_RANGE_HU = (-1024.0, 3071.0)
"""What 12 bits with the usual intercept hold: a value outside is padding, or metal on an extended scale."""

_OVERLAY_STEP, _OVERLAY_STEPS = 40, 6
"""Graphics lie across organs: where they end, stored values (about 1 HU each) differ by no more than this, or
than this many times the difference of any neighbours."""


def check_pixels(dataset: Dataset, *, source: Source) -> tuple[int, int]:
    """Refuse pixels that are not 16-bit monochrome; rows and columns.

    Raises:
        PatientError: colours, MONOCHROME1, 8 bits, or numbers that cannot be.
    """
    photometric = text(dataset, "PhotometricInterpretation")
    if photometric != "MONOCHROME2":
        raise source.refuse(
            "unsupported photometric interpretation",
            got=known(photometric, _PHOTOMETRIC),
            expected="MONOCHROME2",
            advice="Export the original CT series.",
        )
    allocated, stored, high, samples, signed, rows, cols = (
        value(dataset, keyword)
        for keyword in (
            "BitsAllocated",
            "BitsStored",
            "HighBit",
            "SamplesPerPixel",
            "PixelRepresentation",
            "Rows",
            "Columns",
        )
    )
    if allocated != 16:
        got = f"{allocated} bits" if isinstance(allocated, int) else "nothing"
        raise source.refuse(
            "unsupported bits per pixel",
            got=got,
            expected="16 bits",
            advice="Export the original series, not a capture of it.",
        )
    if not isinstance(stored, int) or not 8 < stored <= 16 or high != stored - 1:
        raise source.refuse(
            "unsupported bits stored and high bit",
            expected="9 to 16 bits, and a high bit one below",
            advice="Export it again.",
        )
    if samples != 1 or signed not in (0, 1):
        raise source.refuse(
            "unsupported samples per pixel or sign",
            expected="1 sample, sign 0 or 1",
            advice="Export it again.",
        )
    low, most = _SIZES
    if not (isinstance(rows, int) and isinstance(cols, int) and low <= rows <= most and low <= cols <= most):
        raise source.refuse(
            "unsupported number of rows or columns",
            expected=f"{low} to {most} each",
            advice="Export it again.",
        )
    return rows, cols


def decode(dataset: Dataset, *, frames: int, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Stored values of all frames, and which of them the header declares to be padding.

    Returns:
        Values, int32, and a mask, both of shape (frames, rows, columns).

    Raises:
        PatientError: pixel data that are missing, cut short, too long, too wide or cannot be decoded.
    """
    rows, cols = check_pixels(dataset, source=source)
    syntax = _syntax_of(dataset, source=source)
    data = value(dataset, "PixelData")
    if not isinstance(data, bytes):
        raise source.refuse("pixel data are missing", expected="PixelData", advice="Export the series again.")
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    if not syntax.is_compressed:
        expected = frames * rows * cols * 2
        if len(data) != expected:
            raise source.refuse(
                "pixel data are cut short" if len(data) < expected else "pixel data are too long",
                got=f"{len(data)} bytes",
                expected=f"{expected} bytes",
                advice="Export or transfer the file again.",
            )
        pixels = np.frombuffer(data, dtype="<u2" if syntax.is_little_endian else ">u2")
    elif syntax not in DECODED:
        # The name is pydicom's own; a syntax that it does not know was refused before.
        raise source.refuse(
            "this compression cannot be decoded",
            got=syntax.name,
            expected="uncompressed, RLE, JPEG lossless, JPEG-LS, JPEG 2000 or HTJ2K",
            advice="Convert it to uncompressed DICOM.",
        )
    else:
        check_codestreams(dataset, frames=frames, source=source)
        try:
            with quiet():
                pixels = decompress(dataset, frames=frames)
        except Exception as error:  # noqa: BLE001 - decoders raise almost anything on broken streams
            raise source.unreadable("compressed pixels", error) from None
        if pixels.size != frames * rows * cols or pixels.dtype.kind not in "iu":
            raise source.refuse(
                "decoded pixels have the wrong shape",
                expected=f"{frames} x {rows} x {cols}",
                advice="Export it again.",
            )
    whole = (pixels.reshape(frames, rows, cols).astype(np.int32)) & 0xFFFF
    values = _signed(whole & ((1 << bits) - 1), bits=bits) if signed else whole & ((1 << bits) - 1)
    padding = _declared_padding(dataset, whole=whole, values=values, bits=bits)
    if bits < 16:
        if signed:
            _check_sign(values, bare=(values < 0) & (whole >> bits == 0) & ~padding, bits=bits, source=source)
        extra = _bits_above(whole, values, bits=bits, signed=bool(signed)) & ~padding
        _check_width(extra, values, bits=bits, source=source)
    if syntax.is_compressed:
        check_smooth(values, source=source)
    return values, padding


def to_hu(stored: np.ndarray, padding: np.ndarray, *, slope: float, intercept: float) -> HUSlice:
    """HU of one slice with its padding as air.

    Padding is what the header declares, what lies below the scale, and a constant around the image that
    is not air. A declared value that CT also measures (0 HU, or the top of the scale, where metal lies)
    is padding only where it is connected with the border.

    Args:
        stored, padding: rows by columns, as `decode` returns them.
    """
    hu = (stored * slope + intercept).astype(np.float32)
    low, high = CT_RANGE_HU
    outside = hu < low
    beyond = padding & (hu > high)
    within = padding & ~outside & ~beyond
    if within.any():
        within = reaching_border(within)
    hu[outside | beyond | within] = AIR_HU
    return without_fill(hu)


def _syntax_of(dataset: Dataset, *, source: Source) -> UID:
    """The transfer syntax; of a file without meta header, the uncompressed one that it was parsed by."""
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None and "PixelData" in dataset and not dataset["PixelData"].is_undefined_length:
        implicit, little = dataset.original_encoding
        if not little:
            return ExplicitVRBigEndian
        return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    if not isinstance(syntax, UID) or syntax not in AllTransferSyntaxes:
        standard = re.fullmatch(r"1\.2\.840\.10008\.1\.2[0-9.]*", str(syntax))
        raise source.refuse(
            "transfer syntax is missing or unknown",
            got=syntax if standard else None,
            advice="Convert it to uncompressed DICOM.",
        )
    return syntax


def _signed(values: np.ndarray, *, bits: int) -> np.ndarray:
    """Two's complement."""
    return np.where(values >= 1 << (bits - 1), values - (1 << bits), values)


def _declared_padding(dataset: Dataset, *, whole: np.ndarray, values: np.ndarray, bits: int) -> np.ndarray:
    """Pixels at PixelPaddingValue, or between it and PixelPaddingRangeLimit.

    Either may be written with the other sign than the pixels, and may need more bits than are
    stored: then the whole 16 bits are compared.
    """
    ends = [
        int(found[0])
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if (found := numbers(dataset, keyword, count=1)) is not None
    ]
    if not ends or numbers(dataset, "PixelPaddingValue", count=1) is None:
        return np.zeros(values.shape, dtype=bool)
    signed = bool(dataset.PixelRepresentation)
    as_whole = sorted(
        int(_signed(np.array(end & 0xFFFF), bits=16)) if signed else end & 0xFFFF for end in ends
    )
    padding = (wide := _signed(whole, bits=16) if signed else whole) >= as_whole[0]
    padding &= wide <= as_whole[-1]
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if least <= as_whole[0] and as_whole[-1] <= most:
        padding |= (values >= as_whole[0]) & (values <= as_whole[-1])
    return padding


def _bits_above(whole: np.ndarray, values: np.ndarray, *, bits: int, signed: bool) -> np.ndarray:
    """Where the bits above the stored ones are set, other than by the sign of the value.

    Some writers extend the sign into them and some leave them 0; what a file does with most of its
    negative values is its habit.
    """
    above = whole >> bits
    if not signed:
        return above != 0
    negative, full = values < 0, above == (1 << (16 - bits)) - 1
    extends = bool((negative & full).sum() > negative.sum() / 2)
    return np.where(negative, ~full & ((above != 0) | extends), above != 0)


def _steps(values: np.ndarray, *, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences between neighbours, and which of these lie at the edge of a pattern; both flat."""
    steps = [np.abs(np.diff(values, axis=axis)).ravel() for axis in (1, 2)]
    edges = [(np.diff(of.astype(np.int8), axis=axis) != 0).ravel() for axis in (1, 2)]
    return np.concatenate(steps), np.concatenate(edges)


def _check_sign(values: np.ndarray, *, bare: np.ndarray, bits: int, source: Source) -> None:
    """Refuse unsigned values that PixelRepresentation calls signed: bone would turn into air.

    Where the bits above a negative value are 0, nothing but the picture tells it from a large positive one:
    the right reading is the one that jumps less where these pixels end.

    Args:
        values: read as signed.
        bare: negative values without a sign in the bits above.

    Raises:
        PatientError: read as unsigned, the picture is smoother.
    """
    signed, edges = _steps(values, of=bare)
    unsigned, _ = _steps(values & ((1 << bits) - 1), of=bare)
    if edges.any() and np.median(unsigned[edges]) < np.median(signed[edges]):
        raise source.refuse(
            "stored values are unsigned, although PixelRepresentation says signed",
            got=f"{np.mean(bare):.1%} of the pixels would turn negative",
            expected="PixelRepresentation 0",
            advice="Export the original series again.",
        )


def _check_width(extra: np.ndarray, values: np.ndarray, *, bits: int, source: Source) -> None:
    """Refuse values that need more bits than BitsStored; an overlay in the bits above is none of the value.

    Without its overlay a picture is smooth where the overlay ends; a value without its upper bits
    jumps there. (Anonymisers remove an overlay's declaration and leave its bits, so the
    declaration cannot be asked.)

    Args:
        extra: where the bits above are set.
        values: without them.

    Raises:
        PatientError: the upper bits belong to the values.
    """
    if not extra.any():
        return
    steps, edges = _steps(values, of=extra)
    if not edges.any() or np.median(steps[edges]) > max(
        _OVERLAY_STEP, _OVERLAY_STEPS * float(np.median(steps))
    ):
        raise source.refuse(
            "stored values need more bits than BitsStored states",
            got=f"bits above them in {np.mean(extra):.1%} of the pixels",
            expected=f"{bits} bits",
            advice="Export the original series again; a converter wrote a wrong BitsStored or byte order.",
        )
