"""NRRD with its data in the same file, and the segmentations that 3D Slicer stores in it.

Slicer's `.seg.nrrd` names its segments in the header. Segments that overlap lie in layers: the first
of four axes, which has no direction in space.
"""

from __future__ import annotations

import bz2
import io
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stic_client.ingest.source import Source
from stic_client.ingest.stored import MAX_VOXELS, Stored, check_length

_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(
        (
            "longlong",
            "long long",
            "long long int",
            "signed long long",
            "signed long long int",
            "int64",
            "int64_t",
        ),
        "i8",
    ),
    **dict.fromkeys(
        ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"
    ),
    "float": "f4",
    "double": "f8",
}
_TO_LPS = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
    "": (1, 1, 1),
}
_VECTOR = re.compile(r"none|\(([^()]*)\)")
_SEGMENT = re.compile(r"Segment(\d+)_(Name|ID|Layer|LabelValue)")


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment that the header names.

    Args:
        names: its name and its identifier, lower case.
    """

    names: tuple[str, ...]
    layer: int
    value: int


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """A file's volumes, one per layer; and its segments, if it names any."""

    layers: Sequence[Stored]
    segments: tuple[Segment, ...]


def read_file(source: Source) -> Layers:
    """What a file holds.

    Raises:
        PatientError: not NRRD, not 3 dimensions (or 4 with layers), cut short, or without a place.
    """
    try:
        return _read(source.path.read_bytes(), source=source)
    except (OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise source.unreadable("nrrd", error) from None


def _read(data: bytes, *, source: Source) -> Layers:
    end = min((at for at in (data.find(b"\n\n"), data.find(b"\r\n\r\n")) if at >= 0), default=-1)
    if not data.startswith(b"NRRD000") or end < 0 or end > 1 << 20:
        raise source.refuse("it is not an NRRD file", expected="NRRD with its data in the same file")
    fields, named = _fields(data[:end].decode("utf-8", "replace"))
    if "data file" in fields or "datafile" in fields:
        # It may name any file of this machine.
        raise source.refuse("its data are in another file", expected="NRRD with its data in the same file")
    sizes = [int(size) for size in fields.get("sizes", "").split()]
    kind = _TYPES.get(fields.get("type", "").lower())
    if len(sizes) not in (3, 4) or kind is None or min(sizes) < 1 or math.prod(sizes) > MAX_VOXELS:
        raise source.refuse(
            "unsupported sizes or type", expected="3 dimensions of integers or floats, or 4 with layers"
        )
    affine, layered = _place(fields, dimensions=len(sizes), source=source)
    expected = math.prod(sizes) * np.dtype(kind).itemsize
    start = end + (2 if data[end : end + 2] == b"\n\n" else 4)
    body = _unpacked(memoryview(data)[start:], fields=fields, expected=expected, source=source)
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    values = np.frombuffer(body, dtype=order + kind, count=math.prod(sizes)).reshape(sizes[::-1])
    every = [values[..., layer] for layer in range(sizes[0])] if layered else [values]
    return Layers(tuple(Stored(layer, affine) for layer in every), _segments(named, layers=len(every)))


def _fields(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The header's fields (`name: value`), and its key/value pairs (`name:=value`)."""
    fields, pairs = {}, {}
    for line in text.splitlines()[1:]:
        key, mark, value = line.partition(":")
        if not mark or line.startswith("#"):
            continue
        if value.startswith("="):
            pairs[key.strip()] = value[1:].strip()
        else:
            fields[key.strip().lower()] = value.strip()
    return fields, pairs


def _place(fields: Mapping[str, str], *, dimensions: int, source: Source) -> tuple[np.ndarray, bool]:
    """From voxels to patient space (LPS), mm; and whether the first axis counts layers.

    Raises:
        PatientError: no place, or another axis without a direction.
    """
    directions = [match[1] for match in _VECTOR.finditer(fields.get("space directions", "").lower())]
    origin = _VECTOR.search(fields.get("space origin", ""))
    to_lps = _TO_LPS.get(fields.get("space", "").lower())
    if not directions or origin is None or to_lps is None:
        raise source.refuse(
            "the file gives no position in space", expected="space directions and space origin"
        )
    layered = dimensions == 4
    if layered != (directions[0] is None) or len(directions) != dimensions or None in directions[1:]:
        raise source.refuse("it is not one volume", expected="3 dimensions in space, layers before them")
    columns = [
        [float(number) for number in (vector or "").split(",")]
        for vector in (*directions[layered:], origin[1])
    ]
    affine = np.array(columns, dtype=np.float64).T
    if affine.shape != (3, 4):
        raise ValueError("vectors of another space")
    return affine * np.array(to_lps)[:, None], layered


def _unpacked(
    body: memoryview, *, fields: Mapping[str, str], expected: int, source: Source
) -> bytes | memoryview:
    encoding = fields.get("encoding", "").lower()
    if encoding == "raw":
        got: bytes | memoryview = body
    elif encoding in {"gzip", "gz"}:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        got = unpacker.decompress(body, expected + 1)
        if not unpacker.eof:  # its checksum was not reached
            got = got[: expected - 1]
    elif encoding in {"bzip2", "bz2"}:
        with bz2.open(io.BytesIO(body)) as file:
            got = file.read(expected + 1)
    else:
        raise source.refuse(
            "unsupported encoding", expected="raw, gzip or bzip2", advice="Write it with gzip encoding."
        )
    if any(int(fields.get(key, "0")) for key in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise source.refuse("unsupported encoding", expected="no line skip or byte skip")
    check_length(len(got), expected=expected, source=source)
    return got


def _segments(pairs: Mapping[str, str], *, layers: int) -> tuple[Segment, ...]:
    found: dict[int, dict[str, str]] = {}
    for key, value in pairs.items():
        if match := _SEGMENT.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = value
    segments = [
        Segment(
            tuple(one[key].lower() for key in ("Name", "ID") if one.get(key)),
            int(one.get("Layer", "0")),
            int(one.get("LabelValue", "1")),
        )
        for _, one in sorted(found.items())
    ]
    return tuple(segment for segment in segments if 0 <= segment.layer < layers)
