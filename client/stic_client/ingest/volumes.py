"""NIfTI and NRRD: whole, in place, and turned to the standard orientation.

ITK fills what a truncated file lacks with zeros, so lengths and checksums are checked first.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk

from stic_client.ingest.source import Source, quiet
from stic_client.ingest.stack import Stack, check_hu
from stic_core.data.ct import Grid

MAX_VOXELS = 2_000 * 1024 * 1024
_MAX_TILT_DEGREES = 2.0
_NIFTI_BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4}
_NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(
        ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4
    ),
    "float": 4,
    "double": 8,
}


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Values on an even grid: axis 0 from the feet up, then rows and columns as in `Stack`."""

    values: np.ndarray
    grid: Grid
    z_mm: tuple[float, ...]


def read_nifti(source: Source) -> Stack:
    """Layout `nifti`: a phase in HU.

    Raises:
        PatientError: anything wrong with it.
    """
    volume = read_volume(source, kind="nifti")

    def load(index: int) -> np.ndarray:
        return check_hu(np.ascontiguousarray(volume.values[index], dtype=np.float32), source=source)

    return Stack(source=source, grid=volume.grid, z_mm=volume.z_mm, load=load)


def read_volume(source: Source, *, kind: Literal["nifti", "nrrd"]) -> Volume:
    """Values and place of a file.

    Raises:
        PatientError: not of this kind, cut short, without a place, or tilted.
    """
    if not source.path.is_file():
        raise source.refuse("it is a folder", expected=f"a {kind} file")
    try:
        if kind == "nifti":
            _check_nifti(source)
        else:
            _check_nrrd(source)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise source.unreadable(kind, error) from None
    try:
        with quiet():
            reader = sitk.ImageFileReader()
            reader.SetImageIO("NiftiImageIO" if kind == "nifti" else "NrrdImageIO")
            reader.SetFileName(str(source.path))
            image = reader.Execute()
            if image.GetDimension() == 4 and image.GetSize()[3] == 1:
                image = image[..., 0]
            if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
                raise source.refuse("it is not one volume", expected="3 dimensions, 1 value per voxel")
            image = sitk.DICOMOrient(image, "LPS")
    except RuntimeError as error:  # ITK's one exception
        raise source.unreadable(kind, error) from None
    direction = np.array(image.GetDirection()).reshape(3, 3)
    tilt = math.degrees(math.acos(min(1.0, float(np.diag(direction).min()))))
    if tilt > _MAX_TILT_DEGREES:
        raise source.refuse(
            "the volume is not axial, or is tilted",
            got=f"{tilt:.1f} degrees",
            expected=f"at most {_MAX_TILT_DEGREES:.0f} degrees",
            advice="Export the axial reconstruction without gantry tilt.",
        )
    (dx, dy, dz), (x, y, z) = image.GetSpacing(), image.GetOrigin()
    if (
        not all(math.isfinite(step) and 0.05 <= step <= 20 for step in (dx, dy, dz))
        or max(map(abs, (x, y, z))) > 5e3
    ):
        raise source.refuse("voxel size or origin is impossible", expected="0.05 to 20 mm, within 5 m")
    values = sitk.GetArrayFromImage(image)
    grid = Grid((values.shape[1], values.shape[2]), (dy, dx), (y, x))
    return Volume(values, grid, tuple(z + dz * number for number in range(values.shape[0])))


def _cut_short(source: Source, *, got: int, expected: int) -> None:
    if got < expected:
        raise source.refuse(
            "voxel data are cut short",
            got=f"{got} bytes",
            expected=f"{expected} bytes",
            advice="Copy the file again.",
        )


