"""Compressed pixel data: what can be known of their damage, before and after decoding.

No compressed transfer syntax of DICOM has a checksum. Decoders fill what is missing with
zeros and turn flipped bits into patterns; what the formats let one notice is noticed here.
"""

from __future__ import annotations

import struct

import numpy as np
from openjpeg.utils import decode
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from scipy import ndimage

from stic_client.ingest.source import Source, quiet

_WAVELETS = (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)
_PLUGINS = {
    RLELossless: "pydicom",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), "gdcm"),
}
DECODED = (*_WAVELETS, *_PLUGINS)
"""Compressed transfer syntaxes that can be decoded."""

_ROUGH_STEP, _MAX_ROUGH = 150, 0.015
"""Share of pixels farther from their neighbours' median than this many HU: real CT has 0.4 %."""


def check_codestreams(dataset: Dataset, *, frames: int, source: Source) -> None:
    """Refuse compressed frames that are not whole.

    Raises:
        PatientError: another number of frames; one without its end marker; RLE whose runs do
            not fill each row exactly.
    """
    try:
        with quiet():
            found = list(generate_frames(dataset.PixelData, number_of_frames=frames))
            rle = dataset.file_meta.TransferSyntaxUID == RLELossless
    except Exception as error:  # noqa: BLE001 - pydicom raises almost anything on broken streams
        raise source.unreadable("compressed pixels", error) from None
    rows, cols = int(dataset.Rows), int(dataset.Columns)
    # JPEG, JPEG-LS and JPEG 2000 all end with the marker FFD9, then at most one byte of padding.
    whole = [
        _rle_is_whole(frame, rows=rows, cols=cols) if rle else b"\xff\xd9" in frame[-4:] for frame in found
    ]
    if len(found) != frames or not all(whole):
        raise source.refuse(
            "compressed pixel data are damaged or cut short",
            got=f"{sum(whole)} whole frames",
            expected=f"{frames}",
            advice="Export or transfer the file again.",
        )


def decompress(dataset: Dataset, *, frames: int) -> np.ndarray:
    """Stored values of all frames.

    Each syntax has one decoder. Left to itself pydicom tries one after the other, and GDCM,
    the last, ends the whole process on some damaged JPEG 2000 streams; it is left with the
    JPEG processes that only it decodes.

    Raises:
        Exception: whatever the decoder raises.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _WAVELETS:
        found = generate_frames(dataset.PixelData, number_of_frames=frames)
        return np.stack([decode(frame) for frame in found])
    return np.asarray(pixel_array(dataset, raw=True, decoding_plugin=_PLUGINS[syntax]))


def check_smooth(values: np.ndarray, *, source: Source) -> None:
    """Refuse frames that look like damaged code blocks: noise far above a scanner's.

    Args:
        values: (frames, rows, columns), about 1 HU a step.

    Raises:
        PatientError: too many pixels differ from their neighbours.
    """
    for frame in values:
        # Metal has streaks of thousands of HU; beyond bone the size of a step says nothing.
        clipped = np.clip(frame, np.percentile(frame, 1), np.percentile(frame, 1) + 2500).astype(np.int32)
        rough = float(np.mean(np.abs(clipped - ndimage.median_filter(clipped, 3)) > _ROUGH_STEP))
        if rough > _MAX_ROUGH:
            raise source.refuse(
                "decoded pixels are noise: the compressed data are damaged",
                got=f"{rough:.1%} of the pixels far from their neighbours",
                expected=f"at most {_MAX_ROUGH:.1%}",
                advice="Export or transfer the file again.",
            )


def _rle_is_whole(frame: bytes, *, rows: int, cols: int) -> bool:
    """Whether two segments of runs fill each row exactly (PS3.5 G.3.1: no run crosses rows)."""
    if len(frame) < 64:
        return False
    count, *offsets = struct.unpack("<16L", frame[:64])
    if count != 2 or offsets[0] != 64 or any(offsets[2:]) or not 64 < offsets[1] < len(frame):
        return False
    for start, stop in ((64, offsets[1]), (offsets[1], len(frame))):
        at = start
        for _ in range(rows):
            filled = 0
            while filled < cols and at < stop:
                head = frame[at]
                if head < 128:
                    filled += head + 1
                    at += head + 2
                elif head > 128:
                    filled += 257 - head
                    at += 2
                else:
                    at += 1
            if filled != cols or at > stop:
                return False
        if stop - at > 1:  # a byte of padding
            return False
    return True
