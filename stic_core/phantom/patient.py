"""One phantom patient: everything drawn, nothing rendered yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stic_core.data.ct import PHASES
from stic_core.errors import UsageError
from stic_core.phantom.anatomy import Anatomy, draw_anatomy
from stic_core.phantom.centres import Centre
from stic_core.phantom.clinical import Host, draw_clinical, draw_host
from stic_core.phantom.contrast import Contrast, PhaseHU, draw_contrast, tissue_hu
from stic_core.phantom.lesion import SIGNS, Lesion, draw_lesions
from stic_core.phantom.shapes import Grid

SLICE_SIZE = 512
"""Rows and columns of a phantom slice."""


@dataclass(frozen=True, slots=True)
class Motion:
    """How the patient lies in a phase, against the non-contrast phase: a similarity about the middle.

    Args:
        degrees: turn, from the rows' axis towards the columns' as the image is seen: clockwise.
        scale: growth.
        shift_mm: to the image's right, and down.
    """

    degrees: float
    scale: float
    shift_mm: tuple[float, float]


STILL = Motion(0.0, 1.0, (0.0, 0.0))


@dataclass(frozen=True, slots=True)
class PhantomPatient:
    """A patient who does not exist.

    Args:
        centre: the hospital that scanned the patient.
        label: the class.
        seed, index: with centre and label they determine everything.
        grid: pixels of the slice.
        tissue: HU by tissue and phase.
        lesions: the largest first.
        motion: by phase, the non-contrast one at rest.
        clinical: raw texts by manifest column.
        delays_s: seconds from the non-contrast phase to each phase.
        noise: seeds of texture and noise.
    """

    centre: Centre
    label: str
    seed: int
    index: int
    host: Host
    grid: Grid
    contrast: Contrast
    anatomy: Anatomy
    tissue: Mapping[str, PhaseHU]
    lesions: tuple[Lesion, ...]
    motion: tuple[Motion, Motion, Motion]
    clinical: Mapping[str, str]
    delays_s: tuple[float, float, float]
    noise: tuple[int, int]

    def transform(self, phase: str) -> np.ndarray:
        """The true registration: where a pixel of the non-contrast slice lies in another phase.

        Args:
            phase: `nc`, `art` or `pv`.

        Returns:
            2 x 3: (row, col) of the phase = matrix[:, :2] @ (row, col) of NC + matrix[:, 2].
        """
        motion = self.motion[PHASES.index(phase)]
        turn = np.deg2rad(motion.degrees)
        matrix = motion.scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        pivot = np.array([(SLICE_SIZE - 1) / 2] * 2)
        shift = np.array(motion.shift_mm[::-1]) / self.grid.spacing_mm
        return np.column_stack([matrix, pivot - matrix @ pivot + shift])

    def lesion_pixel(self, phase: str) -> tuple[float, float]:
        """Row and column of the largest lesion's middle in a phase's slice."""
        outline = self.lesions[0].outline
        matrix = self.transform(phase)
        row, col = matrix[:, :2] @ np.array(self.grid.pixel(x=outline.x, y=outline.y)) + matrix[:, 2]
        return float(row), float(col)


def draw_patient(*, centre: Centre, label: str, seed: int, index: int) -> PhantomPatient:
    """Draw a patient; equal arguments give an equal patient.

    Args:
        centre: scanner, protocol and records.
        label: a class that has lesions to draw, see `stic_core.phantom.lesion.SIGNS`.
        seed: of the cohort.
        index: of the patient in the cohort.

    Raises:
        UsageError: no such class.
    """
    if label not in SIGNS:
        raise UsageError("the phantom has no such class", got=repr(label), expected=" or ".join(SIGNS))
    # A stream for each thing drawn: changing how one is drawn leaves the others as they were.
    key = (seed, index, sum(ord(c) << (8 * (i % 4)) for i, c in enumerate(f"{centre.name}/{label}")))
    host_rng, body_rng, contrast_rng, lesion_rng, lab_rng, scan_rng = (
        np.random.default_rng([*key, stream]) for stream in range(6)
    )
    host = draw_host(label=label, rng=host_rng)
    anatomy = draw_anatomy(male=host.male, cirrhosis=host.cirrhosis, rng=body_rng)
    contrast = draw_contrast(centre=centre, rng=contrast_rng)
    return PhantomPatient(
        centre=centre,
        label=label,
        seed=seed,
        index=index,
        host=host,
        grid=_draw_grid(anatomy, centre=centre, rng=scan_rng),
        contrast=contrast,
        anatomy=anatomy,
        tissue=tissue_hu(contrast=contrast, cirrhosis=host.cirrhosis, rng=contrast_rng),
        lesions=draw_lesions(label=label, anatomy=anatomy, contrast=contrast, rng=lesion_rng),
        motion=(STILL, _draw_motion(rng=scan_rng), _draw_motion(rng=scan_rng)),
        clinical=draw_clinical(label=label, host=host, centre=centre, rng=lab_rng),
        delays_s=_draw_delays(contrast, centre=centre, rng=scan_rng),
        noise=(int(scan_rng.integers(2**31)), int(scan_rng.integers(2**31))),
    )


def _draw_grid(anatomy: Anatomy, *, centre: Centre, rng: np.random.Generator) -> Grid:
    """A field of view that fits the patient, who never lies quite in its middle."""
    spacing = round(2 * anatomy.semi_mm[0] * float(rng.uniform(*centre.field_margin)) / SLICE_SIZE, 4)
    half = spacing * (SLICE_SIZE - 1) / 2
    off_x, off_y = rng.normal(0, 2.5, 2)
    # The table needs room below.
    return Grid(SLICE_SIZE, spacing, (float(off_x) - half, float(off_y) - half + 8.0))


def _draw_motion(*, rng: np.random.Generator) -> Motion:
    """Breath is never held at the same depth twice, and patients turn a little."""
    return Motion(
        degrees=float(np.clip(rng.normal(0, 1.6), -5, 5)),
        scale=float(np.clip(rng.normal(1, 0.012), 0.96, 1.04)),
        shift_mm=(float(np.clip(rng.normal(0, 3.0), -9, 9)), float(np.clip(rng.normal(0, 4.0), -10, 10))),
    )


def _draw_delays(
    contrast: Contrast, *, centre: Centre, rng: np.random.Generator
) -> tuple[float, float, float]:
    arterial, portal = centre.delays_s
    return (
        0.0,
        round(arterial + 4 * contrast.arterial + float(rng.normal(0, 1)), 2),
        round(portal + 6 * contrast.portal + float(rng.normal(0, 1.5)), 2),
    )
