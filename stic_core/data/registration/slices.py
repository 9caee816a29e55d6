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
from contextlib import suppress
from dataclasses import dataclass

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


def register(
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
    pair = _Pair(fixed, moving, fixed_grid or Grid(fixed.shape), moving_grid or Grid(moving.shape))
    if not pair.shows_tissue:
        return _rejected(pair, "a slice shows nothing between -160 and 240 HU")
    before = pair.score(IDENTITY)
    matrix = _search(pair)
    if matrix is None:
        return _rejected(pair, "the search did not converge", before=before)
    if pair.score(matrix) <= before and pair.apart(matrix, IDENTITY) < max(pair.low_grid.spacing_mm):
        # They lie on each other as they are; the search's last fraction of a pixel is noise.
        matrix = IDENTITY
    return _judged(pair, matrix, before=before, bounds=bounds or Bounds())


class _Pair:
    """Two slices, the same at a quarter of the resolution, and the fixed one's body there."""

    def __init__(self, fixed: HUSlice, moving: HUSlice, fixed_grid: Grid, moving_grid: Grid) -> None:
        self._fixed, self._moving = fixed, moving
        self._fixed_grid, self._moving_grid = fixed_grid, moving_grid
        self._low, self.low_grid = shrink(fixed, fixed_grid, pixels=COARSE_PIXELS)
        self._low_moving, self._low_moving_grid = shrink(moving, moving_grid, pixels=COARSE_PIXELS)
        self._body = find_body(self._low)
        self.middle = self.low_grid.to_mm(ndimage.center_of_mass(self._body))

    @property
    def shows_tissue(self) -> bool:
        """Whether there is anything to compare."""
        return min(np.ptp(self._low), np.ptp(self._low_moving)) >= 1.0

    def score(self, matrix: Affine2D) -> float:
        """Mutual information, nats."""
        return mutual_information(
            self._low,
            self._low_moving,
            self.low_grid,
            self._low_moving_grid,
            body=self._body,
            matrix=matrix,
        )

    def apart(self, first: Affine2D, second: Affine2D) -> float:
        """How far from each other two transforms take the body, mm."""
        return apart(first, second, points=self.low_grid.to_mm(np.argwhere(self._body)[[0, -1]]))

    def guesses(self) -> list[Affine2D]:
        """Places to start from, the best first."""
        moments = first_guesses(self._body, find_body(self._low_moving), self.low_grid, self._low_moving_grid)
        return sorted((IDENTITY, *moments), key=self.score, reverse=True)

    def coarse(self, start: Affine2D) -> Affine2D:
        """Descend on the metric.

        Raises:
            RuntimeError: it did not converge.
        """
        grids = self.low_grid, self._low_moving_grid
        return coarse_search(self._low, self._low_moving, *grids, start=start, middle=self.middle)

    def refined(self, start: Affine2D, *, pixels: int) -> Affine2D:
        """The last fraction of a pixel.

        Raises:
            numpy.linalg.LinAlgError: it did not converge.
        """
        fixed, grid = shrink(self._fixed, self._fixed_grid, pixels=pixels)
        moving, moving_grid = shrink(self._moving, self._moving_grid, pixels=pixels)
        inside = body_on(grid, body=self._body, grid=self.low_grid)
        return refine(fixed, moving, grid, moving_grid, start=start, middle=self.middle, inside=inside)

    def moved(self, matrix: Affine2D) -> HUSlice:
        """The moving slice on the fixed one's grid."""
        return resample(self._moving, self._moving_grid, self._fixed_grid, matrix=matrix)


def _search(pair: _Pair) -> Affine2D | None:
    """The transform that the metric likes best; None where nothing converged."""
    ends: list[Affine2D] = []
    # Any one start fails on some patients. Two that end at the same place are believed;
    # otherwise all are tried, and the metric knows the right end when it sees it.
    starts = pair.guesses()
    for start in (None, *starts):
        with suppress(RuntimeError, np.linalg.LinAlgError):
            begin = pair.coarse(starts[0]) if start is None else start
            ends.append(pair.refined(begin, pixels=COARSE_PIXELS))
            if len(ends) == 2 and pair.apart(*ends) < _AGREE_MM:
                break
    if not ends:
        return None
    try:
        return pair.refined(max(ends, key=pair.score), pixels=2 * COARSE_PIXELS)
    except np.linalg.LinAlgError:
        return None


def _judged(pair: _Pair, matrix: Affine2D, *, before: float, bounds: Bounds) -> Registration:
    """The result, if it is plausible and no worse than the start."""
    after = pair.score(matrix)
    moved_by = matrix[:, :2] @ pair.middle + matrix[:, 2] - pair.middle
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    rotation = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
    shift = (float(moved_by[0]), float(moved_by[1]))
    reason = bounds.broken_by(scale=scale, rotation_degrees=rotation, shift_mm=math.hypot(*shift))
    if not reason and after < before:
        reason = f"it ended worse ({after:.4f}) than it began ({before:.4f})"
    if reason:
        return _rejected(pair, reason, before=before, after=after)
    return Registration(
        accepted=True,
        reason="",
        matrix=matrix,
        scale=scale,
        rotation_degrees=rotation,
        shift_mm=shift,
        score_before=before,
        score_after=after,
        moved=pair.moved(matrix),
    )


def _rejected(pair: _Pair, reason: str, *, before: float = 0.0, after: float = 0.0) -> Registration:
    return Registration(
        accepted=False,
        reason=reason,
        matrix=IDENTITY,
        scale=1.0,
        rotation_degrees=0.0,
        shift_mm=(0.0, 0.0),
        score_before=before,
        score_after=after,
        moved=pair.moved(IDENTITY),
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
