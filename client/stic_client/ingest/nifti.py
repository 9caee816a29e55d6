"""NIfTI-1 and NIfTI-2 in one file, as the standard defines them (nifti1.h, nifti2.h)."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np

from stic_client.ingest.source import Source
from stic_client.ingest.stored import MAX_VOXELS, Stored, check_end, read_exactly

_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_GZIP = b"\x1f\x8b"

_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Metres, millimetres, micrometres; files that give no unit mean millimetres."""

_RAS_TO_LPS = np.array([[-1.0], [-1.0], [1.0]])

_MAX_APART = 0.5
"""Voxels by which sform and qform may differ anywhere in the volume: they are stored with few digits."""

_HEADERS: Mapping[int, Mapping[str, tuple[str, int]]] = {
    348: {
        "dim": ("8h", 40),
        "type": ("h", 70),
        "pixdim": ("8f", 76),
        "offset": ("f", 108),
        "scale": ("2f", 112),
        "units": ("B", 123),
        "codes": ("2h", 252),
        "quaternion": ("6f", 256),
        "sform": ("12f", 280),
    },
    540: {
        "dim": ("8q", 16),
        "type": ("h", 12),
        "pixdim": ("8d", 104),
        "offset": ("q", 168),
        "scale": ("2d", 176),
        "units": ("i", 500),
        "codes": ("2i", 344),
        "quaternion": ("6d", 352),
        "sform": ("12d", 400),
    },
}


@dataclass(frozen=True, slots=True)
class _Header:
    order: str
    size: int
    fields: Mapping[str, tuple[float, ...]]

    def __getitem__(self, name: str) -> tuple[float, ...]:
        return self.fields[name]

    def one(self, name: str) -> float:
        return self.fields[name][0]


def read_file(source: Source) -> Stored:
    """What a file holds.

    Raises:
        PatientError: not NIfTI, several volumes, cut short, or without a place in space.
    """
    if not source.path.name.lower().endswith((".nii", ".nii.gz")):
        raise source.refuse("its name is not that of a NIfTI file", expected=".nii or .nii.gz")
    try:
        with source.path.open("rb") as file:  # files are renamed without being packed, or unpacked
            packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            return _read(cast("BinaryIO", gzip.open(file)) if packed else file, source=source)
    except (OSError, EOFError, zlib.error, struct.error, ValueError, OverflowError) as error:
        raise source.unreadable("nifti", error) from None


def _read(file: BinaryIO, *, source: Source) -> Stored:
    header = _read_header(file, source=source)
    dims = [int(size) for size in header["dim"]]
    sizes = [*dims[1 : dims[0] + 1], 1, 1][:3] if 2 <= dims[0] <= 7 else []
    if not sizes or min(sizes) < 1 or any(size != 1 for size in dims[4 : dims[0] + 1]):
        raise source.refuse("it is not one volume", expected="3 dimensions")
    voxels = sizes[0] * sizes[1] * sizes[2]
    kind = _TYPES.get(int(header.one("type")))
    if kind is None or voxels > MAX_VOXELS:
        raise source.refuse(
            "unsupported type or number of voxels", expected="integers or floats, at most 2 G voxels"
        )
    affine, warnings = _affine(header, sizes=sizes, source=source)
    offset = int(header.one("offset"))
    if not header.size <= offset < 1 << 30:
        raise source.refuse("voxel data are cut short", expected="voxels behind the header")
    read_exactly(file, offset - header.size, source=source)
    dtype = np.dtype(header.order + kind)
    values = read_exactly(file, voxels * dtype.itemsize, source=source).view(dtype)
    check_end(file)
    slope, intercept = header["scale"]
    if slope == 0 or not np.isfinite(slope):  # means: none
        slope, intercept = 1.0, 0.0
    if not np.isfinite(intercept):
        raise source.refuse(
            "no slope or intercept: stored values are not HU",
            got="an intercept that is not finite",
            expected="scl_slope and scl_inter",
            advice="Convert it again.",
        )
    return Stored(values.reshape(sizes[::-1]), affine, slope, intercept, warnings)


