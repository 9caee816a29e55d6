"""From Hounsfield units to the grey values that the model sees.

Axes are rows then columns, as DICOM stores them. The window is the paper's: width 400,
level 40. Nothing is scaled to an image's own range: equal HU give equal grey everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from stic_core.types import GreySlice, HUSlice

PHASES = ("nc", "art", "pv")
"""Non-contrast, arterial, portal venous: the order of time, and of every array's phase axis."""

IMAGE_SIZE = 224
"""Rows and columns of a prepared image (VGG16's input)."""

WINDOW_OFFSET_HU = 159.5
"""Minus the window's lower end: level 40 - (width 400 - 1) / 2 = -159.5 HU."""

WINDOW_GAIN = 255 / 400
"""Grey values per HU: 0.6375."""

AIR_HU = -1000.0


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


def crop(
    hu: HUSlice, *, centre: tuple[float, float], side_mm: float, spacing_mm: tuple[float, float]
) -> HUSlice:
    """A square of `side_mm` around `centre`; what lies outside the image is air.

    Args:
        hu: one slice, HU.
        centre: row and column, in pixels, of the square's middle.
        side_mm: side of the square, mm.
        spacing_mm: distance between rows and between columns, mm.
    """
    rows, cols = (max(1, round(side_mm / step)) for step in spacing_mm)
    top, left = (round(middle - size / 2) for middle, size in zip(centre, (rows, cols), strict=True))
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
    image = torch.from_numpy(grey).to(torch.float32)[None, None]
    scaled = functional.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
    return scaled[0, 0].round().to(torch.uint8).numpy()
