"""A slice of one phase onto the same patient's non-contrast slice: 2D similarity.

The paper registers ART and PV onto NC with a 2D similarity. Contrast agent changes the grey
values, so the search is in two steps: SimpleITK's Mattes mutual information on a quarter of
the resolution finds the place; a short Gauss-Newton refinement at half of it, against the
non-contrast slice seen through the fitted relation between both phases' HU, finds the
fraction of a pixel. The metric is then asked whether the end is better than the start.

Points are (row, col) in mm on `stic_core.data.ct.Grid`; a transform takes a point of the fixed
(NC) slice to the point of the moving slice that shows the same anatomy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike
from scipy import ndimage

from stic_core.data.ct import AIR_HU, Grid
from stic_core.data.registration.search import (
    COARSE_PIXELS,
    IDENTITY,
    apart,
    as_image,
    body_on,
    coarse_search,
    find_body,
    first_guesses,
    mutual_information,
    refine,
    shrink,
)
from stic_core.tensors.array_types import Affine2D, HUSlice, Points

_AGREE_MM = 0.5


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a patient who breathed between two phases can have done, and more.

    Args:
        scale: largest factor, and its inverse the smallest.
        rotation_degrees: largest angle either way.
        shift_mm: largest way of the body's middle.
    """

    scale: float = 1.2
    rotation_degrees: float = 20.0
    shift_mm: float = 80.0

    def broken_by(self, *, scale: float, rotation_degrees: float, shift_mm: float) -> str:
        """What of a result is out of bounds, "" where nothing is."""
        if not math.isfinite(scale + rotation_degrees + shift_mm):
            return "the search did not converge"
        if not 1 / self.scale <= scale <= self.scale:
            return f"scale {scale:.3f} is outside {1 / self.scale:.3f} to {self.scale:.3f}"
        if abs(rotation_degrees) > self.rotation_degrees:
            return f"rotation {rotation_degrees:.1f} degrees is above {self.rotation_degrees:.1f}"
        if shift_mm > self.shift_mm:
            return f"shift {shift_mm:.1f} mm is above {self.shift_mm:.1f}"
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """What came of one registration.

    Args:
        accepted: False where the unregistered slice is kept; the transform is then identity.
        reason: why it was rejected, "" where it was not.
        matrix: (2, 3), fixed mm to moving mm, (row, col).
        scale: of `matrix`; above 1, the anatomy is larger on the moving slice.
        rotation_degrees: of `matrix`.
        shift_mm: way of the body's middle from the fixed slice to the moving one.
        score_before, score_after: mutual information, nats, at identity and at the result.
        moved: the moving slice on the fixed slice's grid, HU; air where it shows nothing.
    """

    accepted: bool
    reason: str
    matrix: Affine2D
    scale: float
    rotation_degrees: float
    shift_mm: tuple[float, float]
    score_before: float
    score_after: float
    moved: HUSlice

    def to_moving(self, fixed_mm: ArrayLike) -> Points:
        """Points of the fixed slice as points of the moving one, mm."""
        return np.asarray(fixed_mm, dtype=np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_fixed(self, moving_mm: ArrayLike) -> Points:
        """The inverse of `to_moving`."""
        back = np.linalg.inv(self.matrix[:, :2])
        return (np.asarray(moving_mm, dtype=np.float64) - self.matrix[:, 2]) @ back.T


def register(  # noqa: C901 - one search, each way out with its reason
    fixed: HUSlice,
    *,
    moving: HUSlice,
    fixed_grid: Grid | None = None,
    moving_grid: Grid | None = None,
    bounds: Bounds | None = None,
) -> Registration:
    """Register one phase onto the non-contrast slice.

    Args:
        fixed: the NC slice, HU.
        moving: the ART or PV slice, HU.
        fixed_grid, moving_grid: pixels of 1 mm by default.
        bounds: what is plausible.

    Returns:
        The result; rejected ones keep the slice where its own geometry puts it. Nothing is
        raised for images that cannot be registered (constant ones, say).
    """
    fixed_grid = fixed_grid or Grid(fixed.shape)
    moving_grid = moving_grid or Grid(moving.shape)
    bounds = bounds or Bounds()
    low, low_grid = shrink(fixed, fixed_grid, pixels=COARSE_PIXELS)
    low_moving, low_moving_grid = shrink(moving, moving_grid, pixels=COARSE_PIXELS)
    body, moving_body = find_body(low), find_body(low_moving)
    middle = low_grid.to_mm(ndimage.center_of_mass(body))
    unmoved = Registration(
        accepted=False,
        reason="",
        matrix=IDENTITY,
        scale=1.0,
        rotation_degrees=0.0,
        shift_mm=(0.0, 0.0),
        score_before=0.0,
        score_after=0.0,
        moved=resample(moving, moving_grid, fixed_grid, matrix=IDENTITY),
    )
    if min(np.ptp(low), np.ptp(low_moving)) < 1.0:
        return replace(unmoved, reason="a slice shows nothing between -160 and 240 HU")

    def score(matrix: Affine2D) -> float:
        return mutual_information(low, low_moving, low_grid, low_moving_grid, body=body, matrix=matrix)

    before = score(IDENTITY)

    def refined(start: Affine2D, *, pixels: int) -> Affine2D:
        a, a_grid = shrink(fixed, fixed_grid, pixels=pixels)
        b, b_grid = shrink(moving, moving_grid, pixels=pixels)
        inside = body_on(a_grid, body=body, grid=low_grid)
        return refine(a, b, a_grid, b_grid, start=start, middle=middle, inside=inside)

    # Any one start fails on some patients. Two that end at the same place are believed;
    # otherwise all are tried, and the metric knows the right end when it sees it.
    starts = sorted(
        (IDENTITY, *first_guesses(body, moving_body, low_grid, low_moving_grid)), key=score, reverse=True
    )
    corners = low_grid.to_mm(np.argwhere(body)[[0, -1]])
    ends: list[Affine2D] = []
    for guess in (None, *starts):
        try:
            start = guess
            if start is None:
                start = coarse_search(
                    low, low_moving, low_grid, low_moving_grid, start=starts[0], middle=middle
                )
            ends.append(refined(start, pixels=COARSE_PIXELS))
        except (RuntimeError, np.linalg.LinAlgError):
            continue
        if len(ends) == 2 and apart(ends[0], ends[1], points=corners) < _AGREE_MM:
            break
    try:
        matrix = refined(max(ends, key=score), pixels=2 * COARSE_PIXELS)
    except (ValueError, np.linalg.LinAlgError):
        return replace(unmoved, reason="the search did not converge", score_before=before)

    if score(matrix) <= before and apart(matrix, IDENTITY, points=corners) < max(low_grid.spacing_mm):
        # They lie on each other as they are; the search's last fraction of a pixel is noise.
        matrix = IDENTITY
    after = score(matrix)
    moved_by = matrix[:, :2] @ middle + matrix[:, 2] - middle
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    rotation = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
    shift = (float(moved_by[0]), float(moved_by[1]))
    reason = bounds.broken_by(scale=scale, rotation_degrees=rotation, shift_mm=math.hypot(*shift))
    if not reason and after < before:
        reason = f"it ended worse ({after:.4f}) than it began ({before:.4f})"
    if reason:
        return replace(unmoved, reason=reason, score_before=before, score_after=after)
    return Registration(
        accepted=True,
        reason="",
        matrix=matrix,
        scale=scale,
        rotation_degrees=rotation,
        shift_mm=shift,
        score_before=before,
        score_after=after,
        moved=resample(moving, moving_grid, fixed_grid, matrix=matrix),
    )


def resample(hu: HUSlice, grid: Grid, onto: Grid, *, matrix: Affine2D = IDENTITY) -> HUSlice:
    """A slice on another grid, bilinear; what lies outside of it is air.

    Args:
        matrix: (2, 3), mm of `onto` to mm of `grid`.
    """
    if grid == onto and np.array_equal(matrix, IDENTITY):
        return hu
    transform = sitk.AffineTransform(2)
    transform.SetMatrix(matrix[::-1, 1::-1].ravel().tolist())
    transform.SetTranslation(matrix[::-1, 2].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)
    resampler.SetSize((onto.shape[1], onto.shape[0]))
    resampler.SetOutputSpacing(onto.spacing_mm[::-1])
    resampler.SetOutputOrigin(onto.origin_mm[::-1])
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(AIR_HU)
    resampler.SetTransform(transform)
    return sitk.GetArrayFromImage(resampler.Execute(as_image(hu, grid)))
