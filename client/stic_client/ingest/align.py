"""Three stacks to three slices that show the same plane: which slice, and 3D rigid before 2D."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from stic_client.ingest.manifest import PatientRow
from stic_client.ingest.mask_planes import Mask
from stic_client.ingest.stack import Stack
from stic_core.data.ct import AIR_HU, PHASES, Grid
from stic_core.data.registration.slices import Registration, register, resample
from stic_core.data.registration.volumes import UNMOVED, CoarseVolume, VolumeRegistration, register_volume
from stic_core.tensors.array_types import HUSlice, Points

COARSE_MM = 4.0
MIN_COVERED = 0.5
"""Share of the chosen plane that each phase's volume must reach."""


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """The phases on the non-contrast slice's grid.

    Args:
        slices: HU by phase.
        raw: by phase, what was read of that phase, for telling patients apart.
        place: the lesion, (row, col) in pixels of the grid; None where it is not known.
        rejected: registrations that were rejected, with the reason.
        on_phase: takes points of the grid (mm) to the mask's phase: (x, y, z), mm.
    """

    slices: Mapping[str, HUSlice]
    raw: Mapping[str, HUSlice]
    grid: Grid
    place: tuple[float, float] | None
    z_on_phase: float
    mask_phase: str
    volume: VolumeRegistration
    plane: Registration | None
    nc_z_mm: float
    rejected: Mapping[str, str] = field(default_factory=dict)

    def to_mask_phase(self, mm: Points) -> Points:
        """Points (y, x) on the non-contrast slice as points (y, x) of the mask's phase, mm."""
        if self.plane is not None:
            mm = self.plane.to_moving(mm)
        heights = np.full((*mm.shape[:-1], 1), self.nc_z_mm)
        return self.volume.to_moving(np.concatenate([mm[..., ::-1], heights], axis=-1))[..., 1::-1]


def align(stacks: Mapping[str, Stack], *, row: PatientRow, mask: Mask | None) -> Aligned:
    """Choose the slice, and bring the other phases onto it.

    Raises:
        PatientError: no way to choose, or a phase does not reach the chosen plane.
    """
    named = stacks[row.mask_phase]
    index = choose_slice(named, row=row, mask=mask)
    place = _place(named, index=index, row=row, mask=mask)
    volumes, rejected = _register_volumes(stacks, row=row)

    # The chosen point in the non-contrast volume, and the slice there.
    here = np.array([*(place[::-1] if place is not None else _middle(named.grid)[::-1]), named.z_mm[index]])
    there = volumes[row.mask_phase].to_fixed(here)
    nc = stacks["nc"]
    if len(nc) > 1 and not nc.z_mm[0] - nc.spacing_z_mm <= there[2] <= nc.z_mm[-1] + nc.spacing_z_mm:
        raise nc.source.refuse(
            "the phase does not cover the chosen slice",
            got=f"z {there[2]:.1f} mm",
            advice="Export the whole liver.",
        )
    chosen = nc.nearest(float(there[2]))
    fixed_slice, grid, z = nc.load(chosen), nc.grid, nc.z_mm[chosen]
    slices, raw, planes = {"nc": fixed_slice}, {"nc": fixed_slice}, {}
    for phase in PHASES[1:]:
        stack = stacks[phase]
        if len(stack) > 1:
            moving, moving_grid = plane_of(stack, grid=grid, z_mm=z, volume=volumes[phase]), grid
        else:
            moving, moving_grid = stack.load(0), stack.grid
        raw[phase] = moving
        if row.registered:
            slices[phase] = resample(moving, moving_grid, grid)
            continue
        planes[phase] = register(fixed_slice, moving=moving, fixed_grid=grid, moving_grid=moving_grid)
        slices[phase] = planes[phase].moved
        if not planes[phase].accepted:
            rejected[phase] = planes[phase].reason
    pixel = None
    if place is not None:
        point = there[1::-1] if len(stacks[row.mask_phase]) > 1 else np.array(place)
        if row.mask_phase in planes:
            point = planes[row.mask_phase].to_fixed(point)
        at = grid.to_pixels(point)
        if np.any((at < -0.5) | (at > np.array(grid.shape) - 0.5)):
            raise nc.source.refuse(
                "the phase does not cover the lesion",
                expected=f"the lesion of {row.mask_phase} inside the slice of nc",
                advice="Export the whole liver in each phase.",
            )
        pixel = (float(at[0]), float(at[1]))
    return Aligned(
        slices=slices,
        raw=raw,
        grid=grid,
        place=pixel,
        z_on_phase=named.z_mm[index],
        mask_phase=row.mask_phase,
        volume=volumes[row.mask_phase],
        plane=planes.get(row.mask_phase),
        nc_z_mm=z,
        rejected=rejected,
    )


def _register_volumes(
    stacks: Mapping[str, Stack], *, row: PatientRow
) -> tuple[dict[str, VolumeRegistration], dict[str, str]]:
    """3D rigid registrations by phase, and why some were rejected."""
    volumes: dict[str, VolumeRegistration] = dict.fromkeys(PHASES, UNMOVED)
    rejected: dict[str, str] = {}
    moving = [phase for phase in PHASES[1:] if min(len(stacks["nc"]), len(stacks[phase])) > 1]
    if moving and not row.registered:
        fixed = coarse(stacks["nc"])
        for phase in moving:
            volumes[phase] = register_volume(fixed, moving=coarse(stacks[phase]))
            if not volumes[phase].accepted:
                rejected[f"{phase} (3D)"] = volumes[phase].reason
    return volumes, rejected


