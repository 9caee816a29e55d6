"""Masks of lesion or liver: DICOM SEG, NIfTI or NRRD, plane by plane, wherever they lie.

A mask is matched to slices by position, never by order: exports store slices both ways.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset
from scipy import ndimage

from stic_client.ingest import dicom, elements, nrrd
from stic_client.ingest.kinds import SEGMENTATION
from stic_client.ingest.manifest import MaskType
from stic_client.ingest.source import Source, quiet
from stic_client.ingest.stack import Stack
from stic_client.ingest.stored import Volume, turned
from stic_client.ingest.volumes import read_volume
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
        """The plane on which one part has the largest area."""
        return max(self.planes, key=lambda plane: plane.area_mm2)

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
            raise self.misplaced(f"{apart:.1f} mm from the nearest slice")
        return index

    def misplaced(self, got: str) -> PatientError:
        """The error of a mask that is not where its phase is."""
        return self.source.refuse(
            "the mask does not lie on the phase it was drawn on",
            got=got,
            advice="Check mask_path and mask_phase.",
        )

    def notes(self, *, on: MaskPlane, stack: Stack) -> list[str]:
        """What to look at in a lesion's mask.

        Args:
            on: the plane that is used.
            stack: the phase that it was drawn on.
        """
        notes = []
        count = max(self._lesions(), on.parts)
        if count > 1:
            share = 1 - on.lesion.sum() / on.inside.sum()
            notes.append(
                f"the lesion mask has {count} separate parts, {on.parts} of them on the chosen slice; "
                f"the largest there is used ({share:.0%} of the slice's mask is not in it)"
            )
        if self.lattice is not None and len(stack) == len(self.lattice[1]) > 1:
            grid, heights = self.lattice
            apart = np.abs(np.subtract(grid.origin_mm, stack.grid.origin_mm)).max()
            unlike = np.abs(np.subtract(grid.spacing_mm, stack.grid.spacing_mm)).max() * max(grid.shape)
            far = max(apart, unlike, abs(heights[0] - stack.z_mm[0]), abs(heights[-1] - stack.z_mm[-1]))
            if grid.shape == stack.grid.shape and far > max(*grid.spacing_mm, self.step_mm):
                notes.append(
                    f"the mask has as many voxels as its phase, but its header places it up to {far:.0f} mm away"
                )
        return notes

    def _lesions(self) -> int:
        """Separate parts in space; parts with up to two voxels between them are one."""
        if any(plane.grid != self.planes[0].grid for plane in self.planes):
            return 1
        shape = self.planes[0].inside.shape
        heights = [round((plane.z_mm - self.planes[0].z_mm) / self.step_mm) for plane in self.planes]
        rows, cols = _box(np.any([plane.inside for plane in self.planes], axis=0))
        volume = np.zeros((heights[-1] + 1, *np.empty(shape, dtype=bool)[rows, cols].shape), dtype=bool)
        for height, plane in zip(heights, self.planes, strict=True):
            volume[height] |= plane.inside[rows, cols]
        return _parts(volume)[1]


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


def read_mask(source: Source, *, kind: MaskType, label: str = "") -> Mask:
    """Read a mask.

    Args:
        label: which segment (number or label) or voxel value; may be "" where there is one.

    Raises:
        PatientError: not such a file, another label, or nothing inside.
    """
    mask = _read_seg(source, label=label) if kind == "seg" else _read_voxels(source, kind, label=label)
    planes = tuple(sorted(mask.planes, key=lambda plane: plane.z_mm))
    if not planes:
        raise source.refuse("the mask is empty", advice="Check mask_path and mask_label.")
    return replace(mask, planes=planes)


def _read_voxels(source: Source, kind: MaskType, *, label: str) -> Mask:
    if kind == "nifti":
        volume, inside = _chosen(read_volume(source), source=source, label=label)
    else:
        volume, inside = _read_nrrd(source, label=label)
    step = volume.z_mm[1] - volume.z_mm[0] if len(volume.z_mm) > 1 else 1.0
    return Mask(
        source,
        tuple(
            MaskPlane.of(z, plane, volume.grid)
            for z, plane in zip(volume.z_mm, inside, strict=True)
            if plane.any()
        ),
        step,
        lattice=(volume.grid, volume.z_mm),
    )


def _read_nrrd(source: Source, *, label: str) -> tuple[Volume, np.ndarray]:
    """The volume and what is inside of the segment or value that the manifest means."""
    if not source.path.is_file():
        raise source.refuse("it is a folder", expected="a nrrd file")
    file = nrrd.read_file(source)
    named = [one for one in file.segments if label.strip().lower() in one.names]
    if not named and label.isdecimal():
        named = [one for one in file.segments if one.value == int(label)]
    if not label:
        named = list(file.segments)
    if len(named) == 1:
        volume = turned(file.layers[named[0].layer], source=source)
        return volume, volume.values == named[0].value
    if len(file.layers) > 1 or (file.segments and not label.isdecimal()):
        raise source.refuse(
            "the segmentation has several segments" if named else "the segmentation has no such segment",
            got=f"{len(named)} of {len(file.segments)} segments",
            expected="mask_label: a segment's name, or a label value that no other segment has",
            advice="Correct mask_label.",
        )
    layer = next(iter(file.layers))
    return _chosen(turned(layer, source=source), source=source, label=label)


def _chosen(volume: Volume, *, source: Source, label: str) -> tuple[Volume, np.ndarray]:
    """What is inside of the value that the manifest means."""
    meant = volume.scaled(volume.values)
    if meant.dtype.kind == "f":  # outside of a field of view there may be no value
        meant = np.where(np.isfinite(meant), meant, 0)
    values = [int(value) if float(value).is_integer() else None for value in np.unique(meant)]
    if None in values or len(values) > 256:
        raise source.refuse("it is not a mask", expected="whole numbers, at most 256 different ones")
    there = [value for value in values if value]
    if label:
        if not label.isdecimal() or int(label) not in there:
            raise source.refuse(
                "the mask has no such label", expected=f"one of {there[:8]}", advice="Correct mask_label."
            )
        return volume, meant == int(label)
    if len(there) > 1:
        raise source.refuse(
            "the mask has several labels",
            got=len(there),
            expected="mask_label",
            advice="Say which one to use.",
        )
    return volume, meant != 0


def _read_seg(source: Source, *, label: str) -> Mask:
    dataset = elements.open_dataset(source, pixels=True)
    if elements.text(dataset, "SOPClassUID") not in SEGMENTATION:
        raise source.refuse("it is not a DICOM segmentation", expected="Segmentation Storage")
    number, words = _segment(dataset, source=source, label=label)
    shared = elements.first(dataset, "SharedFunctionalGroupsSequence") or Dataset()
    frames = list(elements.items(dataset, "PerFrameFunctionalGroupsSequence"))
    stored = _frames(dataset, count=len(frames), source=source)
    labelmap = elements.text(dataset, "SegmentationType") == "LABELMAP"
    # Half of the full scale for probabilities and occupancies; a binary mask has a scale of 1.
    scale = elements.numbers(dataset, "MaximumFractionalValue", count=1) or (1.0,)
    planes, heights = [], []
    for own, pixels in zip(frames, stored, strict=True):

        def group(keyword: str, own: Dataset = own) -> Dataset:
            return elements.first(own, keyword) or elements.first(shared, keyword) or Dataset()

        orientation = elements.numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", count=6)
        measures = group("PixelMeasuresSequence")
        spacing = elements.numbers(measures, "PixelSpacing", count=2)
        position = elements.numbers(group("PlanePositionSequence"), "ImagePositionPatient", count=3)
        flip = dicom.check_plane(orientation, spacing, source=source)
        if position is None or orientation is None or spacing is None:
            raise source.refuse("a frame's position is missing", expected="PlanePosition")
        heights.append(position[2])
        of = elements.numbers(group("SegmentIdentificationSequence"), "ReferencedSegmentNumber", count=1)
        if not labelmap and (of is None or int(of[0]) != number):
            continue
        inside = pixels == number if labelmap else pixels >= scale[0] / 2
        grid = dicom.plane_grid(
            (pixels.shape[0], pixels.shape[1]),
            spacing=spacing,
            position=position,
            orientation=orientation,
            flip=flip,
        )
        if inside.any():
            planes.append(MaskPlane.of(position[2], dicom.flipped(inside, flip=flip), grid))
    between = np.diff(np.unique(np.round(heights, 3)))
    thickness = elements.numbers(
        elements.first(shared, "PixelMeasuresSequence") or Dataset(), "SliceThickness", count=1
    )
    step = float(between.min()) if len(between) else (thickness[0] if thickness else 1.0)
    is_liver = "LIVER" in words and not any(word in words for word in ("LESION", "TUMO", "MASS", "NODULE"))
    return Mask(source, tuple(planes), step, is_liver)


def _segment(dataset: Dataset, *, source: Source, label: str) -> tuple[int, str]:
    """The segment that the manifest means: its number, and its label for comparing."""
    segments = {}
    for item in elements.items(dataset, "SegmentSequence"):
        number = elements.numbers(item, "SegmentNumber", count=1)
        if number is not None and number[0] > 0:  # 0 is the background of a LABELMAP
            segments[int(number[0])] = elements.text(item, "SegmentLabel")
    chosen = [
        number
        for number, words in segments.items()
        if not label or label == str(number) or label.strip().upper() == words
    ]
    if len(chosen) != 1:
        raise source.refuse(
            "the segmentation has no such segment" if label else "the segmentation has several segments",
            got=f"{len(chosen)} of {len(segments)} segments",
            expected="mask_label: a segment's number or label",
            advice="Correct mask_label.",
        )
    return chosen[0], segments[chosen[0]]


def _frames(dataset: Dataset, *, count: int, source: Source) -> np.ndarray:
    """Stored values, (frames, rows, columns).

    Raises:
        PatientError: another number of frames than groups, or data cut short.
    """
    sizes = [
        elements.numbers(dataset, key, count=1)
        for key in ("NumberOfFrames", "Rows", "Columns", "BitsAllocated")
    ]
    if None in sizes or count < 1 or int(sizes[0][0]) != count:  # pyright: ignore[reportOptionalSubscript]
        raise source.refuse("its frames and their functional groups differ in number")
    frames, rows, cols, bits = (int(size[0]) for size in sizes if size is not None)
    data = elements.value(dataset, "PixelData")
    if not isinstance(data, bytes) or not (1 <= rows <= 4096 and 1 <= cols <= 4096) or bits not in (1, 8, 16):
        raise source.refuse("pixel data of the segmentation cannot be used")
    if bits == 1 and not dataset.file_meta.TransferSyntaxUID.is_compressed:
        expected = (frames * rows * cols + 7) // 8
        if len(data) < expected:
            raise source.refuse("the segmentation is cut short", got=f"{len(data)} bytes", expected=expected)
        unpacked = np.unpackbits(np.frombuffer(data, np.uint8, expected), bitorder="little")
        return unpacked[: frames * rows * cols].reshape(frames, rows, cols)
    try:
        with quiet():
            return np.asarray(dataset.pixel_array).reshape(frames, rows, cols)
    except Exception as error:  # noqa: BLE001 - decoders raise almost anything on broken streams
        raise source.unreadable("a segmentation", error) from None
