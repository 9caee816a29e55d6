"""NIfTI and NRRD files written field by field, for what no library would write."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from support.ingest_files import SIZE, SPACING

_CODES = {
    "u1": 2,
    "i2": 4,
    "i4": 8,
    "f4": 16,
    "f8": 64,
    "i1": 256,
    "u2": 512,
    "u4": 768,
    "i8": 1024,
    "u8": 1280,
}

RAS = np.array(
    [[-SPACING, 0, 0, SIZE * SPACING / 2], [0, -SPACING, 0, SIZE * SPACING / 2], [0, 0, 5.0, -10.0]]
)
"""Voxels to RAS, mm, for volumes of `ingest_files.body` from the feet up: rows to the left, columns to the back."""


def write_nifti(
    path: Path,
    values: np.ndarray,
    *,
    sform: np.ndarray | None = RAS,
    qform: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None,
    spacing: tuple[float, float, float] = (SPACING, SPACING, 5.0),
    handed: float = 1.0,
    slope: float = 1.0,
    intercept: float = 0.0,
    units: int = 2,
    version: int = 1,
    order: str = "<",
) -> Path:
    """A NIfTI file.

    Args:
        values: axes k, j, i.
        sform: (3, 4), to RAS; None for code 0.
        qform: quaternion b, c, d and shift; None for code 0.
        handed: the qform's third axis runs the other way if negative.
        version: 1 or 2.
    """
    form = values.dtype.newbyteorder(order)
    head = bytearray(348 if version == 1 else 540)
    at = (
        {"dim": ("8h", 40), "type": ("h", 70), "pixdim": ("8f", 76), "offset": ("f", 108), "scale": ("2f", 112),
         "units": ("B", 123), "codes": ("2h", 252), "quaternion": ("6f", 256), "sform": ("12f", 280)}
        if version == 1
        else {"dim": ("8q", 16), "type": ("h", 12), "pixdim": ("8d", 104), "offset": ("q", 168), "scale": ("2d", 176),
              "units": ("i", 500), "codes": ("2i", 344), "quaternion": ("6d", 352), "sform": ("12d", 400)}
    )  # fmt: skip

    def put(name: str, *numbers: float) -> None:
        struct.pack_into(order + at[name][0], head, at[name][1], *numbers)

    struct.pack_into(f"{order}i", head, 0, len(head))
    put("dim", values.ndim, *values.shape[::-1], *[1] * (7 - values.ndim))
    put("type", _CODES[values.dtype.str[1:]])
    put("pixdim", handed, *spacing, 0, 0, 0, 0)
    put("offset", len(head) + 4)
    put("scale", slope, intercept)
    put("units", units)
    put("codes", qform is not None, sform is not None)
    if qform is not None:
        put("quaternion", *qform[0], *qform[1])
    if sform is not None:
        put("sform", *np.asarray(sform).ravel().tolist())
    magic = (344, b"n+1\0") if version == 1 else (4, b"n+2\0\r\n\x1a\n")
    head[magic[0] : magic[0] + len(magic[1])] = magic[1]
    content = bytes(head) + bytes(4) + values.astype(form).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_nrrd(
    path: Path,
    values: np.ndarray,
    *,
    pairs: Mapping[str, str] | None = None,
    type_name: str = "unsigned char",
) -> Path:
    """A raw NRRD file where `ingest_files.body` lies, with layers if `values` has a fourth (last) axis."""
    layered = values.ndim == 4
    half = -SIZE * SPACING / 2
    lines = [
        "NRRD0004",
        "# as 3D Slicer writes it",
        f"type: {type_name}",
        f"dimension: {values.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, values.shape[::-1]))}",
        f"space directions: {'none ' if layered else ''}({SPACING},0,0) (0,{SPACING},0) (0,0,5)",
        f"kinds: {'list ' if layered else ''}domain domain domain",
        "endian: little",
        "encoding: raw",
        f"space origin: ({half},{half},-10)",
        *(f"{key}:={value}" for key, value in (pairs or {}).items()),
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + values.tobytes())
    return path
