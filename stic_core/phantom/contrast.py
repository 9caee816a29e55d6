"""How bright each tissue is in each phase, HU, given how a patient's contrast was timed.

Values are those of a routine late arterial phase (about 35 s) and portal venous phase (about
70 s) at 120 kV; timing moves them along the curves that physiology gives: an early arterial
phase has a bright aorta and a dark portal vein, a late one a brighter liver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from stic_core.phantom.centres import Centre

PhaseHU: TypeAlias = tuple[float, float, float]
"""HU in NC, ART and PV."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """One injection.

    Args:
        iodine: enhancement as a factor of the usual one.
        arterial: lateness of the arterial phase, about -1 to 1.
        portal: lateness of the portal venous phase, about -1 to 1.
    """

    iodine: float
    arterial: float
    portal: float


def draw_contrast(*, centre: Centre, rng: np.random.Generator) -> Contrast:
    """An injection as the centre's protocol and a patient's circulation make it."""
    return Contrast(
        iodine=float(np.clip(rng.normal(*centre.iodine), 0.55, 1.5)),
        arterial=float(np.clip(rng.normal(*centre.arterial_timing), -1, 1)),
        portal=float(np.clip(rng.normal(*centre.portal_timing), -1, 1)),
    )


def tissue_hu(*, contrast: Contrast, cirrhosis: bool, rng: np.random.Generator) -> Mapping[str, PhaseHU]:
    """HU of every tissue by phase, for one patient."""
    u, v = contrast.arterial, contrast.portal

    def still(value: float) -> PhaseHU:
        return value, value, value

    def enhanced(plain: float, arterial: float, portal: float) -> PhaseHU:
        return plain, plain + contrast.iodine * arterial, plain + contrast.iodine * portal

    # Fatty livers are darker on the plain scan; a cirrhotic one takes up less by the portal vein.
    liver = float(np.clip(rng.normal(55, 6), 36, 68))
    uptake = 0.85 if cirrhosis else 1.0
    blood = float(rng.normal(42, 3))
    return MappingProxyType(
        {
            "air": still(-1000.0),
            "skin": still(30.0),
            "fat": still(float(rng.normal(-102, 4))),
            "visceral": still(float(rng.normal(-98, 5))),
            "muscle": enhanced(float(rng.normal(54, 4)), 8, 16),
            "cortical": still(float(rng.normal(480, 60))),
            "cancellous": enhanced(float(rng.normal(165, 40)), 6, 14),
            "cord": (32.0, 34.0, 36.0),
            "gas": still(-940.0),
            "fluid": still(float(rng.normal(8, 5))),
            "bile": still(float(rng.normal(7, 4))),
            "wall": enhanced(38, 50, 60),
            "pancreas": enhanced(40, 68 - 10 * abs(u), 52),
            "liver": enhanced(liver, 15 + 9 * u, (52 - 4 * abs(v)) * uptake),
            "spleen": enhanced(48, 78 + 12 * u, 74),
            "aorta": enhanced(blood, 265 - 50 * u, 118 - 14 * v),
            "cava": enhanced(blood, 35 + 20 * u, 98 + 8 * v),
            "portal": enhanced(blood, 55 + 42 * u, 132 - 10 * v),
            "hepatic": enhanced(blood - 2, 8 + 9 * u, 112 + 14 * v),
            "artery": enhanced(blood, 160 - 30 * u, 60),
            "cortex": enhanced(34, 130 + 15 * u, 150),
            "medulla": enhanced(32, 40 + 20 * u, 135 + 12 * v),
        }
    )
