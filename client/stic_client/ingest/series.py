"""Many slices to phases: grouped, sorted, and refused where they do not make one even stack.

An export may hold several phases in one folder, in one series, or in one enhanced file.
Slices are told apart by series, then by acquisition number, then by time; as many groups as
the manifest has phases for this folder must come out, and the earliest is the first phase.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stic_client.ingest.dicom import Header, check_header, read_slice
from stic_client.ingest.elements import open_dataset
from stic_client.ingest.source import Source, files_of
from stic_client.ingest.stack import Stack
from stic_core.data.ct import Grid, Turn
from stic_core.errors import PatientError
from stic_core.tensors.array_types import HUSlice

SAME_Z_MM = 0.01
UNEVEN_MM, UNEVEN_SHARE = 0.05, 0.02
"""Spacing may differ from the median by this much: positions are written with few digits."""
MAX_SHEAR_DEGREES = 2.0

# What exports put beside the slices; anything else that is no DICOM file is a broken one.
_BYSTANDERS = (
    ".txt",
    ".xml",
    ".json",
    ".csv",
    ".pdf",
    ".htm",
    ".html",
    ".jpg",
    ".png",
    ".inf",
    ".exe",
    ".md",
)


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One slice before it is decoded.

    Args:
        position: of the first stored pixel, x y z, mm.
        flip: its rows and columns that were reversed.
        series, acquisition: what groups are told apart by.
    """

    grid: Grid
    z_mm: float
    position: tuple[float, float, float]
    flip: tuple[bool, bool]
    series: str
    acquisition: str
    time_s: float | None
    load: Callable[[], HUSlice]


def read_series(source: Source, *, phases: int) -> list[Stack]:
    """Layout `dicom_series`: the phases that one folder holds, in the order of time.

    Args:
        phases: how many phases of the manifest's row name this folder.

    Raises:
        PatientError: anything that is not that many even stacks of axial CT slices.
    """
    headers: dict[str, list[tuple[Source, Header]]] = defaultdict(list)
    aside: dict[str, list[PatientError]] = defaultdict(list)
    bystanders = 0
    for file in files_of(source):
        name = file.path.name.lower()
        if name == "dicomdir" or name.endswith(_BYSTANDERS):
            bystanders += 1
            continue
        dataset = open_dataset(file, pixels=False)
        series = str(dataset.get("SeriesInstanceUID", ""))
        try:
            header = check_header(dataset, source=file)
            headers[series].append((file, header))
        except PatientError as error:
            aside[series].append(error)
    # A whole series of something else (localizer, dose report, coronal) is no harm beside the
    # phases; one such file among a phase's slices is.
    mixed = next((errors[0] for series, errors in aside.items() if series in headers), None)
    if mixed is not None:
        raise mixed
    planes = [
        Plane(
            grid=header.grid,
            z_mm=header.z_mm,
            position=header.position,
            flip=header.flip,
            series=header.series,
            acquisition=header.acquisition,
            time_s=header.time_s,
            load=lambda file=file: read_slice(file)[1],
        )
        for found in headers.values()
        for file, header in found
    ]
    if not planes or (aside and len(headers) < phases and not _has_repeats(planes)):
        raise next(iter(aside.values()))[0] if aside else source.refuse("there is no CT slice in the folder")
    every = [header for found in headers.values() for _, header in found]
    warnings = {text for header in every for text in header.warnings}
    if aside:
        warnings.add(f"{sum(map(len, aside.values()))} files of other series in the folder were ignored")
    if bystanders:
        warnings.add(f"{bystanders} files in the folder are not images")
    return assemble(
        planes,
        phases=phases,
        source=source,
        study=every[0].study,
        phantom=any(header.phantom for header in every),
        warnings=tuple(sorted(warnings)),
    )


def assemble(
    planes: Sequence[Plane],
    *,
    phases: int,
    source: Source,
    study: str = "",
    phantom: bool = False,
    warnings: tuple[str, ...] = (),
) -> list[Stack]:
    """Group slices into phases and stack each.

    Raises:
        PatientError: another number of groups, no order in time, or a stack that is not even.
    """
    by_series: dict[str, list[Plane]] = defaultdict(list)
    for plane in planes:
        by_series[plane.series].append(plane)
    groups = [group for found in by_series.values() for group in _without_repeats(found, source=source)]
    if len(groups) != phases:
        raise source.refuse(
            "the number of series differs from the number of phases that name this path",
            got=len(groups),
            expected=phases,
            advice="Keep one series per phase, or name a folder for each phase; "
            "stic-client --site S prepare --scan DIR shows what is there.",
        )
    timed = [(_start(group), group) for group in groups]
    if phases > 1:
        starts = [start for start, _ in timed]
        if None in starts or len(set(starts)) < phases:
            raise source.refuse(
                "several phases share one path, and their times do not tell them apart",
                expected="different acquisition times",
                advice="Put each phase into a folder of its own.",
            )
        timed.sort(key=lambda pair: pair[0] or 0.0)
    return [
        _stack(group, time_s=start, source=source, study=study, phantom=phantom, warnings=warnings)
        for start, group in timed
    ]


def _start(group: Sequence[Plane]) -> float | None:
    times = [plane.time_s for plane in group if plane.time_s is not None]
    return min(times) if times else None


def _has_repeats(planes: Sequence[Plane]) -> bool:
    heights = np.sort([plane.z_mm for plane in planes])
    return bool(np.any(np.diff(heights) < SAME_Z_MM))


def _without_repeats(planes: list[Plane], *, source: Source) -> list[list[Plane]]:
    """One series as groups in which no height comes twice.

    Raises:
        PatientError: heights come twice, and neither acquisition number nor time tells why.
    """
    if not _has_repeats(planes):
        return [planes]
    by_number: dict[str, list[Plane]] = defaultdict(list)
    for plane in planes:
        by_number[plane.acquisition].append(plane)
    if len(by_number) > 1 and not any(_has_repeats(group) for group in by_number.values()):
        return list(by_number.values())
    if all(plane.time_s is not None for plane in planes):
        by_height: list[list[Plane]] = []
        for plane in sorted(planes, key=lambda plane: plane.z_mm):
            if by_height and plane.z_mm - by_height[-1][-1].z_mm < SAME_Z_MM:
                by_height[-1].append(plane)
            else:
                by_height.append([plane])
        count = len(by_height[0])
        if all(len(same) == count for same in by_height):
            ordered = [sorted(same, key=lambda plane: plane.time_s or 0.0) for same in by_height]
            groups = [[same[number] for same in ordered] for number in range(count)]
            ends = [max(plane.time_s or 0.0 for plane in group) for group in groups]
            if all((_start(after) or 0.0) > end for after, end in zip(groups[1:], ends, strict=False)):
                return groups
    raise source.refuse(
        "several slices at the same height",
        got=f"{len(planes)} slices",
        expected="each height once, or acquisition numbers or times that tell phases apart",
        advice="Remove copies, and put each phase into a folder of its own.",
    )


def _stack(
    planes: list[Plane],
    *,
    time_s: float | None,
    source: Source,
    study: str,
    phantom: bool,
    warnings: tuple[str, ...],
) -> Stack:
    """One phase.

    Raises:
        PatientError: slices of different grids, sheared, or unevenly spaced.
    """
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
        study=study,
        phantom=phantom,
        turn=Turn(rows=planes[0].flip[0], cols=planes[0].flip[1]),
        warnings=warnings,
    )
