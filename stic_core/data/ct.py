"""From Hounsfield units to the grey values that the model sees.

Axes are rows then columns, as DICOM stores them. The window is the paper's: width 400,
level 40. Nothing is scaled to an image's own range: equal HU give equal grey everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from stic_core.tensors.array_types import GreySlice, HUSlice, Points

PHASES = ("nc", "art", "pv")
"""Non-contrast, arterial, portal venous: the order of time, and of every array's phase axis."""

IMAGE_SIZE = 224
"""Rows and columns of a prepared image (VGG16's input)."""

WINDOW_OFFSET_HU = 159.5
"""Minus the window's lower end: level 40 - (width 400 - 1) / 2 = -159.5 HU."""

WINDOW_GAIN = 255 / 400
"""Grey values per HU: 0.6375."""

AIR_HU = -1000.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Where a slice's pixels lie, in mm; row before column, as everywhere here.

    Args:
        shape: rows and columns.
        spacing_mm: from row to row and from column to column, between pixel centres.
        origin_mm: the first pixel's centre. For DICOM: patient y and x (LPS) of an axial
            slice whose rows run to the patient's left and whose columns to the back.
    """

    shape: tuple[int, int]
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    origin_mm: tuple[float, float] = (0.0, 0.0)

    def to_mm(self, pixels: ArrayLike) -> Points:
        """Positions (row, col) in pixels, shape (..., 2), as positions in mm."""
        return np.asarray(pixels, dtype=np.float64) * self.spacing_mm + self.origin_mm

    def to_pixels(self, mm: ArrayLike) -> Points:
        """The inverse of `to_mm`."""
        return (np.asarray(mm, dtype=np.float64) - self.origin_mm) / self.spacing_mm

    def shrunk(self, factor: int) -> Grid:
        """The grid of the means of `factor` x `factor` pixels; what does not fill one is cut."""
        rows, cols = (size // factor for size in self.shape)
        (row_mm, col_mm), half = self.spacing_mm, (factor - 1) / 2
        return Grid(
            (rows, cols),
            (row_mm * factor, col_mm * factor),
            (self.origin_mm[0] + half * row_mm, self.origin_mm[1] + half * col_mm),
        )


@dataclass(frozen=True, slots=True)
class Turn:
    """How a file's own pixels lie in a slice of the standard orientation.

    Args:
        swapped: rows and columns change places, before anything else.
        rows, cols: counted from the other end then.
    """

    swapped: bool = False
    rows: bool = False
    cols: bool = False

    def place(self, pixel: tuple[float, float], *, shape: tuple[int, int]) -> tuple[float, float]:
        """Where a pixel (row, col) of the file lies.

        Args:
            shape: rows and columns of the turned slice.

        Example:
            >>> Turn(rows=True).place((1, 5), shape=(10, 20))
            (8, 5)
        """
        row, col = pixel[::-1] if self.swapped else pixel
        return (shape[0] - 1 - row if self.rows else row), (shape[1] - 1 - col if self.cols else col)


AS_STORED = Turn()
"""Rows and columns as the file has them."""


def window(hu: HUSlice) -> GreySlice:
    """Grey = clip(trunc((HU + 159.5) * 0.6375), 0, 255).

    Args:
        hu: one slice, HU.

    Example:
        >>> window(np.array([[-158.0, 40.0, 241.0]], dtype=np.float32)).tolist()
        [[0, 127, 255]]
    """
    grey = np.trunc((hu.astype(np.float64) + WINDOW_OFFSET_HU) * WINDOW_GAIN)
    return np.clip(grey, 0, 255).astype(np.uint8)


def from_grey(grey: GreySlice) -> HUSlice:
    """HU that `window` turns into these grey values again, for images that come windowed.

    Example:
        >>> window(from_grey(np.array([[0, 127, 255]], dtype=np.uint8))).tolist()
        [[0, 127, 255]]
    """
    # The middle of the HU interval that a grey value stands for: no rounding can leave it.
    return ((grey.astype(np.float64) + 0.5) / WINDOW_GAIN - WINDOW_OFFSET_HU).astype(np.float32)


def crop(
    hu: HUSlice, *, centre: tuple[float, float], side_mm: float, spacing_mm: tuple[float, float]
) -> HUSlice:
    """A square of `side_mm` around `centre`; what lies outside the image is air.

    Args:
        hu: one slice, HU.
        centre: row and column, in pixels (their centres are whole numbers), of the square's middle.
        side_mm: side of the square, mm.
        spacing_mm: distance between rows and between columns, mm.
    """
    rows, cols = (max(1, round(side_mm / step)) for step in spacing_mm)
    top, left = (round(middle - (size - 1) / 2) for middle, size in zip(centre, (rows, cols), strict=True))
    out = np.full((rows, cols), AIR_HU, dtype=np.float32)
    source = hu[max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + cols, 0)]
    row, col = max(-top, 0), max(-left, 0)
    out[row : row + source.shape[0], col : col + source.shape[1]] = source
    return out


def resize(grey: GreySlice, *, size: int = IMAGE_SIZE) -> GreySlice:
    """Bilinear without antialias, pixel centres at the half pixel (as the authors' cv2.resize).

    Args:
        grey: any height and width.
        size: rows and columns of the result.
    """
    rows, cols = (_weights(length, size) for length in grey.shape)
    (top, bottom, down), (left, right, across) = rows, cols
    image = grey.astype(np.float32)
    lines = image[top] * (1 - down)[:, None] + image[bottom] * down[:, None]
    scaled = lines[:, left] * (1 - across) + lines[:, right] * across
    return np.rint(scaled).astype(np.uint8)


def _weights(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each new pixel: the old one before it, the one after, and the latter's weight."""
    at = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    before = np.minimum(at.astype(np.int64), length - 1)
    return before, np.minimum(before + 1, length - 1), (at - before).astype(np.float32)
