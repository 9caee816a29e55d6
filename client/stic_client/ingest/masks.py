"""Masks of lesion or liver from files: DICOM SEG, NIfTI or NRRD, wherever they lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset

from stic_client.ingest import dicom, elements, nrrd
from stic_client.ingest.kinds import SEGMENTATION
from stic_client.ingest.manifest import MaskType
from stic_client.ingest.mask_planes import Mask, MaskPlane
from stic_client.ingest.source import Source, quiet
from stic_client.ingest.stored import Volume, turned
from stic_client.ingest.volumes import read_volume


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
    there = [value for value in values if value is not None and value > 0]
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
    return volume, meant > 0


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
