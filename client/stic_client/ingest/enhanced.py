"""Layout `dicom_enhanced`: multi-frame CT, whose slope, position and time are in functional groups.

pydicom's `apply_rescale` looks at the top of the file only and returns raw values here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydicom.dataset import Dataset

from stic_client.ingest import dicom, elements
from stic_client.ingest.exam import exam_of
from stic_client.ingest.grouping import Plane
from stic_client.ingest.hounsfield import check_unless_empty
from stic_client.ingest.kinds import (
    ENHANCED_CT,
    as_classic,
    check_kind,
    check_reconstruction,
    reconstruction_of,
    sop_class,
)
from stic_client.ingest.pixels import check_pixels, decode, to_hu
from stic_client.ingest.series import assemble
from stic_client.ingest.source import Source
from stic_client.ingest.stack import Stack
from stic_core.tensors.array_types import HUSlice

MAX_FRAMES = 5_000


def read_enhanced(source: Source, *, phases: Sequence[str]) -> list[Stack]:
    """The phases that one enhanced CT file holds.

    Args:
        phases: those of the manifest's row that name this file.

    Returns:
        One stack per phase, in their order.

    Raises:
        PatientError: anything wrong with it.
    """
    if not source.path.is_file():
        raise source.refuse("it is a folder", expected="an enhanced CT file", advice="Name the file in it.")
    dataset = elements.open_dataset(source, pixels=True)
    check_kind(dataset, source=source)
    dicom.check_burned_in(dataset, source=source)
    if sop_class(dataset) not in ENHANCED_CT:
        raise source.refuse(
            "it is a classic CT file", expected="enhanced CT", advice="Use layout dicom_series."
        )
    shape = check_pixels(dataset, source=source)
    count = elements.numbers(dataset, "NumberOfFrames", count=1)
    groups = elements.items(dataset, "PerFrameFunctionalGroupsSequence")
    frames = int(count[0]) if count else 0
    if not 1 <= frames <= MAX_FRAMES or len(groups) != frames:
        raise source.refuse(
            "its frames and their functional groups differ in number", advice="Export it again."
        )
    shared = elements.first(dataset, "SharedFunctionalGroupsSequence") or Dataset()
    stored, padding = decode(dataset, frames=frames, source=source)

    exam = exam_of(dataset)
    planes = []
    for number, own in enumerate(groups):

        def group(keyword: str, own: Dataset = own) -> Dataset:
            """A functional group: the frame's own, else the shared one."""
            return elements.first(own, keyword) or elements.first(shared, keyword) or Dataset()

        about = as_classic(dataset, frame=own)
        check_reconstruction(about, source=source)
        slope, intercept = dicom.rescale(group("PixelValueTransformationSequence"), source=source)
        orientation = elements.numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", count=6)
        spacing = elements.numbers(group("PixelMeasuresSequence"), "PixelSpacing", count=2)
        flip = dicom.check_plane(orientation, spacing, source=source)
        position = elements.numbers(group("PlanePositionSequence"), "ImagePositionPatient", count=3)
        if position is None or orientation is None or spacing is None:
            raise source.refuse(
                "a frame's position is missing", expected="PlanePosition", advice="Export it again."
            )
        content = group("FrameContentSequence")
        time = Dataset()
        time.AcquisitionDateTime = (
            elements.value(content, "FrameAcquisitionDateTime")
            or elements.value(content, "FrameReferenceDateTime")
            or elements.value(dataset, "AcquisitionDateTime")
        )

        def load(
            number: int = number,
            slope: float = slope,
            intercept: float = intercept,
            flip: tuple[bool, bool] = flip,
        ) -> HUSlice:
            hu = to_hu(stored[number], padding[number], slope=slope, intercept=intercept)
            return dicom.flipped(check_unless_empty(hu, source=source), flip=flip)

        planes.append(
            Plane(
                grid=dicom.plane_grid(
                    shape, spacing=spacing, position=position, orientation=orientation, flip=flip
                ),
                z_mm=position[2],
                position=(position[0], position[1], position[2]),
                series="",
                acquisition=elements.text(content, "TemporalPositionIndex")
                or elements.text(content, "FrameAcquisitionNumber"),
                time_s=elements.acquired(time),
                exam=replace(exam, reconstruction=reconstruction_of(about)),
                load=load,
                flip=flip,
            )
        )
    return assemble(planes, phases=phases, source=source, phantom=elements.is_phantom(dataset))