def _read_header(file: BinaryIO, *, source: Source) -> _Header:
    head = file.read(348)
    found = [
        (order, size) for order in "<>" for size in _HEADERS if head[:4] == struct.pack(f"{order}i", size)
    ]
    if not found:
        raise source.refuse(
            "it is not a NIfTI file", expected="NIfTI-1 or NIfTI-2", advice="Convert it again."
        )
    order, size = found[0]
    head += file.read(size - len(head))
    magic = head[344:347] == b"n+1" if size == 348 else head[4:7] == b"n+2"
    if not magic:
        raise source.refuse(
            "header and voxels are in two files, or the magic bytes are wrong", expected="one .nii file"
        )
    fields = {name: struct.unpack_from(order + form, head, at) for name, (form, at) in _HEADERS[size].items()}
    return _Header(order, size, fields)


def _affine(header: _Header, *, sizes: list[int], source: Source) -> tuple[np.ndarray, tuple[str, ...]]:
    """From voxels to patient space (LPS), mm; the sform where there are both.

    Raises:
        PatientError: neither form, or two that put voxels at different places.
    """
    qcode, scode = header["codes"]
    unit = _UNITS_MM.get(int(header.one("units")) & 7, 1.0)
    forms = []
    if scode > 0:
        forms.append(np.array(header["sform"], dtype=np.float64).reshape(3, 4) * unit * _RAS_TO_LPS)
    if qcode > 0 and (qform := _of_quaternion(header)) is not None:
        forms.append(qform * unit * _RAS_TO_LPS)
    if not forms:
        raise source.refuse("the file gives no position in space", expected="a qform or an sform")
    steps = np.linalg.norm(forms[0][:, :3], axis=0)
    if len(forms) == 1 or not all(np.isfinite(form).all() for form in forms):
        sizes_mm = np.abs(header["pixdim"][1:4]) * unit
        unlike = scode > 0 and not np.allclose(sizes_mm, steps, rtol=0.02)
        return forms[0], (
            ("voxel sizes in pixdim and in the sform differ; the sform is used: check them",)
            if unlike
            else ()
        )
    sform, qform = forms
    if _is_skewed(sform):  # a qform cannot say so: `turned` refuses it, and says what it is
        return sform, ()
    corners = np.array(
        [[i, j, k, 1] for i in (0, sizes[0] - 1) for j in (0, sizes[1] - 1) for k in (0, sizes[2] - 1)]
    )
    apart = np.linalg.norm(corners @ sform.T - corners @ qform.T, axis=1)
    few = max(_MAX_APART * float(steps.min()), 0.1)
    if apart.max() <= few:
        return sform, ()
    # The same axes: it lies elsewhere. Other axes: nobody knows left from right.
    if np.ptp(apart) <= few:
        return sform, (
            f"sform and qform place the volume {apart.max():.0f} mm apart; the sform is used: check the other files",
        )
    raise source.refuse(
        "sform and qform disagree",
        got=f"up to {apart.max():.0f} mm between them",
        expected="one place for each voxel",
        advice="Find out which is right, and write it into both.",
    )


def _is_skewed(affine: np.ndarray) -> bool:
    axes = affine[:, :3] / np.maximum(np.linalg.norm(affine[:, :3], axis=0), 1e-9)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 0.01)


def _of_quaternion(header: _Header) -> np.ndarray | None:
    """nifti1.h, "method 2", (3, 4), in the file's units; None where it is no rotation."""
    b, c, d, *shift = header["quaternion"]
    rest = 1.0 - (b * b + c * c + d * d)
    if not rest >= -1e-3:
        return None
    a = max(0.0, rest) ** 0.5
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handed, *steps = header["pixdim"][:4]
    steps[2] *= -1.0 if handed < 0 else 1.0
    return np.column_stack([rotation * steps, shift])
