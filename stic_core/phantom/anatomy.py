"""A patient's upper abdomen as a list of parts to paint, one over the other.

Places are given in millimetres in a standard body (half axes 165 and 115 mm, origin in its
middle) and scaled to the patient's. Right of the patient is left of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np

from stic_core.phantom.shapes import Outline, ellipse

STANDARD_BODY_MM = (165.0, 115.0)

Line: TypeAlias = tuple[tuple[float, float, float], ...]
"""Points x, y, half width, mm: vessels, ribs, crura."""

Region: TypeAlias = Literal["body", "cavity", "liver"]


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
class Anatomy:
    """One patient without lesions.

    Args:
        semi_mm: the body's half axes.
        liver: the liver's outline, before the cavity's wall cuts it.
        cavity: the abdominal cavity's outline.
        under: what lesions are painted over.
        over: what is painted over lesions: they grow into the liver, not into the spine.
        nodularity: strength of the liver's nodular texture, HU.
    """

    semi_mm: tuple[float, float]
    liver: Outline
    cavity: Outline
    under: tuple[Part, ...]
    over: tuple[Part, ...]
    nodularity: float


# The liver's outline from its middle, standard body: angle in degrees, radius in mm. The wide
# radii on the patient's right are cut by the cavity's wall, so that liver and wall touch.
_LIVER = (
    (0, 62.0),
    (20, 47.0),
    (45, 42.0),
    (70, 54.0),
    (95, 76.0),
    (130, 92.0),
    (180, 92.0),
    (230, 104.0),
    (270, 112.0),
    (300, 116.0),
    (322, 128.0),
    (336, 118.0),
    (348, 86.0),
)
_LIVER_MIDDLE = (-62.0, -8.0)


def draw_anatomy(*, male: bool, cirrhosis: bool, rng: np.random.Generator) -> Anatomy:
    """Everything of one patient that the phases share.

    Args:
        male: men are a little larger, with less fat under the skin.
        cirrhosis: a smaller, nodular liver, a larger spleen, at times ascites.
        rng: source of all variation.
    """
    size = float(np.clip(rng.normal(1.02 if male else 0.95, 0.06), 0.82, 1.2))
    semi = (165.0 * size * float(rng.normal(1, 0.03)), 115.0 * size * float(rng.normal(1, 0.04)))
    level = float(rng.uniform(0, 1))  # 0 the liver's dome, 1 its lower edge
    fat = float(np.clip(rng.lognormal(np.log(13 if male else 18), 0.35), 5, 34))
    wall = float(rng.uniform(9, 14)) * size

    def at(x: float, y: float, spread: float = 0.0) -> tuple[float, float]:
        moved = rng.normal(0, spread, 2) if spread else (0.0, 0.0)
        return (
            float((x + moved[0]) * semi[0] / STANDARD_BODY_MM[0]),
            float((y + moved[1]) * semi[1] / STANDARD_BODY_MM[1]),
        )

    def around(x: float, y: float, rx: float, ry: float, *, spread: float = 0.0, tilt: float = 0.0, rough: float = 0.04) -> Outline:
        px, py = at(x, y, spread)
        waves = [(k, float(rng.normal(0, rough / np.sqrt(k))), float(rng.uniform(0, 6.28))) for k in (2, 3, 4)]
        jitter = rng.normal(1, 0.05, 2)
        return ellipse(x=px, y=py, semi=(rx * size * jitter[0], ry * size * jitter[1]), tilt=tilt, waves=waves)

    waves = [(2, float(rng.normal(0.0, 0.012)), 0.0), (3, float(rng.normal(0.01, 0.008)), 1.57), (4, float(rng.normal(-0.015, 0.01)), 0.0)]
    body = ellipse(x=0, y=0, semi=semi, waves=waves)
    inner = (semi[0] - 1.25 * fat, semi[1] - fat)
    muscle = ellipse(x=0, y=0.12 * fat, semi=inner, waves=waves)
    cavity = ellipse(x=0, y=-0.05 * semi[1], semi=(inner[0] - wall, inner[1] - wall * 1.25), waves=waves)
    liver = _liver(at=at, semi=semi, cirrhosis=cirrhosis, rng=rng)
    spleen_size = (1.3 if cirrhosis else 1.0) * float(rng.normal(1, 0.1))
    spleen = around(96, 24, 30 * spleen_size, 46 * spleen_size, spread=4, tilt=-0.35, rough=0.1)
    stomach = around(58, -28, 44, 34, spread=8, tilt=0.35, rough=0.12)
    ascites = cirrhosis and rng.uniform() < 0.25

    under = [
        Part("skin", body, keep="body"),
        Part("fat", body, inset_mm=2.0),
        Part("muscle", muscle),
        *_ribs(cavity=cavity, wall=wall, rng=rng),
        Part("visceral", cavity, keep="cavity"),
    ]
    if ascites:
        under.append(Part("fluid", cavity, inset_mm=1.0, within="cavity", above_mm=float(rng.uniform(20, 60))))
        under.append(Part("visceral", around(25, -5, 70, 45), within="cavity", soft_mm=6.0))
    if level > 0.55:
        under += _bowel(around=around, rng=rng)
    under += [
        Part("wall", stomach, within="cavity"),
        Part("fluid", stomach, inset_mm=float(rng.uniform(3, 5)), within="cavity"),
        Part("gas", stomach, inset_mm=5.0, within="cavity", above_mm=stomach.y - float(rng.uniform(-8, 22))),
        Part("spleen", spleen, within="cavity", inset_mm=2.0),
        Part("liver", liver, within="cavity", keep="liver", inset_mm=4.0 if ascites else 2.0),
        *_vessels(at=at, level=level, rng=rng),
    ]
    if 0.3 < level < 0.8:
        fissure = at(8, -40, 5)
        under.append(Part("visceral", ((*fissure, 1.4), (*at(16, -72, 4), 0.8)), within="cavity"))
    if level > 0.5 and rng.uniform() < 0.7:
        gallbladder = around(-22, -32, 13, 19, spread=5, tilt=0.5, rough=0.08)
        under += [Part("wall", gallbladder, within="cavity"), Part("bile", gallbladder, inset_mm=1.8, within="cavity")]

    over: list[Part] = []
    if level > 0.35:
        grown = min(1.0, 0.6 + (level - 0.35))
        for x, y, side in ((62, 44, -1), (-60, 52, 1)):
            kidney = around(x, y, 23 * grown, 28 * grown, spread=3, tilt=0.4 * side, rough=0.06)
            over += [
                Part("visceral", kidney, inset_mm=-3.0, within="cavity"),
                Part("cortex", kidney, within="cavity"),
                Part("medulla", kidney, inset_mm=7.0, within="cavity", soft_mm=4.0),
            ]
            if grown > 0.85:
                over.append(Part("visceral", around(x - 9 * np.sign(x), y + 2, 7, 6, spread=2), within="cavity", soft_mm=2.0))
    if level > 0.6:
        head, tail = at(-8, 2, 3), at(52, -2, 5)
        middle = at(20, -10, 3)
        over.append(Part("pancreas", ((*head, 10.0), (*middle, 7.0), (*tail, 6.0)), within="cavity", soft_mm=3.0))
    over += _spine(at=at, size=size, rng=rng)
    return Anatomy(semi, liver, cavity, tuple(under), tuple(over), float(rng.uniform(5, 9)) if cirrhosis else 0.0)


def _liver(*, at, semi: tuple[float, float], cirrhosis: bool, rng: np.random.Generator) -> Outline:
    """A cirrhotic liver has a small right lobe and a wavy outline."""
    degrees, radii = (np.array(values) for values in zip(*_LIVER, strict=True))
    spread = rng.normal(1, 0.05, len(radii))
    shrink = 0.86 if cirrhosis else 1.0
    radii = radii * spread * shrink * float(rng.normal(1.0, 0.04))
    left_lobe = (degrees > 290) | (degrees < 10)
    radii = np.where(left_lobe, radii * float(rng.normal(1.08 if cirrhosis else 1.0, 0.1)), radii)
    knots = 180
    angle = np.arange(knots) * (360 / knots)
    smooth = np.interp(angle, (*degrees, 360), (*radii, radii[0]))
    turn = np.fft.rfftfreq(knots, 1 / knots)
    smooth = np.fft.irfft(np.fft.rfft(smooth) * np.exp(-((turn / 22) ** 2)), knots)
    if cirrhosis:
        amplitude = float(rng.uniform(1.2, 2.8))
        ripple = rng.normal(0, 1, knots)
        spectrum = np.fft.rfft(ripple) * np.exp(-(((turn - 26) / 9) ** 2))
        ripple = np.fft.irfft(spectrum, knots)
        smooth = smooth + amplitude * ripple / ripple.std()
    x, y = at(*_LIVER_MIDDLE, 3)
    scale = np.hypot(
        np.cos(np.deg2rad(angle)) * semi[0] / STANDARD_BODY_MM[0],
        np.sin(np.deg2rad(angle)) * semi[1] / STANDARD_BODY_MM[1],
    )
    return Outline(x, y, tuple((smooth * scale).tolist()))


def _ribs(*, cavity: Outline, wall: float, rng: np.random.Generator) -> list[Part]:
    """Slanted cuts through ribs in the wall, cortical outside, marrow inside."""
    radii = cavity.radii()
    parts: list[Part] = []
    start = float(rng.uniform(0, 14))
    for side in (-1, 1):
        for degrees in (-50, -24, 3, 30, 54):
            middle = degrees + start * (0.6 if degrees < 0 else 1.0) + float(rng.normal(0, 3))
            half = float(rng.uniform(4, 8))
            width = float(rng.uniform(3.2, 4.4))
            points = []
            for angle in np.deg2rad(np.linspace(middle - half, middle + half, 4)):
                turned = angle if side > 0 else np.pi - angle
                radius = radii[int(turned / (2 * np.pi) * len(radii)) % len(radii)] + wall * 0.45
                points.append((cavity.x + float(radius * np.cos(turned)), cavity.y + float(radius * np.sin(turned)), width))
            parts += [Part("cortical", tuple(points)), Part("cancellous", tuple(points), inset_mm=1.7)]
    return parts


def _bowel(*, around, rng: np.random.Generator) -> list[Part]:
    """Loops with wall, content and gas, in front on the patient's left."""
    parts: list[Part] = []
    for _ in range(int(rng.integers(3, 7))):
        radius = float(rng.uniform(10, 19))
        loop = around(float(rng.uniform(10, 95)), float(rng.uniform(-55, 20)), radius, radius * 0.8, rough=0.1)
        parts += [Part("wall", loop, within="cavity"), Part("fluid", loop, inset_mm=2.5, within="cavity")]
        if rng.uniform() < 0.5:
            parts.append(Part("gas", loop, inset_mm=2.5, within="cavity", above_mm=loop.y - float(rng.uniform(-5, 4))))
    return parts