def _check_nifti(source: Source) -> None:
    name = source.path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        raise source.refuse("its name is not that of a NIfTI file", expected=".nii or .nii.gz")
    packed = name.endswith(".gz")
    with gzip.open(source.path) if packed else source.path.open("rb") as file:
        head = file.read(540)
        order = next(
            (
                mark
                for mark in "<>"
                if head[:4] in (struct.pack(f"{mark}i", 348), struct.pack(f"{mark}i", 540))
            ),
            "",
        )
        if not order:
            raise source.refuse(
                "it is not a NIfTI file", expected="NIfTI-1 or NIfTI-2", advice="Convert it again."
            )
        first = struct.unpack(f"{order}i", head[:4])[0] == 348
        if first:
            dims = struct.unpack(f"{order}8h", head[40:56])
            kind = struct.unpack(f"{order}h", head[70:72])[0]
            offset = struct.unpack(f"{order}f", head[108:112])[0]
            qform, sform = struct.unpack(f"{order}2h", head[252:256])
            single = head[344:347] == b"n+1"
        else:
            kind = struct.unpack(f"{order}h", head[12:14])[0]
            dims = struct.unpack(f"{order}8q", head[16:80])
            offset = struct.unpack(f"{order}q", head[168:176])[0]
            qform, sform = struct.unpack(f"{order}2i", head[344:352])
            single = head[4:7] == b"n+2"
        if not single:
            raise source.refuse(
                "header and voxels are in two files, or the magic bytes are wrong", expected="one .nii file"
            )
        if dims[0] not in (3, 4) or min(dims[1:4]) < 1 or (dims[0] == 4 and dims[4] != 1):
            raise source.refuse("it is not one volume", expected="3 dimensions")
        voxels = dims[1] * dims[2] * dims[3]
        if kind not in _NIFTI_BYTES or voxels > MAX_VOXELS:
            raise source.refuse(
                "unsupported type or number of voxels", expected="integers or floats, at most 2 G voxels"
            )
        if qform <= 0 and sform <= 0:
            raise source.refuse("the file gives no position in space", expected="a qform or an sform")
        expected = int(offset) + voxels * _NIFTI_BYTES[kind]
        # Reading to the end lets gzip compare its checksum.
        _cut_short(source, got=len(head) + _drain(file, most=expected + (1 << 20)), expected=expected)


def _drain(file: gzip.GzipFile | object, *, most: int) -> int:
    """Bytes left in a file, read in pieces.

    Raises:
        ValueError: more than `most`.
    """
    total = 0
    while block := file.read(1 << 22):  # pyright: ignore[reportAttributeAccessIssue]
        total += len(block)
        if total > most:
            raise ValueError("longer than its header says")
    return total


def _check_nrrd(source: Source) -> None:
    data = source.path.read_bytes()
    end = min((at for at in (data.find(b"\n\n"), data.find(b"\r\n\r\n")) if at >= 0), default=-1)
    if not data.startswith(b"NRRD000") or end < 0 or end > 1 << 16:
        raise source.refuse("it is not an NRRD file", expected="NRRD with its data in the same file")
    fields = {}
    for line in data[:end].decode("latin-1").splitlines()[1:]:
        key, mark, text = line.partition(":")
        if mark and not line.startswith("#") and not text.startswith("="):
            fields[key.strip().lower()] = text.strip()
    if "data file" in fields or "datafile" in fields:
        # It may name any file of this machine.
        raise source.refuse("its data are in another file", expected="NRRD with its data in the same file")
    if "space directions" not in fields or "space origin" not in fields:
        raise source.refuse(
            "the file gives no position in space", expected="space directions and space origin"
        )
    sizes = [int(size) for size in fields.get("sizes", "").split()]
    width = _NRRD_BYTES.get(fields.get("type", ""))
    if len(sizes) != 3 or width is None or min(sizes) < 1 or math.prod(sizes) > MAX_VOXELS:
        raise source.refuse("unsupported sizes or type", expected="3 dimensions of integers or floats")
    expected = math.prod(sizes) * width
    body = data[end + (2 if data[end : end + 2] == b"\n\n" else 4) :]
    encoding = fields.get("encoding", "").lower()
    if encoding in {"gzip", "gz"}:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        got = len(unpacker.decompress(body, expected + 1))
        if not unpacker.eof:
            got = min(got, expected - 1)
    elif encoding == "raw":
        got = len(body)
    else:
        raise source.refuse(
            "unsupported encoding", expected="raw or gzip", advice="Write it with gzip encoding."
        )
    _cut_short(source, got=got, expected=expected)
