"""The search behind `slices` and `volumes`: the body, mutual information, descent, Gauss-Newton.

The first four functions take slices and volumes; the others take slices that are clipped to soft
tissue and averaged down (`shrink`), with transforms that take points (row, col) in mm of the
fixed slice to the moving one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from stic_core.data.ct import Grid
from stic_core.tensors.array_types import Affine2D, HUSlice, Points

# What a liver, vessels and fat take part in; beyond it bone and air would rule the metric.
LOW_HU, HIGH_HU = -160.0, 240.0
_BODY_HU = -140.0
COARSE_PIXELS = 128
_BINS = 32
_STILL_MM = 0.02
_EDGE_OVER_NOISE = 5.0

IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def largest_piece(hu: np.ndarray, *, opening: int) -> np.ndarray:
    """The largest piece above fat, as a mask: the table stays out. All of it where nothing is above fat.

    Args:
        hu: a slice or a volume.
        opening: voxels that are taken off and put back, so that what hangs on by a thread is apart.
    """
    solid = ndimage.binary_opening(hu > _BODY_HU, iterations=opening)
    pieces = np.asarray(ndimage.label(solid)[0])  # pyright: ignore[reportIndexIssue]
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces == int(np.argmax(sizes))


def information(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information of two images that lie on each other, nats.

    Args:
        first, second: HU of the same points, one-dimensional, clipped to soft tissue.
    """
    step = (HIGH_HU - LOW_HU) / _BINS
    row, col = (
        np.clip((values - LOW_HU) / step, 0, _BINS - 1).astype(np.int64) for values in (first, second)
    )
    joint = np.bincount(row * _BINS + col, minlength=_BINS**2).reshape(_BINS, _BINS) / len(row)
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log(joint[seen] / product[seen])))


def descent(
    transform: sitk.Transform,
    *,
    shrink_factors: Sequence[int],
    sigmas: Sequence[float],
    step_mm: float,
    least_step_mm: float,
    iterations: int,
) -> sitk.ImageRegistrationMethod:
    """A descent on Mattes mutual information from `transform`, which it changes; one thread, so repeatable.

    Args:
        shrink_factors, sigmas: by level, the coarsest first; sigmas in voxels.
    """
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(transform, inPlace=True)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm, minStep=least_step_mm, numberOfIterations=iterations, relaxationFactor=0.5
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrink_factors)
    method.SetSmoothingSigmasPerLevel(sigmas)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    return method


def as_image(hu: HUSlice, grid: Grid) -> sitk.Image:
    """A slice as SimpleITK has it, x before y."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu, dtype=np.float32))
    image.SetSpacing(grid.spacing_mm[::-1])
    image.SetOrigin(grid.origin_mm[::-1])
    return image


def shrink(hu: HUSlice, grid: Grid, *, pixels: int) -> tuple[HUSlice, Grid]:
    """Clipped to soft tissue, and averaged down to about `pixels` rows."""
    factor = max(1, round(min(grid.shape) / pixels))
    small = grid.shrunk(factor)
    rows, cols = small.shape
    clipped = np.clip(hu[: rows * factor, : cols * factor], LOW_HU, HIGH_HU)
    # Two sums over one axis each are several times faster than one mean over both.
    lines = np.add.reduce(clipped.reshape(rows, factor, cols * factor), axis=1, dtype=np.float32)
    means = np.add.reduce(lines.reshape(rows, cols, factor), axis=2) / np.float32(factor * factor)
    return means.astype(np.float32), small


def find_body(low: HUSlice) -> np.ndarray:
    """The body of a slice, holes filled: the table and the arms' air stay out."""
    return np.asarray(ndimage.binary_fill_holes(largest_piece(low, opening=2)))


def apart(first: Affine2D, second: Affine2D, *, points: Points) -> float:
    """How far from each other two transforms take points, mm."""
    way = points @ (first[:, :2] - second[:, :2]).T + first[:, 2] - second[:, 2]
    return float(np.linalg.norm(way, axis=1).max())


def first_guesses(body: np.ndarray, moving_body: np.ndarray, grid: Grid, moving_grid: Grid) -> list[Affine2D]:
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


def body_on(onto: Grid, *, body: np.ndarray, grid: Grid) -> np.ndarray:
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


def mutual_information(
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
    return information(fixed[tuple(pixels.T)], np.where(inside, values, LOW_HU))


def coarse_search(
    fixed: HUSlice, moving: HUSlice, fixed_grid: Grid, moving_grid: Grid, *, start: Affine2D, middle: Points
) -> Affine2D:
    """Mattes mutual information over all pixels of the small pair."""
    transform = sitk.Similarity2DTransform()
    transform.SetCenter(middle[::-1].tolist())
    transform.SetMatrix(start[::-1, 1::-1].ravel().tolist())
    transform.SetTranslation((start[:, :2] @ middle + start[:, 2] - middle)[::-1].tolist())
    method = descent(
        transform,
        shrink_factors=[2],
        sigmas=[1],
        step_mm=max(fixed_grid.spacing_mm),
        least_step_mm=0.05,
        iterations=30,
    )
    method.SetMetricSamplingStrategy(method.NONE)
    method.Execute(as_image(_without_table(fixed), fixed_grid), as_image(_without_table(moving), moving_grid))
    linear = np.array(transform.GetMatrix()).reshape(2, 2)[::-1, ::-1]
    centre, shift = (np.array(value)[::-1] for value in (transform.GetCenter(), transform.GetTranslation()))
    return np.column_stack([linear, centre + shift - linear @ centre])


def _without_table(low: HUSlice) -> HUSlice:
    """The table does not breathe: outside the body there is air."""
    return np.where(ndimage.binary_dilation(find_body(low), iterations=3), low, np.float32(LOW_HU))


def refine(
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
        if not np.isfinite(step).all():
            raise np.linalg.LinAlgError("no finite step")
        if np.hypot(*step[2:]) + length * np.hypot(step[0], step[1]) < _STILL_MM:
            break
    linear = np.array([[a, b], [-b, a]])
    return np.column_stack([linear, middle + shift - linear @ middle])


def _intensity_relation(fixed: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of `moving` given `fixed`, at each value of `fixed`, and its derivative there."""
    bins = 2 * _BINS
    which = np.clip((fixed - LOW_HU) * (bins / (HIGH_HU - LOW_HU)), 0, bins - 1).astype(np.int64)
    count, place, mean = (
        ndimage.gaussian_filter1d(np.bincount(which, weights, bins).astype(np.float64), 1.0)
        for weights in (None, fixed, moving)
    )
    filled = count > 1e-3
    place, mean = place[filled] / count[filled], mean[filled] / count[filled]
    # Clipped values and near-empty bins can make two places one.
    rising = np.concatenate([[True], place[1:] > np.maximum.accumulate(place)[:-1] + 0.1])
    place, mean = place[rising], mean[rising]
    if len(place) < 2:
        raise np.linalg.LinAlgError("one grey value")
    return np.interp(fixed, place, mean), np.interp(fixed, place, np.gradient(mean, place))