def _vessels(*, at, level: float, rng: np.random.Generator) -> list[Part]:
    """Portal branches from the hilum below, hepatic veins to the cava near the dome, arteries beside."""

    def branch(tissue: str, points: Sequence[tuple[float, float]], first: float, last: float) -> Part:
        # A vessel runs in gentle bends: each stretch gets a middle that is off the chord.
        path = [at(*point, 3) for point in points]
        bent = [path[0]]
        for (x0, y0), (x1, y1) in pairwise(path):
            off = float(rng.normal(0, 0.12))
            bent += [((x0 + x1) / 2 - off * (y1 - y0), (y0 + y1) / 2 + off * (x1 - x0)), (x1, y1)]
        widths = np.linspace(first, last, len(bent)) / 2
        return Part(tissue, tuple((x, y, float(w)) for (x, y), w in zip(bent, widths, strict=True)), within="liver", soft_mm=1.8)

    parts: list[Part] = []
    if level > 0.3:
        hilum = (-18, -4)
        parts += [
            branch("portal", (hilum, (-52, -2), (-86, -34)), 12, 4),
            branch("portal", ((-52, -2), (-92, 22)), 9, 3.5),
            branch("portal", (hilum, (-8, -42), (22, -62)), 9, 4),
            branch("artery", ((-22, -10), (-46, -12)), 3, 2),
        ]
    if level < 0.6:
        cava = (-24, 10)
        parts += [
            branch("hepatic", (cava, (-68, 8), (-112, 2)), 9, 3),
            branch("hepatic", (cava, (-48, -32), (-70, -66)), 8, 3),
            branch("hepatic", (cava, (-16, -34), (10, -66)), 8, 3),
        ]
    for _ in range(int(rng.integers(16, 28))):
        start = np.array([rng.uniform(-125, 20), rng.uniform(-85, 55)])
        end = start + rng.normal(0, 8, 2)
        width = float(rng.uniform(2.0, 4.0))
        tissue = "portal" if rng.uniform() < 0.5 else "hepatic"
        parts.append(branch(tissue, (tuple(start.tolist()), tuple(end.tolist())), width, width * 0.7))
    return parts


