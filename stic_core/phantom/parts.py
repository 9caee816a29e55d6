"""What a body is painted from: parts, and the frame that scales a standard body to a patient's.

Places are given in millimetres in a standard body (half axes 165 and 115 mm, origin in its
middle). Right of the patient is left of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from stic_core.phantom.shapes import Outline, ellipse

STANDARD_BODY_MM = (165.0, 115.0)

Line: TypeAlias = tuple[tuple[float, float, float], ...]
"""Points x, y, half width, mm: vessels, ribs, crura."""

Region: TypeAlias = Literal["cavity", "liver"]


@dataclass(frozen=True, slots=True)
class Part:
    """Something to paint.

    Args:
        tissue: a key of the patient's tissue table.
        shape: an outline, or a line.
        inset_mm: paint only what lies this far inside; shells are two parts of one shape.
        within: paint only inside this region.
        keep: remember what was painted as this region.
        above_mm: paint only above this y: gas rises, and the patient lies on the back.
        soft_mm: width of the edge.
    """

    tissue: str
    shape: Outline | Line
    inset_mm: float = 0.0
    within: Region | None = None
    keep: Region | None = None
    above_mm: float | None = None
    soft_mm: float = 1.2


@dataclass(frozen=True, slots=True)
class Frame:
    """From the standard body to a patient's.

    Args:
        semi_mm: the patient's half axes.
        size: factor of organs, which grow less unevenly than the outline does.
        rng: places and shapes vary; every call draws.
    """

    semi_mm: tuple[float, float]
    size: float
    rng: np.random.Generator

    def at(self, x: float, y: float, *, spread: float = 0.0) -> tuple[float, float]:
        """A place of the standard body in this one, off by a random `spread`, mm."""
        dx, dy = self.rng.normal(0, spread, 2) if spread else (0.0, 0.0)
        return (
            float((x + dx) * self.semi_mm[0] / STANDARD_BODY_MM[0]),
            float((y + dy) * self.semi_mm[1] / STANDARD_BODY_MM[1]),
        )

    def around(
        self,
        place: tuple[float, float],
        *,
        semi: tuple[float, float],
        spread: float = 0.0,
        tilt: float = 0.0,
        rough: float = 0.04,
    ) -> Outline:
        """An organ of about these half axes around a place of the standard body, its outline uneven."""
        x, y = self.at(*place, spread=spread)
        waves = [
            (k, float(self.rng.normal(0, rough / np.sqrt(k))), float(self.rng.uniform(0, 6.28)))
            for k in (2, 3, 4)
        ]
        wide, high = (axis * self.size * float(self.rng.normal(1, 0.05)) for axis in semi)
        return ellipse(x=x, y=y, semi=(wide, high), tilt=tilt, waves=waves)
