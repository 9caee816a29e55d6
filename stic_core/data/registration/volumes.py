"""A volume of one phase onto the same patient's non-contrast volume: 3D rigid.

It finds which plane of the moving volume shows what the chosen slice shows; the 2D similarity
of `stic_core.data.registration.slices` does the rest. Points are (x, y, z), mm, patient axes (LPS).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike
from scipy import ndimage

from stic_core.data.registration.search import HIGH_HU, LOW_HU, descent, information, largest_piece

_SEED = 1
"""Of the places at which the metric looks; without one SimpleITK takes the clock, and no run is repeatable."""

_SHIFTS_MM = (-30.0, -15.0, 0.0, 15.0, 30.0)

MAX_ROTATION_DEGREES = 15.0
MAX_SHIFT_MM = 60.0
MIN_OVERLAP = 0.6
"""Share of the smaller body that must lie in both volumes."""


@dataclass(frozen=True, slots=True, eq=False)
class CoarseVolume:
    """A phase at a few millimetres a voxel.

    Args:
        hu: (slices from the feet up, rows, columns).
        spacing_mm, origin_mm: (x, y, z).
    """

    hu: np.ndarray
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    def image(self) -> sitk.Image:
        """As SimpleITK has it, clipped to soft tissue, the table taken away."""
        body = ndimage.binary_dilation(largest_piece(self.hu, opening=1), iterations=2)
        kept = np.where(body, np.clip(self.hu, LOW_HU, HIGH_HU), LOW_HU).astype(np.float32)
        image = sitk.GetImageFromArray(kept)
        image.SetSpacing(self.spacing_mm)
        image.SetOrigin(self.origin_mm)
        return image


@dataclass(frozen=True, slots=True, eq=False)
class VolumeRegistration:
    """What came of it.

    Args:
        accepted: False where patient coordinates are taken as they are.
        reason: why it was rejected, "" where it was not.
        matrix: (3, 4), fixed to moving; the identity where it was rejected.
        score_before, score_after: mutual information at identity and at the result, nats.
    """

    accepted: bool
    reason: str
    matrix: np.ndarray
    score_before: float = 0.0
    score_after: float = 0.0

    def to_moving(self, fixed_mm: ArrayLike) -> np.ndarray:
        """Points of the fixed volume as points of the moving one, mm."""
        return np.asarray(fixed_mm, dtype=np.float64) @ self.matrix[:, :3].T + self.matrix[:, 3]

    def to_fixed(self, moving_mm: ArrayLike) -> np.ndarray:
        """The inverse of `to_moving`."""
        return (np.asarray(moving_mm, dtype=np.float64) - self.matrix[:, 3]) @ np.linalg.inv(
            self.matrix[:, :3]
        ).T


UNMOVED = VolumeRegistration(True, "", np.eye(3, 4))
"""For volumes that lie on each other already."""


def register_volume(fixed: CoarseVolume, *, moving: CoarseVolume) -> VolumeRegistration:
    """Register one phase's volume onto the non-contrast one; one thread, so repeatable.

    Returns:
        The result; nothing is raised for volumes that cannot be registered.
    """
    a, b = fixed.image(), moving.image()
    middle = np.array(a.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in a.GetSize()]))

    def score(matrix: np.ndarray) -> float:
        return _mutual_information(a, b, matrix=matrix)

    # Breath moves the liver along z by centimetres, which is beyond the reach of a descent.
    starts = [np.column_stack([np.eye(3), (0.0, 0.0, shift)]) for shift in _SHIFTS_MM]
    before = score(np.eye(3, 4))
    start = max(starts, key=score)
    transform = sitk.Euler3DTransform()
    transform.SetCenter(middle.tolist())
    transform.SetTranslation(start[:, 3].tolist())
    method = descent(
        transform, shrink_factors=[2, 1], sigmas=[1, 0], step_mm=4.0, least_step_mm=0.02, iterations=60
    )
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel([1.0, 0.25], seed=_SEED)
    try:
        method.Execute(a, b)
    except RuntimeError:
        return VolumeRegistration(False, "the search did not converge", np.eye(3, 4), before, before)
    linear = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix = np.column_stack([linear, middle + np.array(transform.GetTranslation()) - linear @ middle])
    after = score(matrix)
    angle = math.degrees(math.acos(min(1.0, max(-1.0, (float(np.trace(linear)) - 1) / 2))))
    shift = float(np.linalg.norm(matrix[:, :3] @ middle + matrix[:, 3] - middle))
    reason = ""
    if angle > MAX_ROTATION_DEGREES:
        reason = f"rotation {angle:.1f} degrees is above {MAX_ROTATION_DEGREES:.0f}"
    elif shift > MAX_SHIFT_MM:
        reason = f"shift {shift:.1f} mm is above {MAX_SHIFT_MM:.0f}"
    elif not after > before:
        reason = f"it ended worse ({after:.4f}) than it began ({before:.4f})"
    if reason:
        return VolumeRegistration(False, reason, np.eye(3, 4), before, after)
    return VolumeRegistration(True, "", matrix, before, after)


def _voxel(image: sitk.Image) -> float:
    """mm^3."""
    return float(np.prod(image.GetSpacing()))


def _mutual_information(fixed: sitk.Image, moving: sitk.Image, *, matrix: np.ndarray) -> float:
    """Over the bodies where both volumes reach, nats; 0 where they hardly meet.

    Chance makes the information of a few voxels large, so a small overlap must not win.
    """
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:, :3].ravel().tolist())
    transform.SetTranslation(matrix[:, 3].tolist())
    outside = 2 * LOW_HU
    seen = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, outside))
    there = sitk.GetArrayFromImage(fixed)
    both = (seen > 1.5 * LOW_HU) & ((there > LOW_HU) | (seen > LOW_HU))
    sizes = (
        np.sum(there > LOW_HU),
        np.sum(sitk.GetArrayViewFromImage(moving) > LOW_HU) * _voxel(moving) / _voxel(fixed),
    )
    if both.sum() < max(1000, MIN_OVERLAP * min(sizes)):
        return 0.0
    return information(there[both], seen[both])
