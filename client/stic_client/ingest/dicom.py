"""One classic CT image file: what must hold of its header, and its pixels in HU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from stic_client.ingest.elements import acquired, is_phantom, numbers, open_dataset, text, value
from stic_client.ingest.exam import Exam, exam_digest, exam_of
from stic_client.ingest.hounsfield import check_unless_empty
from stic_client.ingest.kinds import CT, ENHANCED_CT, UNSPECIFIED, check_kind, is_computed, sop_class
from stic_client.ingest.pixels import check_pixels, decode, to_hu
from stic_client.ingest.source import Source
from stic_client.ingest.stack import Stack
from stic_core.data.ct import Grid, Turn
from stic_core.tensors.array_types import HUSlice

MAX_TILT_DEGREES = 2.0
_SPACINGS_MM = (0.1, 5.0)


@dataclass(frozen=True, slots=True)
class Header:
    """What the reader needs of a classic CT header, checked.

    Args:
        grid: after flipping to the standard orientation.
        flip: rows, columns: which axes of the stored image run the other way.
        z_mm: patient z.
        position: ImagePositionPatient, x y z, mm.
        series, acquisition: what tells groups of slices apart; they stay in memory.
        instance, number: SOPInstanceUID and InstanceNumber; they stay in memory too.
        time_s: acquisition, or content, or series time.
        exam: whose slice it is, and of what kind.
    """

    grid: Grid
    flip: tuple[bool, bool]
    z_mm: float
    position: tuple[float, float, float]
    series: str
    acquisition: str
    instance: str
    number: float | None
    time_s: float | None
    exam: Exam
    phantom: bool
    warnings: tuple[str, ...]


def check_burned_in(dataset: Dataset, *, source: Source) -> None:
    """Refuse an image with text in its pixels.

    Raises:
        PatientError: the header says so.
    """
    if text(dataset, "BurnedInAnnotation") == "YES":
        raise source.refuse(
            "text is burned into the image",
            got="BurnedInAnnotation YES",
            expected="NO",
            advice="Export the original series: burned-in text may identify the patient.",
        )


def check_plane(
    orientation: Sequence[float] | None, spacing: Sequence[float] | None, *, source: Source
) -> tuple[bool, bool]:
    """Refuse a plane that is not axial, or pixels without a size.

    Args:
        orientation: ImageOrientationPatient.
        spacing: PixelSpacing.

    Returns:
        Whether rows, and whether columns, run against the standard direction.

    Raises:
        PatientError: missing, not axial, or tilted by more than 2 degrees.
    """
    if orientation is None or len(orientation) != 6:
        raise source.refuse(
            "orientation is missing", expected="ImageOrientationPatient", advice="Export it again."
        )
    if spacing is None or not all(_SPACINGS_MM[0] <= step <= _SPACINGS_MM[1] for step in spacing):
        raise source.refuse(
            "pixel spacing is missing or impossible",
            expected=f"PixelSpacing, {_SPACINGS_MM[0]} to {_SPACINGS_MM[1]} mm",
            advice="Export it again.",
        )
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if max(abs(length - 1) for length in lengths) > 1e-2 or abs(across @ down) > 1e-2:
        raise source.refuse("orientation is not two perpendicular directions", advice="Export it again.")
    tilt = max(
        math.degrees(math.acos(min(1.0, abs(float(direction[axis]) / float(length)))))
        for direction, length, axis in ((across, lengths[0], 0), (down, lengths[1], 1))
    )
    if tilt > MAX_TILT_DEGREES:
        raise source.refuse(
            "the slice is not axial, or is tilted",
            got=f"{tilt:.1f} degrees",
            expected=f"at most {MAX_TILT_DEGREES:.0f} degrees",
            advice="Export the axial reconstruction without gantry tilt.",
        )
    return bool(down[1] < 0), bool(across[0] < 0)


def plane_grid(
    shape: tuple[int, int],
    *,
    spacing: Sequence[float],
    position: Sequence[float],
    orientation: Sequence[float],
    flip: tuple[bool, bool],
) -> Grid:
    """The grid of a slice once it is flipped to the standard orientation."""
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    first = np.array(position, dtype=np.float64)
    first = first + (down * spacing[0] * (shape[0] - 1) if flip[0] else 0)
    first = first + (across * spacing[1] * (shape[1] - 1) if flip[1] else 0)
    return Grid(shape, (float(spacing[0]), float(spacing[1])), (float(first[1]), float(first[0])))


def rescale(dataset: Dataset, *, source: Source) -> tuple[float, float]:
    """Slope and intercept.

    Raises:
        PatientError: either is missing, or the result is not HU.
    """
    slope, intercept = (numbers(dataset, key, count=1) for key in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None or slope[0] <= 0:
        raise source.refuse(
            "no slope or intercept: stored values are not HU",
            got="nothing" if slope is None or intercept is None else "a slope that is not above 0",
            expected="RescaleSlope and RescaleIntercept",
            advice="Export the original CT series.",
        )
    kind = text(dataset, "RescaleType")
    # Of an original image the unit is known; maps of blood flow are computed, and enhanced frames name theirs.
    unsaid = kind == UNSPECIFIED and sop_class(dataset) == CT and not is_computed(dataset)
    if kind not in {"", "HU"} and not unsaid:
        raise source.refuse(
            "unsupported rescale type", got="another value", expected="HU", advice="Export the CT in HU."
        )
    return slope[0], intercept[0]


def check_header(dataset: Dataset, *, source: Source) -> Header:
    """Everything that must hold of a classic CT slice, short of its pixels.

    Raises:
        PatientError: anything that docs/data.md says is refused.
    """
    check_kind(dataset, source=source)
    check_burned_in(dataset, source=source)
    if sop_class(dataset) in ENHANCED_CT:
        raise source.refuse(
            "it is an enhanced CT file", expected="classic CT", advice="Use layout dicom_enhanced."
        )
    shape = check_pixels(dataset, source=source)
    orientation = numbers(dataset, "ImageOrientationPatient", count=6)
    spacing = numbers(dataset, "PixelSpacing", count=2)
    flip = check_plane(orientation, spacing, source=source)
    tilt = numbers(dataset, "GantryDetectorTilt", count=1)
    if tilt is not None and abs(tilt[0]) > MAX_TILT_DEGREES:
        raise source.refuse(
            "the gantry is tilted",
            got=f"{tilt[0]:.1f} degrees",
            expected=f"at most {MAX_TILT_DEGREES:.0f} degrees",
            advice="Export the axial reconstruction without gantry tilt.",
        )
    position = numbers(dataset, "ImagePositionPatient", count=3)
    if position is None or max(map(abs, position)) > 5_000:
        raise source.refuse(
            "position is missing or impossible", expected="ImagePositionPatient", advice="Export it again."
        )
    rescale(dataset, source=source)
    assert orientation is not None and spacing is not None  # noqa: PT018 - check_plane refused them
    lossy = text(dataset, "LossyImageCompression") == "01"
    number = numbers(dataset, "InstanceNumber", count=1)
    return Header(
        grid=plane_grid(shape, spacing=spacing, position=position, orientation=orientation, flip=flip),
        flip=flip,
        z_mm=position[2],
        position=(position[0], position[1], position[2]),
        series=text(dataset, "SeriesInstanceUID"),
        acquisition=text(dataset, "AcquisitionNumber"),
        instance=text(dataset, "SOPInstanceUID"),
        number=number[0] if number else None,
        time_s=acquired(dataset),
        exam=exam_of(dataset),
        phantom=is_phantom(dataset),
        warnings=("the images went through lossy compression",) if lossy else (),
    )


def read_slice(source: Source) -> tuple[Header, HUSlice]:
    """One classic CT file, checked, in HU and the standard orientation.

    Raises:
        PatientError: anything wrong with it.
    """
    dataset = open_dataset(source, pixels=True)
    header = check_header(dataset, source=source)
    slope, intercept = rescale(dataset, source=source)
    frames = value(dataset, "NumberOfFrames")
    if frames not in (None, 1):
        raise source.refuse(
            "a classic CT file with several frames", expected="1 frame", advice="Export it again."
        )
    stored, padding = decode(dataset, frames=1, source=source)
    hu = to_hu(stored[0], padding[0], slope=slope, intercept=intercept)
    return header, flipped(check_unless_empty(hu, source=source), flip=header.flip)


def flipped(hu: HUSlice, *, flip: tuple[bool, bool]) -> HUSlice:
    """The slice with the axes reversed that run against the standard direction."""
    return np.ascontiguousarray(hu[:: -1 if flip[0] else 1, :: -1 if flip[1] else 1])


def read_single(source: Source) -> Stack:
    """Layout `dicom_slices`: a phase in one file.

    Raises:
        PatientError: anything wrong with it.
    """
    if not source.path.is_file():
        raise source.refuse(
            "it is a folder", expected="one file per phase", advice="Use layout dicom_series."
        )
    header, hu = read_slice(source)
    return Stack(
        source=source,
        grid=header.grid,
        z_mm=(header.z_mm,),
        load=lambda _: hu,
        time_s=header.time_s,
        study=exam_digest(header.exam),
        phantom=header.phantom,
        exam=header.exam,
        turn=Turn(rows=header.flip[0], cols=header.flip[1]),
        warnings=header.warnings,
    )
