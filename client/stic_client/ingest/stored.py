"""Voxels exactly as a file holds them, with their place: what NIfTI and NRRD readers return.

Nothing is repaired on the way. Libraries replace what they dislike (ITK turns NaN into 0, which is
soft tissue in HU, and fills what a truncated file lacks), and then no check can see it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from stic_client.ingest.source import Source
from stic_core.data.ct import Grid, Turn

MAX_VOXELS = 2_000 * 1024 * 1024
_MAX_TILT_DEGREES = 2.0
_PIECE = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A volume before it is turned.

    Args:
        values: stored values; axes k, j, i, of which i runs fastest in the file.
        affine: (3, 4), takes (i, j, k, 1) to patient x, y, z (LPS), mm.
        slope, intercept: what values are to be multiplied with and raised by.
        warnings: what was passed over.
    """

    values: np.ndarray
    affine: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def scaled(self) -> bool:
        """Whether stored values are not the ones that are meant."""
        return (self.slope, self.intercept) != (1.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Stored values on an even grid: axis 0 from the feet up, then rows and columns as in `Stack`.

    Args:
        turn: how a file's own rows (j) and columns (i) lie in it; None where its slices are not axial.
    """

    values: np.ndarray
    slope: float
    intercept: float
    grid: Grid
    z_mm: tuple[float, ...]
    turn: Turn | None
    warnings: tuple[str, ...] = ()

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Some of its values, with slope and intercept applied."""
        if (self.slope, self.intercept) == (1.0, 0.0):
            return values
        return values * self.slope + self.intercept


def turned(stored: Stored, *, source: Source) -> Volume:
    """A volume in the standard orientation.

    Raises:
        PatientError: sheared, tilted, or of an impossible size or place.
    """
    axes, first = stored.affine[:, :3], stored.affine[:, 3]
    steps = np.linalg.norm(axes, axis=0)
    sizes = stored.values.shape[::-1]
    if (
        not np.isfinite(stored.affine).all()
        or np.abs(first).max() > 5e3
        or not np.all((steps >= 0.05) & (steps <= 20))
    ):
        raise source.refuse("voxel size or origin is impossible", expected="0.05 to 20 mm, within 5 m")
    directions = axes / steps
    skew = max(abs(float(directions[:, a] @ directions[:, b])) for a, b in ((0, 1), (0, 2), (1, 2)))
    if (degrees := math.degrees(math.asin(min(1.0, skew)))) > _MAX_TILT_DEGREES:
        raise source.refuse(
            "the volume is sheared: its axes are not perpendicular",
            got=f"{degrees:.1f} degrees from a right angle",
            expected=f"at most {_MAX_TILT_DEGREES:.0f} degrees",
            advice="The gantry was tilted, or the sform is skewed: resample to an axial grid, "
            "or export the axial reconstruction without gantry tilt.",
        )
    # Of the six ways to call i, j and k the axes x, y and z, the one that they run along.
    order = max(
        itertools.permutations(range(3)),
        key=lambda way: sum(abs(directions[axis, of]) for axis, of in enumerate(way)),
    )
    along = [float(directions[axis, of]) for axis, of in enumerate(order)]
    tilt = math.degrees(math.acos(min(1.0, *map(abs, along))))
    if tilt > _MAX_TILT_DEGREES:
        raise source.refuse(
            "the volume is not axial, or is tilted",
            got=f"{tilt:.1f} degrees",
            expected=f"at most {_MAX_TILT_DEGREES:.0f} degrees",
            advice="Export the axial reconstruction without gantry tilt.",
        )
    values = stored.values.transpose([2 - of for of in reversed(order)])
    backwards = [way < 0 for way in along]
    values = values[tuple(slice(None, None, -1 if flip else 1) for flip in reversed(backwards))]
    corner = np.array(
        [sizes[of] - 1 if flip else 0 for of, flip in sorted(zip(order, backwards, strict=True))]
    )
    x, y, z = axes @ corner + first
    dx, dy, dz = (float(steps[of]) for of in order)
    turn = None
    if order[2] == 2:  # slices are axial
        turn = Turn(swapped=order[0] == 1, rows=backwards[1], cols=backwards[0])
    return Volume(
        values,
        stored.slope,
        stored.intercept,
        Grid((values.shape[1], values.shape[2]), (dy, dx), (float(y), float(x))),
        tuple(float(z) + dz * number for number in range(len(values))),
        turn,
        stored.warnings,
    )


def read_exactly(file: BinaryIO, count: int, *, source: Source) -> np.ndarray:
    """So many bytes of a file, uint8.

    Raises:
        PatientError: there are fewer.
    """
    data = np.empty(count, dtype=np.uint8)
    view, got = data.data, 0
    while got < count and (piece := file.read(min(_PIECE, count - got))):
        view[got : got + len(piece)] = piece
        got += len(piece)
    check_length(got, expected=count, source=source)
    return data


def check_length(got: int, *, expected: int, source: Source) -> None:
    """Refuse a file that ends too early."""
    if got < expected:
        raise source.refuse(
            "voxel data are cut short",
            got=f"{got} bytes",
            expected=f"{expected} bytes",
            advice="Copy the file again.",
        )


def check_end(file: BinaryIO, *, most: int = 1 << 20) -> None:
    """Read what follows the voxels; at the end a compressed stream compares its checksum.

    Raises:
        ValueError: more than `most` bytes follow.
    """
    rest = 0
    while piece := file.read(1 << 20):
        rest += len(piece)
        if rest > most:
            raise ValueError("longer than its header says")
