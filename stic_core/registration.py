"""A slice of one phase onto the same patient's non-contrast slice: 2D similarity.

The paper registers ART and PV onto NC with a 2D similarity. Contrast agent changes the grey
values, so the search is in two steps: SimpleITK's Mattes mutual information on a quarter of
the resolution finds the place; a short Gauss-Newton refinement at half of it, against the
non-contrast slice seen through the fitted relation between both phases' HU, finds the
fraction of a pixel. The metric is then asked whether the end is better than the start.

Points are (row, col) in mm on `stic_core.ct.Grid`; a transform takes a point of the fixed
(NC) slice to the point of the moving slice that shows the same anatomy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike
from scipy import ndimage

from stic_core.ct import AIR_HU, Grid
from stic_core.types import Affine2D, HUSlice, Points

# What a liver, vessels and fat take part in; beyond it bone and air would rule the metric.
_LOW_HU, _HIGH_HU = -160.0, 240.0
_BODY_HU = -140.0
_COARSE_PIXELS = 128
_BINS = 32
_AGREE_MM = 0.5
_EDGE_OVER_NOISE = 5.0

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


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
    fixed_grid = fixed_grid or Grid(fixed.shape)
    moving_grid = moving_grid or Grid(moving.shape)
    bounds = bounds or Bounds()
    low, low_grid = _shrink(fixed, fixed_grid, pixels=_COARSE_PIXELS)
    low_moving, low_moving_grid = _shrink(moving, moving_grid, pixels=_COARSE_PIXELS)
    body, moving_body = _body(low), _body(low_moving)
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
        return _mutual_information(low, low_moving, low_grid, low_moving_grid, body=body, matrix=matrix)

    before = score(IDENTITY)

    def refined(start: Affine2D, *, pixels: int) -> Affine2D:
        a, a_grid = _shrink(fixed, fixed_grid, pixels=pixels)
        b, b_grid = _shrink(moving, moving_grid, pixels=pixels)
        inside = _body_on(a_grid, body=body, grid=low_grid)
        return _refine(a, b, a_grid, b_grid, start=start, middle=middle, inside=inside)

    # Any one start fails on some patients. Two that end at the same place are believed;
    # otherwise all are tried, and the metric knows the right end when it sees it.
    starts = sorted(
        (IDENTITY, *_starts(body, moving_body, low_grid, low_moving_grid)), key=score, reverse=True
    )
    corners = low_grid.to_mm(np.argwhere(body)[[0, -1]])
    ends: list[Affine2D] = []
    for start in (None, *starts):
        try:
            if start is None:
                start = _coarse(low, low_moving, low_grid, low_moving_grid, start=starts[0], middle=middle)
            ends.append(refined(start, pixels=_COARSE_PIXELS))
        except (RuntimeError, np.linalg.LinAlgError):
            continue
        if len(ends) == 2 and _apart(ends[0], ends[1], points=corners) < _AGREE_MM:
            break
    try:
        matrix = refined(max(ends, key=score), pixels=2 * _COARSE_PIXELS)
    except (ValueError, np.linalg.LinAlgError):
        return replace(unmoved, reason="the search did not converge", score_before=before)

    after = score(matrix)
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    rotation = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
    shift = matrix[:, :2] @ middle + matrix[:, 2] - middle
    length = float(np.hypot(*shift))
    reason = ""
    if not np.isfinite(matrix).all():
        reason = "the search did not converge"
    elif not 1 / bounds.scale <= scale <= bounds.scale:
        reason = f"scale {scale:.3f} is outside {1 / bounds.scale:.3f} to {bounds.scale:.3f}"
    elif abs(rotation) > bounds.rotation_degrees:
        reason = f"rotation {rotation:.1f} degrees is above {bounds.rotation_degrees:.1f}"
    elif length > bounds.shift_mm:
        reason = f"shift {length:.1f} mm is above {bounds.shift_mm:.1f}"
    elif not after > before:
        reason = f"it ended worse ({after:.4f}) than it began ({before:.4f})"
    if reason:
        return replace(unmoved, reason=reason, score_before=before, score_after=after)
    return Registration(
        accepted=True,
        reason="",
        matrix=matrix,
        scale=scale,
        rotation_degrees=rotation,
        shift_mm=(float(shift[0]), float(shift[1])),
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
    return sitk.GetArrayFromImage(resampler.Execute(_image(hu, grid)))


def _image(hu: HUSlice, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu, dtype=np.float32))
    image.SetSpacing(grid.spacing_mm[::-1])
    image.SetOrigin(grid.origin_mm[::-1])
    return image


def _shrink(hu: HUSlice, grid: Grid, *, pixels: int) -> tuple[HUSlice, Grid]:
    """Clipped to soft tissue, and averaged down to about `pixels` rows."""
    factor = max(1, round(min(grid.shape) / pixels))
    small = grid.shrunk(factor)
    rows, cols = small.shape
    clipped = np.clip(hu[: rows * factor, : cols * factor], _LOW_HU, _HIGH_HU)
    # Two sums over one axis each are several times faster than one mean over both.
    lines = np.add.reduce(clipped.reshape(rows, factor, cols * factor), axis=1, dtype=np.float32)
    means = np.add.reduce(lines.reshape(rows, cols, factor), axis=2) / np.float32(factor * factor)
    return means.astype(np.float32), small


def _body(low: HUSlice) -> np.ndarray:
    """The largest piece above fat, holes filled: the table and the arms' air stay out."""
    solid = ndimage.binary_opening(low > _BODY_HU, iterations=2)
    pieces = np.asarray(ndimage.label(solid)[0])  # pyright: ignore[reportIndexIssue]
    sizes = np.bincount(pieces.ravel())[1:]
    if len(sizes) == 0:
        return np.ones(low.shape, dtype=bool)
    largest = 1 + int(np.argmax(sizes))
    return np.asarray(ndimage.binary_fill_holes(pieces == largest))


