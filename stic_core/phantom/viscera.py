"""The liver's outline and vessels, and the bowel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from stic_core.phantom.parts import STANDARD_BODY_MM, Frame, Part
from stic_core.phantom.shapes import Outline

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


def liver_outline(frame: Frame, *, cirrhosis: bool) -> Outline:
    """A cirrhotic liver has a small right lobe and a wavy outline."""
    rng, semi = frame.rng, frame.semi_mm
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
    x, y = frame.at(*_LIVER_MIDDLE, spread=3)
    scale = np.hypot(
        np.cos(np.deg2rad(angle)) * semi[0] / STANDARD_BODY_MM[0],
        np.sin(np.deg2rad(angle)) * semi[1] / STANDARD_BODY_MM[1],
    )
    return Outline(x, y, tuple((smooth * scale).tolist()))


def bowel(frame: Frame) -> list[Part]:
    """Loops with wall, content and gas, in front on the patient's left."""
    rng = frame.rng
    parts: list[Part] = []
    for _ in range(int(rng.integers(3, 7))):
        radius = float(rng.uniform(10, 19))
        place = float(rng.uniform(10, 95)), float(rng.uniform(-55, 20))
        loop = frame.around(place, semi=(radius, radius * 0.8), rough=0.1)
        parts += [Part("wall", loop, within="cavity"), Part("fluid", loop, inset_mm=2.5, within="cavity")]
        if rng.uniform() < 0.5:
            parts.append(
                Part("gas", loop, inset_mm=2.5, within="cavity", above_mm=loop.y - float(rng.uniform(-5, 4)))
            )
    return parts


def liver_vessels(frame: Frame, *, level: float) -> list[Part]:
    """Portal branches from the hilum below, hepatic veins to the cava near the dome, arteries beside."""
    rng = frame.rng

    def branch(tissue: str, points: Sequence[tuple[float, float]], first: float, last: float) -> Part:
        # A vessel runs in gentle bends: each stretch gets a middle that is off the chord.
        path = [frame.at(*point, spread=3) for point in points]
        bent = [path[0]]
        for (x0, y0), (x1, y1) in pairwise(path):
            off = float(rng.normal(0, 0.12))
            bent += [((x0 + x1) / 2 - off * (y1 - y0), (y0 + y1) / 2 + off * (x1 - x0)), (x1, y1)]
        widths = np.linspace(first, last, len(bent)) / 2
        return Part(
            tissue,
            tuple((x, y, float(w)) for (x, y), w in zip(bent, widths, strict=True)),
            within="liver",
            soft_mm=1.8,
        )

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
