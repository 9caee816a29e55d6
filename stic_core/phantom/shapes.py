"""Outlines in millimetres, and how much of each pixel they cover.

Axes as a radiologist reads an axial slice: x to the image's right (the patient's left),
y down (posterior); angles in radians from x towards y. Edges are soft over about a pixel,
which is what the partial volume of a real slice looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32
from scipy.interpolate import CubicSpline

ANGLES = 720
"""Entries of an outline's radius table: half a degree each."""

Patch: TypeAlias = Float32[np.ndarray, "h w"]
"""Values over a window of the slice."""

Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of a part of the slice."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The slice's pixels, in millimetres around the middle of the body.

    Args:
        size: rows, and columns.
        spacing_mm: between pixel centres, both ways.
        origin_mm: x and y of pixel (0, 0).
    """

    size: int
    spacing_mm: float
    origin_mm: tuple[float, float]

    def window(self, *, x: float, y: float, reach_mm: float) -> Window:
        """Rows and columns that hold every pixel within `reach_mm` of a point."""
        rows, cols = (
            slice(
                min(max(int((value - reach_mm - start) / self.spacing_mm), 0), self.size),
                min(max(int((value + reach_mm - start) / self.spacing_mm) + 2, 0), self.size),
            )
            for value, start in ((y, self.origin_mm[1]), (x, self.origin_mm[0]))
        )
        return rows, cols

    def offsets(self, window: Window, *, x: float, y: float) -> tuple[Patch, Patch]:
        """x (one row) and y (one column) of a window's pixels, from a point, mm."""
        rows, cols = window
        across = np.arange(cols.start, cols.stop, dtype=np.float32) * np.float32(self.spacing_mm)
        down = np.arange(rows.start, rows.stop, dtype=np.float32) * np.float32(self.spacing_mm)
        return (across + np.float32(self.origin_mm[0] - x))[None], (down + np.float32(self.origin_mm[1] - y))[
            :, None
        ]

    def pixel(self, *, x: float, y: float) -> tuple[float, float]:
        """Row and column of a point."""
        return (y - self.origin_mm[1]) / self.spacing_mm, (x - self.origin_mm[0]) / self.spacing_mm

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Distance between rows and between columns."""
        return self.spacing_mm, self.spacing_mm

    @property
    def whole(self) -> Window:
        """Every row and column."""
        return slice(0, self.size), slice(0, self.size)


@dataclass(frozen=True, slots=True)
class Outline:
    """A closed outline that its own middle sees all of.

    Args:
        x, y: the middle, mm.
        knots: radii, mm, at equal steps of angle from 0; a periodic cubic joins them.
    """

    x: float
    y: float
    knots: tuple[float, ...]

    def radii(self) -> np.ndarray:
        """Radius at `ANGLES` equal steps, mm; not to be written to."""
        return _interpolated(self.knots)

    @property
    def reach_mm(self) -> float:
        """The largest radius."""
        return float(self.radii().max())

    def inside(self, *, x: float, y: float) -> float:
        """How far inside the outline a point lies along its own ray, mm; negative outside."""
        angle = np.arctan2(y - self.y, x - self.x) % (2 * np.pi)
        radius = self.radii()[int(angle * ANGLES / (2 * np.pi)) % ANGLES]
        return float(radius - np.hypot(x - self.x, y - self.y))


@lru_cache(maxsize=128)
def _interpolated(knots: tuple[float, ...]) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, len(knots) + 1)
    spline = CubicSpline(turn, (*knots, knots[0]), bc_type="periodic")
    radii = np.maximum(spline(np.arange(ANGLES) * (2 * np.pi / ANGLES)), 0.5)
    radii.flags.writeable = False
    return radii


def ellipse(
    *,
    x: float,
    y: float,
    semi: tuple[float, float],
    tilt: float = 0.0,
    waves: Sequence[tuple[int, float, float]] = (),
    knots: int = 72,
) -> Outline:
    """An ellipse whose radius waves around.

    Args:
        x, y: the middle, mm.
        semi: half axes along x and y before tilting, mm.
        tilt: radians.
        waves: triples (waves around the outline, amplitude as a share of the radius, phase).
        knots: at least twice the highest number of waves.
    """
    angle = np.arange(knots) * (2 * np.pi / knots)
    along, across = np.cos(angle - tilt) / semi[0], np.sin(angle - tilt) / semi[1]
    radius = 1 / np.hypot(along, across)
    for count, amplitude, phase in waves:
        radius = radius * (1 + amplitude * np.cos(count * angle + phase))
    return Outline(x, y, tuple(radius.tolist()))


@dataclass(frozen=True, slots=True)
class Depth:
    """What a window's pixels know of an outline.

    Args:
        window: rows and columns.
        inside_mm: distance to the outline, positive inside.
        share: distance from the middle as a share of the outline's radius that way.
        angle: index into a table of `ANGLES` angles.
    """

    window: Window
    inside_mm: Patch
    share: Patch
    angle: np.ndarray

    def cover(self, *, inset_mm: float = 0.0, soft_mm: float = 1.0) -> Patch:
        """How much of each pixel lies at least `inset_mm` inside, 0 to 1."""
        return ramp(self.inside_mm - np.float32(inset_mm), soft_mm=soft_mm)


def ramp(inside_mm: Patch, *, soft_mm: float) -> Patch:
    """0 to 1 over `soft_mm` around distance 0."""
    return np.clip(inside_mm * np.float32(1 / soft_mm) + np.float32(0.5), 0, 1)


def depth(outline: Outline, grid: Grid, *, margin_mm: float = 2.0) -> Depth:
    """Distances to an outline, over the pixels that it and a margin take up."""
    radii = outline.radii()
    window = grid.window(x=outline.x, y=outline.y, reach_mm=float(radii.max()) + margin_mm)
    across, down = grid.offsets(window, x=outline.x, y=outline.y)
    angle = (np.arctan2(down, across) * np.float32(ANGLES / (2 * np.pi))).astype(np.int32) % ANGLES
    distance = np.sqrt(across * across + down * down)
    # The ray meets a slanted outline obliquely: the true distance is shorter by this cosine.
    slope = (np.roll(radii, -1) - np.roll(radii, 1)) * (ANGLES / (4 * np.pi))
    cosine = (1 / np.hypot(1, slope / radii)).astype(np.float32)
    radius = radii.astype(np.float32)[angle]
    return Depth(window, (radius - distance) * cosine[angle], distance / radius, angle)


def tube(
    grid: Grid, points: Sequence[tuple[float, float, float]], *, window: Window | None = None
) -> tuple[Window, Patch]:
    """Distance inside a line of round-ended pieces that change width, mm.

    Args:
        points: x, y and half width, mm, along the line.
        window: the pixels to fill; by default those that the line takes up.

    Returns:
        The window, and distances: positive inside, at most about -2 mm outside.
    """
    if window is None:
        xs, ys, widths = (np.array(values) for values in zip(*points, strict=True))
        middle_x, middle_y = (xs.min() + xs.max()) / 2, (ys.min() + ys.max()) / 2
        rows, _ = grid.window(x=middle_x, y=middle_y, reach_mm=float(np.ptp(ys) / 2 + widths.max() + 2))
        _, cols = grid.window(x=middle_x, y=middle_y, reach_mm=float(np.ptp(xs) / 2 + widths.max() + 2))
        window = rows, cols
    out = np.full(
        (window[0].stop - window[0].start, window[1].stop - window[1].start), -2.0, dtype=np.float32
    )
    for (x0, y0, w0), (x1, y1, w1) in pairwise(points):
        piece = _overlap(
            grid.window(
                x=(x0 + x1) / 2,
                y=(y0 + y1) / 2,
                reach_mm=float(np.hypot(x1 - x0, y1 - y0) / 2 + max(w0, w1) + 2),
            ),
            window,
        )
        if piece is None:
            continue
        across, down = grid.offsets(piece, x=x0, y=y0)
        dx, dy = x1 - x0, y1 - y0
        length = max(dx * dx + dy * dy, 1e-6)
        along = np.clip((across * np.float32(dx) + down * np.float32(dy)) * np.float32(1 / length), 0, 1)
        distance = np.hypot(across - along * np.float32(dx), down - along * np.float32(dy))
        inside = np.float32(w0) + along * np.float32(w1 - w0) - distance
        part = out[
            piece[0].start - window[0].start : piece[0].stop - window[0].start,
            piece[1].start - window[1].start : piece[1].stop - window[1].start,
        ]
        np.maximum(part, inside, out=part)
    return window, out


def _overlap(first: Window, second: Window) -> Window | None:
    rows = slice(max(first[0].start, second[0].start), min(first[0].stop, second[0].stop))
    cols = slice(max(first[1].start, second[1].start), min(first[1].stop, second[1].stop))
    return (rows, cols) if rows.start < rows.stop and cols.start < cols.stop else None
