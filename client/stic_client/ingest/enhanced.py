"""Layout `dicom_enhanced`: multi-frame CT, whose slope, position and time are in functional groups.

pydicom's `apply_rescale` looks at the top of the file only and returns raw values here.
"""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from stic_client.ingest import dicom, elements
from stic_client.ingest.hounsfield import check_hu
from stic_client.ingest.series import Plane, assemble
from stic_client.ingest.source import Source
from stic_client.ingest.stack import Stack
from stic_core.tensors.array_types import HUSlice

MAX_FRAMES = 5_000


def read_enhanced(source: Source, *, phases: int) -> list[Stack]:
    """The phases that one enhanced CT file holds, in the order of time.

    Args:
        phases: how many phases of the manifest's row name this file.

    Raises:
        PatientError: anything wrong with it.
    """
    if not source.path.is_file():
        raise source.refuse("it is a folder", expected="an enhanced CT file", advice="Name the file in it.")
    dataset = elements.open_dataset(source, pixels=True)
    dicom.check_kind(dataset, source=source)
    if elements.text(dataset, "SOPClassUID") not in dicom.ENHANCED_CT:
        raise source.refuse(
            "it is a classic CT file", expected="enhanced CT", advice="Use layout dicom_series."
        )
    shape = dicom.check_pixels(dataset, source=source)
    count = elements.numbers(dataset, "NumberOfFrames", count=1)
    groups = elements.items(dataset, "PerFrameFunctionalGroupsSequence")
    frames = int(count[0]) if count else 0
    if not 1 <= frames <= MAX_FRAMES or len(groups) != frames:
        raise source.refuse(
            "its frames and their functional groups differ in number", advice="Export it again."
        )
    shared = elements.first(dataset, "SharedFunctionalGroupsSequence") or Dataset()
    stored = dicom.decode(dataset, frames=frames, source=source)

    planes = []
    for number, own in enumerate(groups):

        def group(keyword: str, own: Dataset = own) -> Dataset:
            """A functional group: the frame's own, else the shared one."""
            return elements.first(own, keyword) or elements.first(shared, keyword) or Dataset()

        # The words that tell a localizer stand here in enhanced files.
        frame_type = elements.text(group("CTImageFrameTypeSequence"), "FrameType")
        if "LOCALIZER" in frame_type:
            raise source.refuse("it is a localizer", expected="axial CT", advice="Name the axial series.")
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
            hu = (stored[number] * slope + intercept).astype(np.float32)
            return check_hu(dicom.flipped(hu, flip=flip), source=source)

        planes.append(
            Plane(
                grid=dicom.plane_grid(
                    shape, spacing=spacing, position=position, orientation=orientation, flip=flip
                ),
                z_mm=position[2],
                position=(position[0], position[1], position[2]),
                flip=flip,
                series="",
                acquisition=elements.text(content, "TemporalPositionIndex")
                or elements.text(content, "FrameAcquisitionNumber"),
                time_s=elements.acquired(time),
                load=load,
            )
        )
    return assemble(
        planes,
        phases=phases,
        source=source,
        study=elements.digest_of(dataset, "StudyInstanceUID"),
        phantom=elements.is_phantom(dataset),
    )
