"""Layout `dicom_series`: a folder to the phases in it, each an even stack of axial slices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stic_client.ingest.dicom import Header, check_header, read_slice
from stic_client.ingest.elements import open_if_dicom, text
from stic_client.ingest.exam import exam_digest
from stic_client.ingest.grouping import Plane, group_phases, start_of
from stic_client.ingest.kinds import check_kind
from stic_client.ingest.source import Source, files_of
from stic_client.ingest.stack import Stack
from stic_core.data.ct import Turn
from stic_core.errors import PatientError

UNEVEN_MM, UNEVEN_SHARE = 0.05, 0.02
"""Spacing may differ from the median by this much: positions are written with few digits."""
MAX_SHEAR_DEGREES = 2.0

_SLICE_ENDINGS = (".dcm", ".ima", ".dicom", ".dic")


def read_series(source: Source, *, phases: Sequence[str]) -> list[Stack]:
    """The phases that one folder holds.

    What is no CT slice is passed over and counted: a localizer, a report, a segmentation, and
    files that are no DICOM at all, unless their name says that they were a slice.

    Args:
        phases: those of the manifest's row that name this folder.

    Returns:
        One stack per phase, in their order.

    Raises:
        PatientError: anything that is not that many even stacks of axial CT slices.
    """
    folder = _look_through(source)
    found = folder.slices
    _check_strangers(folder.strangers, slices=[file for file, _ in found])
    used = {header.series for _, header in found}
    # A whole series that cannot be used is no harm beside the phases; one such slice of a phase is, and so is
    # one that does not say its series: it was cut short.
    mixed = next((error for series, error in folder.faults if series in used or (used and not series)), None)
    if mixed is not None:
        raise mixed
    if not found:
        raise _most_common([error for _, error in folder.faults] or folder.foreign, source=source)
    planes = [
        Plane(
            grid=header.grid,
            z_mm=header.z_mm,
            position=header.position,
            series=header.series,
            acquisition=header.acquisition,
            time_s=header.time_s,
            exam=header.exam,
            load=lambda file=file: read_slice(file)[1],
            flip=header.flip,
            instance=header.instance,
            number=header.number,
            warnings=header.warnings,
        )
        for file, header in found
    ]
    warnings = []
    if passed := len(folder.foreign) + len(folder.faults):
        warnings.append(f"DICOM files in the folder that are no slices of a phase, ignored: {passed}")
    if folder.strangers:
        warnings.append(f"files in the folder that are not DICOM, ignored: {len(folder.strangers)}")
    try:
        return assemble(
            planes,
            phases=phases,
            source=source,
            phantom=any(header.phantom for _, header in found),
            warnings=tuple(warnings),
        )
    except PatientError:
        # Fewer series than phases, since one of them cannot be used: why it cannot is the reason.
        if folder.faults and len(used) < len(phases):
            raise folder.faults[0][1] from None
        raise


@dataclass(frozen=True, slots=True)
class _Folder:
    """What lies in a folder.

    Args:
        slices: of any series.
        faults: slices that cannot be used, with their series.
        foreign: DICOM objects that are no CT slices.
        strangers: files that are no DICOM.
    """

    slices: list[tuple[Source, Header]] = field(default_factory=list)
    faults: list[tuple[str, PatientError]] = field(default_factory=list)
    foreign: list[PatientError] = field(default_factory=list)
    strangers: list[Source] = field(default_factory=list)


def _look_through(source: Source) -> _Folder:
    folder = _Folder()
    for file in files_of(source):
        dataset = None if file.path.name.lower() == "dicomdir" else open_if_dicom(file, pixels=False)
        # A directory of files, or one that was cut short within its header.
        if dataset is None or not (text(dataset, "SOPClassUID") or text(dataset, "SeriesInstanceUID")):
            folder.strangers.append(file)
            continue
        try:
            check_kind(dataset, source=file)
        except PatientError as error:
            folder.foreign.append(error)
            continue
        try:
            folder.slices.append((file, check_header(dataset, source=file)))
        except PatientError as error:
            folder.faults.append((text(dataset, "SeriesInstanceUID"), error))
    return folder


def _check_strangers(strangers: Sequence[Source], *, slices: Sequence[Source]) -> None:
    """Refuse a file that is no DICOM and is called as the slices are: it was one, before a transfer broke it."""

    def shape(file: Source) -> str:
        return re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", file.path.name.lower())

    shapes = {shape(file) for file in slices}
    for file in strangers:
        if file.path.name.lower().endswith(_SLICE_ENDINGS) or shape(file) in shapes:
            raise file.refuse(
                "it is not a DICOM file, and its name is that of a slice",
                expected="a DICOM object",
                advice="Transfer it again, or remove it if it belongs elsewhere.",
            )


def _most_common(errors: Sequence[PatientError], *, source: Source) -> PatientError:
    """Why nothing in the folder can be used: the first error of the most frequent kind."""
    if not errors:
        return source.refuse("there is no CT slice in the folder")
    kind = Counter(error.what for error in errors).most_common(1)[0][0]
    return next(error for error in errors if error.what == kind)


def assemble(
    planes: Sequence[Plane],
    *,
    phases: Sequence[str],
    source: Source,
    phantom: bool = False,
    warnings: tuple[str, ...] = (),
) -> list[Stack]:
    """Group slices into phases and stack each.

    Raises:
        PatientError: another number of groups, no order among them, or a stack that is not even.
    """
    groups, left_out = group_phases(planes, phases=phases, source=source)
    return [
        _stack(group, source=source, phantom=phantom, warnings=(*warnings, *left_out)) for group in groups
    ]


def _stack(planes: list[Plane], *, source: Source, phantom: bool, warnings: tuple[str, ...]) -> Stack:
    """One phase.

    Raises:
        PatientError: slices of two patients or of different grids, sheared, or unevenly spaced.
    """
    time_s, exam = start_of(planes), planes[0].exam
    if len({plane.exam.patient for plane in planes} - {""}) > 1:
        raise source.refuse(
            "slices of one series belong to different patients",
            expected="one PatientID",
            advice="Export the phase again, alone in its folder.",
        )
    planes = sorted(planes, key=lambda plane: plane.z_mm)
    grid = planes[0].grid
    for plane in planes[1:]:
        if plane.grid.shape != grid.shape or not np.allclose(
            plane.grid.spacing_mm, grid.spacing_mm, atol=1e-4
        ):
            raise source.refuse(
                "slices of one series have different sizes",
                expected="one grid",
                advice="Export one reconstruction.",
            )
    heights = np.array([plane.z_mm for plane in planes])
    if len(planes) > 1:
        steps = np.diff(heights)
        usual = float(np.median(steps))
        worst = float(np.abs(steps - usual).max())
        if worst > UNEVEN_MM + UNEVEN_SHARE * usual:
            raise source.refuse(
                "slices are not evenly spaced",
                got=f"{steps.min():.2f} to {steps.max():.2f} mm",
                expected=f"{usual:.2f} mm throughout",
                advice="A slice is missing, or two reconstructions are mixed: export the series again.",
            )
        way = np.array(planes[-1].position) - np.array(planes[0].position)
        shear = float(np.degrees(np.arctan2(np.hypot(way[0], way[1]), abs(way[2]))))
        if shear > MAX_SHEAR_DEGREES:
            raise source.refuse(
                "the stack is sheared: the gantry was tilted",
                got=f"{shear:.1f} degrees",
                expected=f"at most {MAX_SHEAR_DEGREES:.0f} degrees",
                advice="Export the axial reconstruction without gantry tilt.",
            )
    return Stack(
        source=source,
        grid=grid,
        z_mm=tuple(heights.tolist()),
        load=lambda index: planes[index].load(),
        time_s=time_s,
        study=exam_digest(exam),
        phantom=phantom,
        exam=exam,
        turn=Turn(rows=planes[0].flip[0], cols=planes[0].flip[1]),
        warnings=(*warnings, *sorted({text for plane in planes for text in plane.warnings})),
    )
