"""Lesions: which signs a class shows, how often, and what they look like in each phase.

Rates and diameters were counted from the published metadata of MCT-LTDiag, a public cohort of
517 patients with four-phase CT (Wu et al., Scientific Data 2025,
doi 10.1038/s41597-025-06343-4); metastases are its breast and colorectal ones together. How
bright a sign is varies from invisible to plain, as it does under a reader's eyes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np

from stic_core.phantom.anatomy import Anatomy
from stic_core.phantom.contrast import Contrast, PhaseHU
from stic_core.phantom.shapes import Outline, ellipse

Arterial: TypeAlias = Literal["diffuse", "rim", "nodular", "none"]
"""How a lesion takes up contrast in the arterial phase: non-rim hyperenhancement, rim, peripheral nodules."""


@dataclass(frozen=True, slots=True)
class Signs:
    """How often a class shows a sign, 0 to 1, and how large its lesions are.

    Args:
        diffuse: non-rim arterial hyperenhancement.
        rim: arterial rim; `nodular`: peripheral nodules. The three exclude each other.
        washout: darker than the liver in the portal venous phase.
        fills: how far an arterial rim has grown inwards by the portal venous phase, as a
            share of the radius: slow centripetal filling.
        core_pv_hu: mean and standard deviation of a lesion without washout, or of the middle
            of one with a rim, against the liver in the portal venous phase.
        plain_hu: the same in the non-contrast phase.
        diameter_mm: quartiles of the largest diameter.
        several: probability of more than one lesion; `more`: mean of how many more then.
        necrosis: probability of a necrotic middle, in a lesion of 100 mm.
        mosaic_hu: how patchy the arterial phase is inside.
    """

    diffuse: float
    washout: float
    capsule: float
    rim: float
    nodular: float
    scar: float
    lobulated: float
    fills: tuple[float, float]
    core_pv_hu: tuple[float, float]
    plain_hu: tuple[float, float]
    diameter_mm: tuple[float, float, float]
    several: float
    more: float
    necrosis: float
    mosaic_hu: float


# Rates and quartiles are the cohort's; the last lines of each (HU, number, necrosis, mosaic)
# are not in its table and follow common descriptions of these lesions.
SIGNS: Mapping[str, Signs] = MappingProxyType(
    {
        "HCC": Signs(
            diffuse=0.874, washout=0.476, capsule=0.233, rim=0.0, nodular=0.0, scar=0.019, lobulated=0.058,
            fills=(0.0, 0.0), core_pv_hu=(-5, 7), plain_hu=(-10, 7), diameter_mm=(39, 59, 87),
            several=0.20, more=1.0, necrosis=0.20, mosaic_hu=11,
        ),
        "ICC": Signs(
            diffuse=0.180, washout=0.080, capsule=0.0, rim=0.610, nodular=0.0, scar=0.010, lobulated=0.340,
            fills=(0.40, 0.85), core_pv_hu=(-14, 8), plain_hu=(-14, 7), diameter_mm=(47, 71, 94),
            several=0.25, more=1.0, necrosis=0.15, mosaic_hu=7,
        ),
        "META": Signs(
            diffuse=0.083, washout=0.064, capsule=0.0, rim=0.702, nodular=0.0, scar=0.0, lobulated=0.101,
            fills=(0.0, 0.25), core_pv_hu=(-32, 10), plain_hu=(-15, 7), diameter_mm=(24, 35, 50),
            several=0.68, more=2.5, necrosis=0.45, mosaic_hu=7,
        ),
        "BENIGN": Signs(
            diffuse=0.0, washout=0.0, capsule=0.0, rim=0.052, nodular=0.833, scar=0.167, lobulated=0.208,
            fills=(0.3, 0.6), core_pv_hu=(-14, 9), plain_hu=(-18, 6), diameter_mm=(86, 105, 129),
            several=0.25, more=1.0, necrosis=0.0, mosaic_hu=4,
        ),
    }
)  # fmt: skip
"""By label; BENIGN is hemangioma."""

_QUARTILE = 0.6745  # of the standard normal


@dataclass(frozen=True, slots=True)
class Nodule:
    """A peripheral nodule of a hemangioma: where on the outline, how wide and how deep."""

    angle: float
    half_width: float
    depth_mm: PhaseHU


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion; HU are differences to the liver around it, by phase.

    Args:
        outline: where it ends.
        arterial: which arterial pattern it has.
        core: its inside.
        rim: its rim, where `rim_mm` is not 0.
        rim_mm: the rim's thickness by phase; contrast that creeps inwards makes it thicker.
        rim_gaps: how uneven the rim is, 0 to 1, and the phase of that.
        capsule: of the thin capsule, if `capsule_mm` is not 0.
        scar_share: the central scar's size as a share of the radius, 0 where there is none.
        necrosis_share: the same for a necrotic middle.
        mosaic: standard deviation of the patchiness by phase, HU.
        nodules: of a hemangioma.
        nodule: their HU difference.
        soft_mm: how gradual its border is.
    """

    outline: Outline
    arterial: Arterial
    washout: bool
    lobulated: bool
    diameter_mm: float
    core: PhaseHU
    rim: PhaseHU
    rim_mm: PhaseHU
    rim_gaps: tuple[float, float]
    capsule: PhaseHU
    capsule_mm: float
    scar_share: float
    necrosis_share: float
    mosaic: PhaseHU
    nodules: tuple[Nodule, ...]
    nodule: PhaseHU
    soft_mm: float


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What all lesions of a patient have in common: they are of one kind."""

    arterial: Arterial
    washout: bool
    capsule: bool
    scar: bool
    lobulated: bool
    uptake: float
    plain: float
    core_pv: float
    fill: float
    rim_share: float


def draw_lesions(
    *, label: str, anatomy: Anatomy, contrast: Contrast, rng: np.random.Generator
) -> tuple[Lesion, ...]:
    """A patient's lesions in the liver, the largest first.

    Args:
        label: a key of `SIGNS`.
        anatomy: where the liver is.
        contrast: scales every enhancement; a late arterial phase shows less of a rim, an
            early portal venous phase less washout.
        rng: source of all variation.
    """
    signs = SIGNS[label]
    pattern = _draw_pattern(signs, rng=rng)
    low, middle, high = signs.diameter_mm
    spread = (np.log(high) - np.log(low)) / (2 * _QUARTILE)
    # A slice holds no more than the liver does.
    largest = 1.25 * float(np.median(anatomy.liver.radii()))
    diameter = float(np.clip(middle * np.exp(spread * rng.standard_normal()), 10, largest))
    count = 1 + (int(1 + rng.poisson(signs.more)) if rng.uniform() < signs.several else 0)
    lesions: list[Lesion] = []
    for number in range(min(count, 8)):
        size = diameter if number == 0 else diameter * float(rng.uniform(0.25, 0.8))
        place = _place(size=size, anatomy=anatomy, taken=lesions, rng=rng)
        if place is not None:
            lesions.append(
                _draw_lesion(place, size=size, signs=signs, pattern=pattern, contrast=contrast, rng=rng)
            )
    return tuple(lesions)


def _draw_pattern(signs: Signs, *, rng: np.random.Generator) -> _Pattern:
    chance = float(rng.uniform())
    arterial: Arterial = "none"
    rates: dict[Arterial, float] = {"diffuse": signs.diffuse, "rim": signs.rim, "nodular": signs.nodular}
    for name, rate in rates.items():
        if chance < rate:
            arterial = name
            break
        chance -= rate
    return _Pattern(
        arterial=arterial,
        washout=bool(rng.uniform() < signs.washout),
        capsule=bool(rng.uniform() < signs.capsule),
        scar=bool(rng.uniform() < signs.scar),
        lobulated=bool(rng.uniform() < signs.lobulated),
        uptake=float(rng.lognormal(0, 0.35)),
        plain=float(rng.normal(*signs.plain_hu)),
        core_pv=float(rng.normal(*signs.core_pv_hu)),
        fill=float(rng.uniform(*signs.fills)),
        rim_share=float(rng.uniform(0.10, 0.24)),
    )


def _place(
    *, size: float, anatomy: Anatomy, taken: list[Lesion], rng: np.random.Generator
) -> tuple[float, float] | None:
    """A point in the liver with room for a lesion, the best of the first that will do; None if full."""
    liver, best = anatomy.liver, None
    radii = liver.radii()
    for attempt in range(60):
        angle = rng.uniform(0, 2 * np.pi)
        reach = radii[int(angle / (2 * np.pi) * len(radii)) % len(radii)] * np.sqrt(rng.uniform(0.0, 0.8))
        x, y = liver.x + float(reach * np.cos(angle)), liver.y + float(reach * np.sin(angle))
        if any(
            np.hypot(x - other.outline.x, y - other.outline.y) < 0.55 * (size + other.diameter_mm)
            for other in taken
        ):
            continue
        room = min(_clearance(liver, x=x, y=y), _clearance(anatomy.cavity, x=x, y=y) - 3)
        if best is None or room > best[0]:
            best = (room, x, y)
        if room > 0.45 * size and attempt >= 3:
            return x, y
    return None if best is None or best[0] < 3 else best[1:]


def _clearance(outline: Outline, *, x: float, y: float) -> float:
    """Distance from a point inside to the outline, mm, over a dozen directions."""
    radii = outline.radii()[::30]
    turn = np.arange(len(radii)) * (2 * np.pi / len(radii))
    edge = np.hypot(outline.x + radii * np.cos(turn) - x, outline.y + radii * np.sin(turn) - y)
    return float(edge.min()) if outline.inside(x=x, y=y) > 0 else -1.0


def _draw_lesion(
    place: tuple[float, float],
    *,
    size: float,
    signs: Signs,
    pattern: _Pattern,
    contrast: Contrast,
    rng: np.random.Generator,
) -> Lesion:
    radius = size / 2
    waves = [(k, float(rng.normal(0, 0.045 / np.sqrt(k))), float(rng.uniform(0, 6.28))) for k in (2, 3, 5, 7)]
    if pattern.lobulated:
        waves.append((int(rng.integers(4, 8)), float(rng.uniform(0.08, 0.15)), float(rng.uniform(0, 6.28))))
    semi = (radius, radius * float(rng.uniform(0.78, 1.0)))
    outline = ellipse(
        x=place[0], y=place[1], semi=semi, tilt=float(rng.uniform(0, 3.14)), waves=waves, knots=96
    )

    iodine, u, v = contrast.iodine, contrast.arterial, contrast.portal
    up = pattern.uptake * float(rng.lognormal(0, 0.12)) * iodine
    plain, core_pv = pattern.plain, pattern.core_pv * iodine
    none = (0.0, 0.0, 0.0)
    rim, rim_mm, nodule, nodules = none, none, none, ()
    if pattern.washout:
        core_pv = -float(rng.normal(21 + 7 * v, 5)) * iodine
    if pattern.arterial == "diffuse":
        core = (plain, 29 * up * (1 + 0.2 * u), core_pv)
    elif pattern.arterial == "rim":
        thick = float(np.clip(pattern.rim_share * radius, 2.0, 9.0))
        grown = max(thick, pattern.fill * (1 + 0.35 * v) * radius)
        core = (plain, plain - 9 * iodine, core_pv)
        rim = (plain * 0.6, 26 * up * (1 - 0.25 * u), 5 * up - 3)
        rim_mm = (thick, thick, grown)
    else:
        core = (plain, plain - 6 * iodine, core_pv)
    if pattern.arterial == "nodular":
        nodule = (plain, 110 * iodine, 55 * iodine)
        nodules = tuple(
            Nodule(
                float(angle), float(rng.uniform(0.12, 0.35)), (0.0, deep, deep * float(rng.uniform(1.3, 2.0)))
            )
            for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8)))
            for deep in (float(rng.uniform(0.12, 0.3)) * radius,)
        )
    necrotic = radius > 12 and rng.uniform() < signs.necrosis * min(1.0, size / 100)
    mosaic = signs.mosaic_hu * min(1.0, radius / 25) * float(rng.lognormal(0, 0.3))
    return Lesion(
        outline=outline,
        arterial=pattern.arterial,
        washout=pattern.washout,
        lobulated=pattern.lobulated,
        diameter_mm=2 * outline.reach_mm,
        core=core,
        rim=rim,
        rim_mm=rim_mm,
        rim_gaps=(float(rng.uniform(0.1, 0.6)), float(rng.uniform(0, 6.28))),
        capsule=(0.0, 6.0 * iodine, 26.0 * iodine),
        capsule_mm=float(rng.uniform(1.5, 2.6)) if pattern.capsule else 0.0,
        scar_share=float(rng.uniform(0.2, 0.32)) if pattern.scar else 0.0,
        necrosis_share=float(rng.uniform(0.25, 0.5)) if necrotic else 0.0,
        mosaic=(mosaic * 0.4, mosaic, mosaic * 0.6),
        nodules=nodules,
        nodule=nodule,
        soft_mm=float(rng.uniform(1.2, 5.0)),
    )