def _apart(first: Affine2D, second: Affine2D, *, points: Points) -> float:
    """How far from each other two transforms take points, mm."""
    way = points @ (first[:, :2] - second[:, :2]).T + first[:, 2] - second[:, 2]
    return float(np.linalg.norm(way, axis=1).max())


def _starts(body: np.ndarray, moving_body: np.ndarray, grid: Grid, moving_grid: Grid) -> list[Affine2D]:
    """The body's middle onto the other's; and its size and long axis too."""
    moments = []
    for mask, on in ((body, grid), (moving_body, moving_grid)):
        points = on.to_mm(np.argwhere(mask))
        spread = np.cov(points.T)
        axis = np.linalg.eigh(spread)[1][:, 1]
        moments.append((points.mean(axis=0), np.linalg.det(spread), math.atan2(axis[1], axis[0])))
    (middle, size, angle), (moving_middle, moving_size, moving_angle) = moments
    turn = (moving_angle - angle + math.pi / 2) % math.pi - math.pi / 2
    scale = (moving_size / size) ** 0.25 if size > 0 else 1.0
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    turned = np.array([[cos, -sin], [sin, cos]])
    linears = (np.eye(2), turned)
    return [np.column_stack([linear, moving_middle - linear @ middle]) for linear in linears]


def _body_on(onto: Grid, *, body: np.ndarray, grid: Grid) -> np.ndarray:
    """The body, a little larger so that the skin's edge counts, on a finer grid."""
    wide = ndimage.binary_dilation(body, iterations=2)
    rows, cols = (
        np.clip(np.rint(grid.to_pixels(onto.to_mm(np.column_stack([line, line])))[:, axis]), 0, size - 1)
        for axis, (line, size) in enumerate(
            zip((np.arange(onto.shape[0]), np.arange(onto.shape[1])), grid.shape, strict=True)
        )
    )
    return wide[np.ix_(rows.astype(int), cols.astype(int))]


def _sample(image: HUSlice, grid: Grid, *, mm: Points) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear values at points in mm, and which of them lie inside."""
    at = grid.to_pixels(mm).T
    last = np.array(grid.shape)[:, None] - 1
    inside = np.all((at >= 0) & (at <= last), axis=0)
    return ndimage.map_coordinates(image, at, order=1, mode="nearest"), inside


def _mutual_information(
    fixed: HUSlice,
    moving: HUSlice,
    fixed_grid: Grid,
    moving_grid: Grid,
    *,
    body: np.ndarray,
    matrix: Affine2D,
) -> float:
    """Of the two slices over the fixed slice's body, nats; what lies outside counts as air."""
    pixels = np.argwhere(ndimage.binary_dilation(body, iterations=3))
    points = fixed_grid.to_mm(pixels) @ matrix[:, :2].T + matrix[:, 2]
    values, inside = _sample(moving, moving_grid, mm=points)
    values = np.where(inside, values, _LOW_HU)
    step = (_HIGH_HU - _LOW_HU) / _BINS
    first = np.minimum((fixed[tuple(pixels.T)] - _LOW_HU) / step, _BINS - 1).astype(np.int64)
    second = np.minimum((values - _LOW_HU) / step, _BINS - 1).astype(np.int64)
    joint = np.bincount(first * _BINS + second, minlength=_BINS * _BINS).reshape(_BINS, _BINS) / len(pixels)
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log(joint[seen] / product[seen])))


