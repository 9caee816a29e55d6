"""Pictures of prepared images for pages, with what is drawn over them: lesion, scale, side, and the crop's frame."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stic_client.ingest.patient import Placement

_BARS_MM = (100, 50, 20, 10)
_BAR_SHARE = 0.45
"""A scale bar takes at most this share of the width."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One image and its marks; the template draws them.

    Args:
        grey: (rows, cols), 0 to 255.
        alt: what it shows, for who does not see it.
        frame_mm: side of the square around the lesion that the model saw, where it saw a part.
    """

    grey: np.ndarray
    alt: str
    placement: Placement
    frame_mm: float | None = None

    @cached_property
    def data(self) -> str:
        """PNG as base64."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(self.grey)).save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode("ascii")

    @property
    def sized(self) -> bool:
        """Whether the files say how large a pixel is, and so which side is which."""
        return self.placement.size_mm is not None

    @property
    def height(self) -> float:
        """In mm where they are known, else in pixels."""
        return self.placement.size_mm[0] if self.placement.size_mm else float(self.grey.shape[0])

    @property
    def width(self) -> float:
        """In the unit of `height`."""
        return self.placement.size_mm[1] if self.placement.size_mm else float(self.grey.shape[1])

    @property
    def lesion(self) -> tuple[float, float] | None:
        """The lesion's middle, x and y, in the unit of `height`; None where it is unknown or outside."""
        at = self.placement.lesion
        if at is None or not (0 <= at[0] <= 1 and 0 <= at[1] <= 1):
            return None
        return at[1] * self.width, at[0] * self.height

    @property
    def bar_mm(self) -> int | None:
        """A round length for the scale bar; None where pixels have no size."""
        return next((mm for mm in _BARS_MM if mm <= _BAR_SHARE * self.width), None) if self.sized else None
