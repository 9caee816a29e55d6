"""What people look at of a prepared patient: where things lie on an image, and the slices before the crop."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the lesion lies on an image, and how much of the patient the image shows.

    Args:
        lesion: its middle, as shares (0 to 1) of the image's height and width; None where it is not known.
        size_mm: height and width, mm; None for pictures, which say neither size nor side.
    """

    lesion: tuple[float, float] | None = None
    size_mm: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class WholeSlices:
    """The registered slices as they were before crop and resize.

    Args:
        png: of each phase, after the CT window; compressed, since a table of patients is held in memory.
        shape: rows and columns of each.
    """

    png: tuple[bytes, ...]
    shape: tuple[int, int]
    placement: Placement


def png_of(grey: np.ndarray) -> bytes:
    """An image, (rows, cols), 0 to 255, as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).save(buffer, format="PNG")
    return buffer.getvalue()
