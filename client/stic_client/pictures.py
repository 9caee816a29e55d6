"""Pictures of prepared images for pages, with what is drawn over them: lesion, scale, side, and the crop's frame."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from stic_client.ingest.views import Placement

_BARS_MM = (100, 50, 20, 10)
_BAR_SHARE = 0.45
"""A scale bar takes at most this share of the width."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image and its marks; the template draws them.

    Args:
        png: the file.
        shape: rows and columns.
        alt: what it shows, for who does not see it.
        frame_mm: side of the square around the lesion that the model saw, where it saw a part.
    """

    png: bytes
    shape: tuple[int, ...]
    alt: str
    placement: Placement
    frame_mm: float | None = None

    @property
    def data(self) -> str:
        """The file as base64."""
        return base64.b64encode(self.png).decode("ascii")

    @property
    def sized(self) -> bool:
        """Whether the files say how large a pixel is, and so which side is which."""
        return self.placement.size_mm is not None

    @property
    def height(self) -> float:
        """In mm where they are known, else in pixels."""
        return self.placement.size_mm[0] if self.placement.size_mm else float(self.shape[0])

    @property
    def width(self) -> float:
        """In the unit of `height`."""
        return self.placement.size_mm[1] if self.placement.size_mm else float(self.shape[1])

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
