"""Ribs, spine, and what lies along it: muscles of the back, crura, aorta and cava."""

from __future__ import annotations

import numpy as np

from stic_core.phantom.parts import Frame, Part
from stic_core.phantom.shapes import Outline, ellipse


def ribs(*, cavity: Outline, wall: float, rng: np.random.Generator) -> list[Part]:
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
                points.append(
                    (
                        cavity.x + float(radius * np.cos(turned)),
                        cavity.y + float(radius * np.sin(turned)),
                        width,
                    )
                )
            parts += [Part("cortical", tuple(points)), Part("cancellous", tuple(points), inset_mm=1.7)]
    return parts


def spine(frame: Frame) -> tuple[Outline, list[Part]]:
    """Vertebra, muscles of the back, great vessels and crura; the aorta's outline comes first."""
    y = 38.0 + float(frame.rng.normal(0, 2))
    s = frame.size

    def bone(x: float, up: float, rx: float, ry: float, tilt: float = 0.0) -> list[Part]:
        px, py = frame.at(x, up)
        outline = ellipse(x=px, y=py, semi=(rx * s, ry * s), tilt=tilt)
        return [Part("cortical", outline), Part("cancellous", outline, inset_mm=1.8, soft_mm=2.0)]

    parts: list[Part] = []
    for side in (-1, 1):
        back = ellipse(
            x=frame.at(side * 34, 0)[0], y=frame.at(0, y + 32)[1], semi=(31 * s, 22 * s), tilt=side * 0.25
        )
        parts.append(Part("muscle", back, soft_mm=2.0))
        top = frame.at(6 + side * 15, y - 44 + (4 if side < 0 else 8))
        parts.append(
            Part(
                "muscle",
                (
                    (*frame.at(side * 23, y - 2), 4.5 * s),
                    (*frame.at(6 + side * 19, y - 20), 3.6 * s),
                    (*top, 2.4 * s),
                ),
            )
        )
    parts += bone(-22, y + 21, 11, 3.8, 0.55) + bone(22, y + 21, 11, 3.8, -0.55)
    parts += bone(0, y + 36, 4.2, 13)
    parts += bone(-11, y + 17, 5, 8) + bone(11, y + 17, 5, 8)
    canal_x, canal_y = frame.at(0, y + 22)
    ring = ellipse(x=canal_x, y=canal_y, semi=(12.5 * s, 11 * s))
    parts += [Part("cortical", ring), Part("fat", ring, inset_mm=3.0), Part("cord", ring, inset_mm=4.5)]
    body_x, body_y = frame.at(0, y)
    body = ellipse(x=body_x, y=body_y, semi=(22 * s, 17 * s), waves=((2, 0.02, 0.0), (3, 0.05, 1.57)))
    parts += [Part("cortical", body), Part("cancellous", body, inset_mm=1.9, soft_mm=2.0)]
    aorta_x, aorta_y = frame.at(9, y - 28, spread=2)
    cava_x, cava_y = frame.at(-25, y - 27, spread=2)
    radius = float(frame.rng.normal(10.5, 1.2)) * s
    aorta = ellipse(x=aorta_x, y=aorta_y, semi=(radius, radius))
    cava = ellipse(
        x=cava_x,
        y=cava_y,
        semi=(12 * s, float(frame.rng.normal(9, 1.5)) * s),
        tilt=float(frame.rng.normal(0, 0.3)),
    )
    return aorta, [*parts, Part("aorta", aorta), Part("cava", cava)]