def choose_slice(stack: Stack, *, row: PatientRow, mask: Mask | None) -> int:
    """By index, by height, or where the mask is largest.

    Raises:
        PatientError: outside of the volume, or a volume without any of the three.
    """
    if row.slice_index is not None:
        if row.slice_index >= len(stack):
            raise stack.source.refuse(
                "slice_index is outside the volume", got=row.slice_index, expected=f"0 to {len(stack) - 1}"
            )
        return row.slice_index
    if row.slice_z_mm is not None:
        index = stack.nearest(row.slice_z_mm)
        if abs(stack.z_mm[index] - row.slice_z_mm) > stack.spacing_z_mm:
            raise stack.source.refuse(
                "slice_z_mm is outside the volume",
                got=row.slice_z_mm,
                expected=f"{stack.z_mm[0]:.1f} to {stack.z_mm[-1]:.1f}",
            )
        return index
    if len(stack) == 1:
        return 0
    if mask is None:
        raise stack.source.refuse(
            "the phase is a volume, and nothing says which slice to use",
            got=f"{len(stack)} slices",
            expected="mask_path, slice_index or slice_z_mm",
            advice="Add one of them to the manifest.",
        )
    return mask.slice_of(stack)


def _place(stack: Stack, *, index: int, row: PatientRow, mask: Mask | None) -> tuple[float, float] | None:
    """The lesion's middle on the phase that the row names, patient y and x, mm."""
    rows, cols = stack.grid.shape
    if row.lesion is not None:
        if stack.turn is None:
            raise stack.source.refuse(
                "lesion_row and lesion_col have no meaning: the file's own slices are not axial",
                expected="a lesion mask",
                advice="Give mask_path instead, or store axial slices.",
            )
        pixel = stack.turn.place(row.lesion, shape=stack.grid.shape)
        if not (0 <= pixel[0] < rows and 0 <= pixel[1] < cols):
            own = (cols, rows) if stack.turn.swapped else (rows, cols)
            raise stack.source.refuse(
                "the lesion's position is outside the slice",
                expected=f"rows 0 to {own[0] - 1}, columns 0 to {own[1] - 1}",
                advice="Correct lesion_row and lesion_col.",
            )
        place = stack.grid.to_mm(pixel)
        return float(place[0]), float(place[1])
    if mask is None or mask.is_liver:
        return None
    plane = mask.near(stack.z_mm[index])
    if plane is None:
        raise mask.misplaced("nothing on the chosen slice", stack=stack)
    at = stack.grid.to_pixels(plane.middle_mm)
    if not (-0.5 <= at[0] <= rows - 0.5 and -0.5 <= at[1] <= cols - 0.5):
        raise mask.misplaced("a lesion beside the slice", stack=stack)
    return plane.middle_mm


def _middle(grid: Grid) -> tuple[float, float]:
    at = grid.to_mm(((grid.shape[0] - 1) / 2, (grid.shape[1] - 1) / 2))
    return float(at[0]), float(at[1])


def coarse(stack: Stack) -> CoarseVolume:
    """A stack at about 4 mm a voxel; only the slices that it takes are decoded."""
    every = max(1, round(COARSE_MM / stack.spacing_z_mm)) if len(stack) > 1 else 1
    factor = max(1, round(COARSE_MM / max(stack.grid.spacing_mm)))
    small = stack.grid.shrunk(factor)
    rows, cols = small.shape
    chosen = range(0, len(stack), every)
    hu = np.empty((len(chosen), rows, cols), dtype=np.float32)
    for number, index in enumerate(chosen):
        cut = stack.load(index)[: rows * factor, : cols * factor]
        hu[number] = cut.reshape(rows, factor, cols, factor).mean(axis=(1, 3))
    return CoarseVolume(
        hu,
        (small.spacing_mm[1], small.spacing_mm[0], stack.spacing_z_mm * every),
        (small.origin_mm[1], small.origin_mm[0], stack.z_mm[0]),
    )


def plane_of(stack: Stack, *, grid: Grid, z_mm: float, volume: VolumeRegistration) -> HUSlice:
    """What a stack shows where the non-contrast slice lies, trilinear.

    Args:
        grid, z_mm: the non-contrast slice.

    Raises:
        PatientError: the stack does not reach half of that plane.
    """
    rows, cols = np.mgrid[: grid.shape[0], : grid.shape[1]]
    yx = grid.to_mm(np.stack([rows, cols], axis=-1))
    points = volume.to_moving(np.concatenate([yx[..., ::-1], np.full((*yx.shape[:2], 1), z_mm)], axis=-1))
    height = (points[..., 2] - stack.z_mm[0]) / stack.spacing_z_mm
    # Half a slice beyond the last one is still that slice.
    covered = float(np.mean((height >= -0.5) & (height <= len(stack) - 0.5)))
    if covered < MIN_COVERED:
        raise stack.source.refuse(
            "the phase does not cover the chosen slice",
            got=f"{covered:.0%} of it",
            expected=f"at least {MIN_COVERED:.0%}",
            advice="Export the whole liver in each phase.",
        )
    first = int(np.clip(np.floor(height.min()), 0, len(stack) - 1))
    last = int(np.clip(np.ceil(height.max()), first, len(stack) - 1))
    block = np.stack([stack.load(index) for index in range(first, last + 1)])
    if volume is UNMOVED and grid == stack.grid and first == last:
        return block[0]
    at = stack.grid.to_pixels(points[..., 1::-1])
    inside = np.all((at >= 0) & (at <= np.array(stack.grid.shape) - 1), axis=-1)
    where = np.stack([np.clip(height - first, 0, last - first), at[..., 0], at[..., 1]])
    values = ndimage.map_coordinates(block, where, order=1, mode="nearest")
    return np.where(inside, values, AIR_HU).astype(np.float32)
