"""A mask in patient space, plane by plane: which part of it is the lesion, and whether it lies on its phase.

A mask is matched to slices by position, never by order: exports store slices both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from stic_client.ingest.source import Source
from stic_client.ingest.stack import Stack
from stic_core.data.ct import Grid
from stic_core.errors import PatientError


@dataclass(frozen=True, slots=True, eq=False)
class MaskPlane:
    """One axial plane of a mask.

    Args:
        inside: rows by columns, in the orientation of `Stack`.
        lesion: the largest connected part of it; the rest may be another lesion, or a stray pixel.
        parts: how many there are; those with up to two pixels between them are one.
    """

    z_mm: float
    inside: np.ndarray
    grid: Grid
    lesion: np.ndarray
    parts: int

    @classmethod
    def of(cls, z_mm: float, inside: np.ndarray, grid: Grid) -> MaskPlane:
        """A plane with its largest part."""
        lesion = np.zeros_like(inside, dtype=bool)
        box = _box(inside)
        numbers, parts = _parts(inside[box])
        if parts:
            lesion[box] = numbers == np.bincount(numbers.ravel())[1:].argmax() + 1
        return cls(z_mm, inside, grid, lesion, parts)

    @property
    def area_mm2(self) -> float:
        """Of the largest part."""
        return float(self.lesion.sum()) * self.grid.spacing_mm[0] * self.grid.spacing_mm[1]

    @property
    def middle_mm(self) -> tuple[float, float]:
        """Median row and column of the largest part, patient y and x: a thin line drawn by a slip moves it little."""
        rows, cols = np.nonzero(self.lesion)
        middle = self.grid.to_mm((np.median(rows), np.median(cols)))
        return float(middle[0]), float(middle[1])

    @property
    def extent_mm(self) -> float:
        """The longer side of the largest part's bounding box."""
        rows, cols = _box(self.lesion)
        sides = (rows.stop - rows.start, cols.stop - cols.start)
        return max(side * step for side, step in zip(sides, self.grid.spacing_mm, strict=True))

    def apart_mm(self, mm: np.ndarray) -> float:
        """Distance of a point (y, x), mm, from its nearest pixel."""
        pixels = np.stack(np.nonzero(self.inside), axis=-1)
        return float(np.linalg.norm(self.grid.to_mm(pixels) - mm, axis=-1).min())

    def at(self, mm: np.ndarray) -> np.ndarray:
        """Whether points (y, x), mm, shape (..., 2), lie inside; nearest pixel."""
        index = np.rint(self.grid.to_pixels(mm)).astype(np.int64)
        within = np.all((index >= 0) & (index < self.grid.shape), axis=-1)
        index = np.where(within[..., None], index, 0)
        return within & self.inside[index[..., 0], index[..., 1]]


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A mask.

    Args:
        planes: those with anything inside, by ascending z.
        step_mm: between the planes it was drawn on.
        is_liver: it says that it is of the liver.
        lattice: grid and heights of all of its voxels; None for a DICOM SEG, which stores some planes.
    """

    source: Source
    planes: tuple[MaskPlane, ...]
    step_mm: float
    is_liver: bool = False
    lattice: tuple[Grid, tuple[float, ...]] | None = None

    def largest(self) -> MaskPlane:
        """The plane on which the part that is largest in space has its largest area."""
        numbers, count = self._in_space()
        if count < 2:
            return max(self.planes, key=lambda plane: plane.area_mm2)
        sizes = sum(np.bincount(of.ravel(), minlength=count + 1) for of in numbers)
        main = int(np.argmax(np.asarray(sizes)[1:])) + 1
        areas = [int((of == main).sum()) for of in numbers]
        return self.planes[int(np.argmax(areas))]

    def near(self, z_mm: float) -> MaskPlane | None:
        """The plane at a height, None where the mask has nothing there."""
        best = min(self.planes, key=lambda plane: abs(plane.z_mm - z_mm))
        return best if abs(best.z_mm - z_mm) <= self.step_mm / 2 + 0.05 else None

    def slice_of(self, stack: Stack) -> int:
        """The slice of a stack on which the mask is largest.

        Raises:
            PatientError: the stack does not reach the mask.
        """
        z = self.largest().z_mm
        index = stack.nearest(z)
        apart = abs(stack.z_mm[index] - z)
        if apart > max(stack.spacing_z_mm if len(stack) > 1 else 0.0, self.step_mm) / 2 + 0.05:
            raise self.misplaced(f"{apart:.1f} mm from the nearest slice", stack=stack)
        return index

    def misplaced(self, got: str, *, stack: Stack) -> PatientError:
        """The error of a mask that is not where its phase is."""
        far = self._displaced_mm(stack)
        return self.source.refuse(
            "the mask does not lie on the phase it was drawn on",
            got=f"as many voxels as the phase, but up to {far:.0f} mm away from them" if far else got,
            advice="Its header lost its position: write the phase's into it."
            if far
            else "Check mask_path, mask_phase and the slice.",
        )

    def notes(self, *, on: MaskPlane, stack: Stack) -> list[str]:
        """What to look at in a lesion's mask.

        Args:
            on: the plane that is used.
            stack: the phase that it was drawn on.
        """
        notes = []
        count = max(self._in_space()[1], on.parts)
        if count > 1:
            share = 1 - on.lesion.sum() / on.inside.sum()
            notes.append(
                f"the lesion mask has {count} separate parts, {on.parts} of them on the chosen slice; "
                f"the largest there is used ({share:.0%} of the slice's mask is not in it)"
            )
        if far := self._displaced_mm(stack):
            notes.append(
                f"the mask has as many voxels as its phase, but its header places it up to {far:.0f} mm away"
            )
        return notes

    def _displaced_mm(self, stack: Stack) -> float:
        """How far voxels lie from those of a phase that has as many of them; 0 where that is less than one voxel."""
        if (
            self.lattice is None
            or len(self.lattice[1]) != len(stack)
            or self.lattice[0].shape != stack.grid.shape
        ):
            return 0.0
        grid, heights = self.lattice
        last = np.subtract(grid.shape, 1)
        apart = [
            np.abs(np.subtract(grid.to_mm(pixel), stack.grid.to_mm(pixel))).max() for pixel in ((0, 0), last)
        ]
        far = float(max(*apart, abs(heights[0] - stack.z_mm[0]), abs(heights[-1] - stack.z_mm[-1])))
        return far if far > max(*grid.spacing_mm, self.step_mm) else 0.0

    def _in_space(self) -> tuple[list[np.ndarray], int]:
        """Separate parts in space, numbered from 1: the number at each pixel of each plane, and how many there are.

        Parts with up to two voxels between them are one; so is all of a mask whose planes differ in their grids.
        """
        if any(plane.grid != self.planes[0].grid for plane in self.planes):
            return [plane.inside.astype(np.int32) for plane in self.planes], 1
        shape = self.planes[0].inside.shape
        heights = [round((plane.z_mm - self.planes[0].z_mm) / self.step_mm) for plane in self.planes]
        rows, cols = _box(np.any([plane.inside for plane in self.planes], axis=0))
        volume = np.zeros((heights[-1] + 1, *np.empty(shape, dtype=bool)[rows, cols].shape), dtype=bool)
        for height, plane in zip(heights, self.planes, strict=True):
            volume[height] |= plane.inside[rows, cols]
        numbers, count = _parts(volume)
        return [
            np.where(plane.inside[rows, cols], numbers[height], 0)
            for height, plane in zip(heights, self.planes, strict=True)
        ], count


def _parts(inside: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected parts, numbered from 1 (0 is outside); those with up to two pixels between them are one."""
    neighbours = np.ones((3,) * inside.ndim, dtype=bool)
    grown = ndimage.binary_dilation(np.pad(inside, 1), neighbours)
    numbers = np.empty(grown.shape, dtype=np.int32)
    count = int(np.asarray(ndimage.label(grown, neighbours, output=numbers)))
    return np.where(inside, numbers[(slice(1, -1),) * inside.ndim], 0), count


def _box(inside: np.ndarray) -> tuple[slice, slice]:
    """The bounding box; all of it where there is nothing inside."""
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return slice(None), slice(None)
    return slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
