"""A patient's upper abdomen as lists of parts to paint, one over the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stic_core.phantom.parts import STANDARD_BODY_MM, Frame, Part
from stic_core.phantom.shapes import Outline, ellipse
from stic_core.phantom.skeleton import ribs, spine
from stic_core.phantom.viscera import bowel, liver_outline, liver_vessels


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One patient without lesions.

    Args:
        semi_mm: the body's half axes.
        liver: the liver's outline, before the cavity's wall cuts it.
        cavity: the abdominal cavity's outline.
        aorta: where the aorta is.
        under: what lesions are painted over.
        over: what is painted over lesions: they grow into the liver, not into the spine.
        nodularity: strength of the liver's nodular texture, HU.
    """

    semi_mm: tuple[float, float]
    liver: Outline
    cavity: Outline
    aorta: Outline
    under: tuple[Part, ...]
    over: tuple[Part, ...]
    nodularity: float


def draw_anatomy(*, male: bool, cirrhosis: bool, rng: np.random.Generator) -> Anatomy:
    """Everything of one patient that the phases share.

    Args:
        male: men are a little larger, with less fat under the skin.
        cirrhosis: a smaller, nodular liver, a larger spleen, at times ascites.
        rng: source of all variation.
    """
    size = float(np.clip(rng.normal(1.02 if male else 0.95, 0.06), 0.82, 1.2))
    wide, deep = (
        axis * size * float(rng.normal(1, spread))
        for axis, spread in zip(STANDARD_BODY_MM, (0.03, 0.04), strict=True)
    )
    frame = Frame((wide, deep), size, rng)
    level = float(rng.uniform(0, 1))  # 0 the liver's dome, 1 its lower edge
    ascites = cirrhosis and rng.uniform() < 0.25
    wall, cavity = _draw_wall(frame, fat_mm=13 if male else 18)
    liver = liver_outline(frame, cirrhosis=cirrhosis)
    aorta, along_the_spine = spine(frame)

    under = [*wall, Part("visceral", cavity, keep="cavity")]
    if ascites:
        surface = float(rng.uniform(20, 60))
        under += [
            Part("fluid", cavity, inset_mm=1.0, within="cavity", above_mm=surface),
            Part("visceral", frame.around((25, -5), semi=(70, 45)), within="cavity", soft_mm=6.0),
        ]
    if level > 0.55:
        under += bowel(frame)
    under += [
        *_draw_stomach(frame),
        _draw_spleen(frame, grown=1.3 if cirrhosis else 1.0),
        Part("liver", liver, within="cavity", keep="liver", inset_mm=4.0 if ascites else 2.0),
        *liver_vessels(frame, level=level),
        *_draw_fissure_and_gallbladder(frame, level=level),
    ]
    over = [*_draw_kidneys(frame, level=level), *_draw_pancreas(frame, level=level), *along_the_spine]
    nodularity = float(rng.uniform(5, 9)) if cirrhosis else 0.0
    return Anatomy(frame.semi_mm, liver, cavity, aorta, tuple(under), tuple(over), nodularity)


def _draw_wall(frame: Frame, *, fat_mm: float) -> tuple[list[Part], Outline]:
    """Skin, fat, muscle and ribs, and the cavity that they enclose."""
    rng, (wide, deep) = frame.rng, frame.semi_mm
    fat = float(np.clip(rng.lognormal(np.log(fat_mm), 0.35), 5, 34))
    wall = float(rng.uniform(9, 14)) * frame.size
    waves = [
        (2, float(rng.normal(0.0, 0.012)), 0.0),
        (3, float(rng.normal(0.01, 0.008)), 1.57),
        (4, float(rng.normal(-0.015, 0.01)), 0.0),
    ]
    inner = (wide - 1.25 * fat, deep - fat)
    body = ellipse(x=0, y=0, semi=(wide, deep), waves=waves)
    muscle = ellipse(x=0, y=0.12 * fat, semi=inner, waves=waves)
    cavity = ellipse(x=0, y=-0.05 * deep, semi=(inner[0] - wall, inner[1] - wall * 1.25), waves=waves)
    parts = [
        Part("skin", body),
        Part("fat", body, inset_mm=2.0),
        Part("muscle", muscle),
        *ribs(cavity=cavity, wall=wall, rng=rng),
    ]
    return parts, cavity


def _draw_stomach(frame: Frame) -> list[Part]:
    """Wall, fluid, and gas above it."""
    stomach = frame.around((58, -28), semi=(44, 34), spread=8, tilt=0.35, rough=0.12)
    wall, surface = float(frame.rng.uniform(3, 5)), stomach.y - float(frame.rng.uniform(-8, 22))
    return [
        Part("wall", stomach, within="cavity"),
        Part("fluid", stomach, inset_mm=wall, within="cavity"),
        Part("gas", stomach, inset_mm=5.0, within="cavity", above_mm=surface),
    ]


def _draw_spleen(frame: Frame, *, grown: float) -> Part:
    size = grown * float(frame.rng.normal(1, 0.1))
    outline = frame.around((96, 24), semi=(30 * size, 46 * size), spread=4, tilt=-0.35, rough=0.1)
    return Part("spleen", outline, within="cavity", inset_mm=2.0)


def _draw_fissure_and_gallbladder(frame: Frame, *, level: float) -> list[Part]:
    parts: list[Part] = []
    if 0.3 < level < 0.8:
        near, far = frame.at(8, -40, spread=5), frame.at(16, -72, spread=4)
        parts.append(Part("visceral", ((*near, 1.4), (*far, 0.8)), within="cavity"))
    if level > 0.5 and frame.rng.uniform() < 0.7:
        outline = frame.around((-22, -32), semi=(13, 19), spread=5, tilt=0.5, rough=0.08)
        parts += [
            Part("wall", outline, within="cavity"),
            Part("bile", outline, inset_mm=1.8, within="cavity"),
        ]
    return parts


def _draw_kidneys(frame: Frame, *, level: float) -> list[Part]:
    """Upper poles first, with the sinus further down."""
    parts: list[Part] = []
    if level <= 0.35:
        return parts
    grown = min(1.0, 0.25 + level)
    for x, y, side in ((62, 44, -1), (-60, 52, 1)):
        outline = frame.around((x, y), semi=(23 * grown, 28 * grown), spread=3, tilt=0.4 * side, rough=0.06)
        parts += [
            Part("visceral", outline, inset_mm=-3.0, within="cavity"),
            Part("cortex", outline, within="cavity"),
            Part("medulla", outline, inset_mm=7.0, within="cavity", soft_mm=4.0),
        ]
        if grown > 0.85:
            sinus = frame.around((x + 9 * side, y + 2), semi=(7, 6), spread=2)
            parts.append(Part("visceral", sinus, within="cavity", soft_mm=2.0))
    return parts


def _draw_pancreas(frame: Frame, *, level: float) -> list[Part]:
    if level <= 0.6:
        return []
    head, middle, tail = frame.at(-8, 2, spread=3), frame.at(20, -10, spread=3), frame.at(52, -2, spread=5)
    line = ((*head, 10.0), (*middle, 7.0), (*tail, 6.0))
    return [Part("pancreas", line, within="cavity", soft_mm=3.0)]