def _coarse(
    fixed: HUSlice, moving: HUSlice, fixed_grid: Grid, moving_grid: Grid, *, start: Affine2D, middle: Points
) -> Affine2D:
    """Mattes mutual information over all pixels of the small pair; one thread, so repeatable."""
    transform = sitk.Similarity2DTransform()
    transform.SetCenter(middle[::-1].tolist())
    transform.SetMatrix(start[::-1, 1::-1].ravel().tolist())
    transform.SetTranslation((start[:, :2] @ middle + start[:, 2] - middle)[::-1].tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(transform, inPlace=True)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=max(fixed_grid.spacing_mm),
        minStep=0.05,
        numberOfIterations=30,
        relaxationFactor=0.5,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2])
    method.SetSmoothingSigmasPerLevel([1])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.Execute(_image(_without_table(fixed), fixed_grid), _image(_without_table(moving), moving_grid))
    linear = np.array(transform.GetMatrix()).reshape(2, 2)[::-1, ::-1]
    centre, shift = (np.array(value)[::-1] for value in (transform.GetCenter(), transform.GetTranslation()))
    return np.column_stack([linear, centre + shift - linear @ centre])


def _without_table(low: HUSlice) -> HUSlice:
    """The table does not breathe: outside the body there is air."""
    return np.where(ndimage.binary_dilation(_body(low), iterations=3), low, np.float32(_LOW_HU))


def _refine(
    fixed: HUSlice,
    moving: HUSlice,
    fixed_grid: Grid,
    moving_grid: Grid,
    *,
    start: Affine2D,
    middle: Points,
    inside: np.ndarray,
    steps: int = 10,
    share: float = 0.2,
) -> Affine2D:
    """Gauss-Newton with Huber's loss at the pixels with the strongest edges.

    The residual is moving(T(x)) - g(fixed(x)); g, the mean HU of the moving slice where the
    fixed one has a given HU, is fitted anew at each step and takes out what the contrast
    agent changed everywhere alike. What it changed locally (vessels) is an outlier.
    """
    fixed, moving = (ndimage.gaussian_filter(image, 0.7) for image in (fixed, moving))
    by_row, by_col = np.gradient(fixed)
    strength = np.where(inside, by_row**2 + by_col**2, 0.0)
    keep = max(64, round(share * strength.size))
    edge = np.partition(strength.ravel(), -keep)[-keep] if keep < strength.size else 0.0
    # Most of a body is flat, so the median is noise. Noise must stay out: its own gradient
    # goes with its own value, which pulls the scale down.
    noise = float(np.median(strength[inside])) if inside.any() else 0.0
    pixels = np.nonzero(strength > max(edge, _EDGE_OVER_NOISE * noise, 1e-3))
    if len(pixels[0]) < 64:
        raise np.linalg.LinAlgError("too few edges")
    values = fixed[pixels].astype(np.float64)
    slope_row = by_row[pixels] / fixed_grid.spacing_mm[0]
    slope_col = by_col[pixels] / fixed_grid.spacing_mm[1]
    row, col = (fixed_grid.to_mm(np.column_stack(pixels)) - middle).T
    # Matrix [[a, b], [-b, a]] in (row, col), and the way of the middle.
    a, b = start[0, 0], start[0, 1]
    shift = start[:, :2] @ middle + start[:, 2] - middle
    length = float(np.hypot(row, col).max())
    for _ in range(steps):
        points = np.column_stack([a * row + b * col, a * col - b * row]) + middle + shift
        seen, within = _sample(moving, moving_grid, mm=points)
        model, gain = _intensity_relation(values, seen.astype(np.float64))
        residual = seen - model
        # 1.345 x 1.4826 x the median absolute deviation would cut tissue that enhanced as a
        # whole; the wider bound keeps its edges and still lets vessels go.
        bound = max(15.0, 1.4826 * float(np.median(np.abs(residual))))
        weight = within * np.minimum(1.0, bound / np.maximum(np.abs(residual), 1e-6))
        # The chain rule through T turns the fixed slice's gradient into the moving one's.
        size = a * a + b * b
        d_row = gain * (a * slope_row + b * slope_col) / size
        d_col = gain * (a * slope_col - b * slope_row) / size
        jacobian = np.column_stack([d_row * row + d_col * col, d_row * col - d_col * row, d_row, d_col])
        weighted = jacobian * weight[:, None]
        step = -np.linalg.solve(jacobian.T @ weighted, weighted.T @ residual)
        a, b, shift = a + step[0], b + step[1], shift + step[2:]
        if np.hypot(*step[2:]) + length * np.hypot(step[0], step[1]) < 0.01:
            break
    linear = np.array([[a, b], [-b, a]])
    return np.column_stack([linear, middle + shift - linear @ middle])


def _intensity_relation(fixed: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of `moving` given `fixed`, at each value of `fixed`, and its derivative there."""
    bins = 2 * _BINS
    which = np.clip((fixed - _LOW_HU) * (bins / (_HIGH_HU - _LOW_HU)), 0, bins - 1).astype(np.int64)
    count, place, mean = (
        ndimage.gaussian_filter1d(np.bincount(which, weights, bins).astype(np.float64), 1.0)
        for weights in (None, fixed, moving)
    )
    filled = count > 1e-3
    place, mean = place[filled] / count[filled], mean[filled] / count[filled]
    if len(place) < 2:
        raise np.linalg.LinAlgError("one grey value")
    return np.interp(fixed, place, mean), np.interp(fixed, place, np.gradient(mean, place))
