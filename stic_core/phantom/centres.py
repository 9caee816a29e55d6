"""The phantom's hospitals: scanner, contrast protocol, mix of patients, and what their records lack."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True)
class Centre:
    """One hospital.

    Args:
        name: as it stands in subject names and headers.
        shares: share of each class among its patients; labels in the order of filling up.
        noise_hu: standard deviation of the noise, HU, in a patient of average size.
        kernel_mm: width of the reconstruction kernel: how far noise is correlated, mm.
        blur_mm: standard deviation of the point spread, mm.
        field_margin: field of view over body width; sets the pixel spacing.
        thickness_mm: slice thickness.
        iodine: enhancement as a factor of the usual one.
        arterial_timing: mean and standard deviation of how late the arterial phase is:
            -1 early, 0 late arterial as it should be, +1 nearly portal.
        portal_timing: the same for the portal venous phase; -1 is portal inflow, +1 equilibrium.
        delays_s: of the arterial and portal phases after the plain one, seconds.
        stored: uint16 with an offset of 1024, or int16 with none; both are met.
        manufacturer: the word after PHANTOM in ManufacturerModelName.
        missing: rate at which each laboratory value is missing.
        afp_top: the laboratory writes larger AFP values as `>top`.
    """

    name: str
    shares: tuple[tuple[str, float], ...]
    noise_hu: float
    kernel_mm: float
    blur_mm: float
    field_margin: tuple[float, float]
    thickness_mm: float
    iodine: tuple[float, float]
    arterial_timing: tuple[float, float]
    portal_timing: tuple[float, float]
    delays_s: tuple[float, float]
    stored: Literal["uint16", "int16"]
    manufacturer: str
    missing: tuple[tuple[str, float], ...]
    afp_top: int


CENTRES = MappingProxyType(
    {
        centre.name: centre
        for centre in (
            Centre(
                name="center1",
                shares=(("HCC", 0.52), ("ICC", 0.16), ("META", 0.32)),
                noise_hu=15.0,
                kernel_mm=1.5,
                blur_mm=0.75,
                field_margin=(1.04, 1.14),
                thickness_mm=5.0,
                iodine=(1.0, 0.13),
                arterial_timing=(-0.3, 0.35),
                portal_timing=(-0.2, 0.3),
                delays_s=(35.0, 70.0),
                stored="uint16",
                manufacturer="Alpha 64",
                missing=(
                    ("plt", 0.12),
                    ("tbil", 0.12),
                    ("afp", 0.25),
                    ("ca199", 0.28),
                    ("cea", 0.28),
                    ("ca125", 0.40),
                    ("hbsag", 0.28),
                ),
                afp_top=1210,
            ),
            Centre(
                name="center2",
                shares=(("HCC", 0.30), ("ICC", 0.44), ("META", 0.26)),
                noise_hu=9.0,
                kernel_mm=2.3,
                blur_mm=1.0,
                field_margin=(1.10, 1.25),
                thickness_mm=3.0,
                iodine=(0.78, 0.13),
                arterial_timing=(0.45, 0.3),
                portal_timing=(0.4, 0.3),
                delays_s=(40.0, 75.0),
                stored="int16",
                manufacturer="Beta 128",
                missing=(
                    ("plt", 0.04),
                    ("tbil", 0.04),
                    ("afp", 0.08),
                    ("ca199", 0.10),
                    ("cea", 0.10),
                    ("ca125", 0.15),
                    ("hbsag", 0.10),
                ),
                afp_top=2000,
            ),
        )
    }
)

DEMO_COUNTS = MappingProxyType(
    {
        "center1": MappingProxyType({"train": 140, "test": 80}),
        "center2": MappingProxyType({"train": 130, "test": 70}),
    }
)
"""Patients by split, for a demo of minutes."""

# Gao et al., J Hematol Oncol 2021, 14:154: center 1 trains on 499 and tests on 113, center 2
# tests on 111; the paper's center 2 does not train, so its training share here is our choice.
FULL_COUNTS = MappingProxyType(
    {
        "center1": MappingProxyType({"train": 499, "test": 113}),
        "center2": MappingProxyType({"train": 222, "test": 111}),
    }
)
"""Patients by split, as many as the paper's cohort has."""