def _spine(*, at, size: float, rng: np.random.Generator) -> list[Part]:
    """Vertebra, muscles of the back, great vessels and crura."""
    y = 38.0 + float(rng.normal(0, 2))
    s = size

    def bone(x: float, up: float, rx: float, ry: float, tilt: float = 0.0) -> list[Part]:
        px, py = at(x, up)
        outline = ellipse(x=px, y=py, semi=(rx * s, ry * s), tilt=tilt)
        return [Part("cortical", outline), Part("cancellous", outline, inset_mm=1.8, soft_mm=2.0)]

    parts: list[Part] = []
    for side in (-1, 1):
        back = ellipse(x=at(side * 34, 0)[0], y=at(0, y + 32)[1], semi=(31 * s, 22 * s), tilt=side * 0.25)
        parts.append(Part("muscle", back, soft_mm=2.0))
        top = at(6 + side * 15, y - 44 + (4 if side < 0 else 8))
        parts.append(Part("muscle", ((*at(side * 23, y - 2), 4.5 * s), (*at(6 + side * 19, y - 20), 3.6 * s), (*top, 2.4 * s))))
    parts += bone(-22, y + 21, 11, 3.8, 0.55) + bone(22, y + 21, 11, 3.8, -0.55)
    parts += bone(0, y + 36, 4.2, 13)
    parts += bone(-11, y + 17, 5, 8) + bone(11, y + 17, 5, 8)
    canal_x, canal_y = at(0, y + 22)
    ring = ellipse(x=canal_x, y=canal_y, semi=(12.5 * s, 11 * s))
    parts += [Part("cortical", ring), Part("fat", ring, inset_mm=3.0), Part("cord", ring, inset_mm=4.5)]
    heart_shape = ellipse(x=at(0, y)[0], y=at(0, y)[1], semi=(22 * s, 17 * s), waves=((2, 0.02, 0.0), (3, 0.05, 1.57)))
    parts += [Part("cortical", heart_shape), Part("cancellous", heart_shape, inset_mm=1.9, soft_mm=2.0)]
    aorta_x, aorta_y = at(9, y - 28, 2)
    cava_x, cava_y = at(-25, y - 27, 2)
    aorta = ellipse(x=aorta_x, y=aorta_y, semi=(float(rng.normal(10.5, 1.2)) * s,) * 2)
    cava = ellipse(x=cava_x, y=cava_y, semi=(12 * s, float(rng.normal(9, 1.5)) * s), tilt=float(rng.normal(0, 0.3)))
    return [*parts, Part("aorta", aorta), Part("cava", cava)]
