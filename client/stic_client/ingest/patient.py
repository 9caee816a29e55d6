"""One row of the manifest to one prepared image: read, align, crop, window, resize."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stic_client.ingest.align import Aligned, align
from stic_client.ingest.belonging import check_belonging
from stic_client.ingest.dicom import read_single
from stic_client.ingest.elements import comparable, date_of
from stic_client.ingest.enhanced import read_enhanced
from stic_client.ingest.hounsfield import check_hu
from stic_client.ingest.manifest import PICTURES, PatientRow
from stic_client.ingest.mask_planes import Mask, MaskPlane
from stic_client.ingest.masks import read_mask
from stic_client.ingest.pictures import read_grey, read_rgb
from stic_client.ingest.series import read_series
from stic_client.ingest.source import Source, locate
from stic_client.ingest.stack import Stack
from stic_client.ingest.views import Placement, WholeSlices, png_of
from stic_client.ingest.volumes import read_nifti
from stic_core.config import ImageConfig
from stic_core.data.ct import AIR_HU, IMAGE_SIZE, PHASES, crop, resize, window
from stic_core.errors import PatientError
from stic_core.tensors.array_types import HUSlice, PhaseImages

MAX_APART_MM = 20.0
"""Single slices of two phases that lie farther apart than this are warned of."""

MIN_ENHANCEMENT_HU = 15.0
"""A liver gains more than this from non-contrast to portal venous, or phases are swapped."""

LESION_HU = (-150.0, 350.0)
"""A lesion's median lies in here unless its mask or position lies elsewhere."""

SQUARE = 1.02
"""Pixels whose sides differ by no more than this factor are square."""

AROUND_MM = 5.0
"""Radius around a position within which its tissue is judged."""

APART_FROM_MASK_MM = 20.0
"""A position farther than this from the lesion's mask contradicts it."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPatient:
    """What becomes of one patient.

    Args:
        image: (1, 224, 224, 3).
        digests: one a phase, over the chosen slice's values, and one of the study's UID; two
            patients who share one are the same patient. They stay in the dataset's folder.
        phantom: the files say that no patient stands behind them.
        place_known: the lesion's place and the pixels' size are known (a crop needs them).
        rejected: phases whose registration was rejected, with the reason.
        warnings: what an engineer should look at.
        placement: of the image.
        whole: the uncropped slices, where they were asked for.
        examined: when the non-contrast phase was acquired, where its files have a date.
    """

    image: PhaseImages
    digests: tuple[str, ...]
    phantom: bool
    place_known: bool
    rejected: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    placement: Placement = field(default_factory=Placement)
    whole: WholeSlices | None = None
    examined: dt.date | None = None


def prepare_patient(
    row: PatientRow,
    *,
    root: Path,
    image: ImageConfig,
    checkerboards: Path | None = None,
    keep_whole: bool = False,
) -> PreparedPatient:
    """Everything from a patient's files to the model's image.

    Args:
        root: of the dataset, resolved.
        checkerboards: folder for a PNG a registered phase, NC and that phase in turn.
        keep_whole: also keep the uncropped slices.

    Raises:
        PatientError: the patient cannot be used.
    """
    stacks = open_phases(row, root=root)
    mask, liver = _masks(row, root=root)
    seg = row.mask_path if row.mask_type == "seg" else ""
    segmentation = locate(seg, subject=row.subject, root=root) if seg else None
    warnings = compare_phases(stacks, row=row) + check_belonging(
        stacks, segmentation=segmentation, clinical=row.clinical
    )
    aligned = align(stacks, row=row, mask=mask)
    if row.layout not in PICTURES:
        for phase in PHASES:
            check_hu(aligned.raw[phase], source=stacks[phase].source)
    digests = [_digest(aligned.raw[phase]) for phase in PHASES]
    if len(set(digests)) < len(digests):
        raise PatientError(
            "two phases have the same pixels",
            subject=row.subject,
            expected="three different phases",
            advice="Correct the paths of the manifest.",
        )
    if liver is not None:
        warnings += _liver_notes(aligned, liver=liver)
    warnings += _lesion_notes(
        aligned, row=row, mask=mask, stack=stacks[row.mask_phase], crop_mm=image.crop_mm
    )
    if checkerboards:
        for phase in PHASES[1:]:
            path = checkerboards / f"{row.subject}-{phase}.png"
            _save_checkerboard(path, window(aligned.slices["nc"]), window(aligned.slices[phase]))
    known = aligned.place is not None and stacks["nc"].has_geometry
    slices = dict(aligned.slices)
    whole = _placement(aligned, sized=stacks["nc"].has_geometry)
    placement = whole
    if image.crop_mm is not None and known and aligned.place is not None:
        # The square is laid around the lesion, to the pixel.
        placement = Placement((0.5, 0.5), (image.crop_mm, image.crop_mm))
        for phase, hu in slices.items():
            slices[phase] = crop(
                hu, centre=aligned.place, side_mm=image.crop_mm, spacing_mm=aligned.grid.spacing_mm
            )
    grey = _grey(slices)
    return PreparedPatient(
        image=np.stack([resize(grey[..., at]) for at in range(len(PHASES))], axis=-1)[None],
        digests=(*digests, *sorted({stack.study for stack in stacks.values()} - {""})),
        phantom=any(stack.phantom for stack in stacks.values()),
        place_known=known,
        rejected=dict(aligned.rejected),
        warnings=tuple(warnings),
        placement=placement,
        whole=_whole(aligned, placement=whole) if keep_whole else None,
        examined=date_of(stacks["nc"].time_s),
    )


def _whole(aligned: Aligned, *, placement: Placement) -> WholeSlices:
    grey = _grey(aligned.slices)
    return WholeSlices(
        tuple(png_of(grey[..., at]) for at in range(len(PHASES))), aligned.grid.shape, placement
    )


def _placement(aligned: Aligned, *, sized: bool) -> Placement:
    """Of the uncropped slice."""
    shape, spacing = aligned.grid.shape, aligned.grid.spacing_mm
    lesion = None
    if aligned.place is not None:
        # Pixel centres lie at whole numbers, an image's edge half a pixel before the first.
        lesion = ((aligned.place[0] + 0.5) / shape[0], (aligned.place[1] + 0.5) / shape[1])
    return Placement(lesion, (shape[0] * spacing[0], shape[1] * spacing[1]) if sized else None)


def _grey(slices: Mapping[str, HUSlice]) -> np.ndarray:
    # Padding may rescale to -3024 HU: below air there is nothing.
    return np.stack([window(np.maximum(slices[phase], AIR_HU)) for phase in PHASES], axis=-1)


def open_phases(row: PatientRow, *, root: Path) -> dict[str, Stack]:
    """The three phases of any layout.

    Raises:
        PatientError: a path that leaves the root, or anything wrong with the files.
    """
    sources: dict[str, Source] = {
        name: locate(path, subject=row.subject, root=root) for name, path in row.paths.items()
    }
    match row.layout:
        case "rgb_png":
            return read_rgb(sources["rgb"])
        case "png_gray":
            return {phase: read_grey(sources[phase]) for phase in PHASES}
        case "nifti":
            return {phase: read_nifti(sources[phase]) for phase in PHASES}
        case "dicom_slices":
            return {phase: read_single(sources[phase]) for phase in PHASES}
        case "dicom_series" | "dicom_enhanced":
            read = read_series if row.layout == "dicom_series" else read_enhanced
            stacks: dict[str, Stack] = {}
            for phase in PHASES:
                if phase not in stacks:
                    # Phases that name one place come from it together, in the order of time.
                    together = [other for other in PHASES if sources[other].path == sources[phase].path]
                    stacks |= dict(zip(together, read(sources[phase], phases=together), strict=True))
            return stacks


def _masks(row: PatientRow, *, root: Path) -> tuple[Mask | None, Mask | None]:
    """The manifest's mask, and the liver's, which may be the same.

    Raises:
        PatientError: a path that leaves the root, or anything wrong with the files.
    """
    mask = liver = None
    if row.mask_path and row.mask_type is not None:
        mask = read_mask(
            locate(row.mask_path, subject=row.subject, root=root), kind=row.mask_type, label=row.mask_label
        )
        liver = mask if mask.is_liver else None
    if row.liver_mask_path:
        kind = "nrrd" if row.liver_mask_path.lower().endswith(".nrrd") else "nifti"
        liver = read_mask(locate(row.liver_mask_path, subject=row.subject, root=root), kind=kind)
    return mask, liver


def compare_phases(stacks: Mapping[str, Stack], *, row: PatientRow) -> list[str]:
    """Warnings that the phases give when they are laid side by side."""
    warnings = sorted({text for stack in stacks.values() for text in stack.warnings})
    known = comparable(time for phase in PHASES if (time := stacks[phase].time_s) is not None)
    if len(known) == len(PHASES) and known != sorted(known):
        warnings.append("phases look swapped: acquisition times are not in the order NC, ART, PV")
    oblong = [
        phase.upper()
        for phase in PHASES
        if max(stacks[phase].grid.spacing_mm) > SQUARE * min(stacks[phase].grid.spacing_mm)
    ]
    if oblong:
        warnings.append(f"{', '.join(oblong)}: the pixels are not square, as a scanner's are")
    heights = [stack.z_mm[0] for stack in stacks.values() if len(stack) == 1 and stack.has_geometry]
    if not row.registered and heights and max(heights) - min(heights) > MAX_APART_MM:
        warnings.append(f"slices of the phases are {max(heights) - min(heights):.0f} mm apart")
    return warnings


def _lesion_notes(
    aligned: Aligned, *, row: PatientRow, mask: Mask | None, stack: Stack, crop_mm: float | None
) -> list[str]:
    """What to look at in a lesion's mask and position, and where they lie."""
    # No plane: there is no mask, or the manifest names slice and place.
    plane = mask.near(aligned.z_on_phase) if mask is not None and not mask.is_liver else None
    notes = []
    if row.lesion is not None and row.layout not in PICTURES:
        notes += _position_notes(aligned, plane=plane)
    if mask is None or plane is None:
        return notes
    notes += mask.notes(on=plane, stack=stack)
    under = aligned.slices[aligned.mask_phase][_under(aligned, plane=plane)]
    if under.size and not LESION_HU[0] <= (median := float(np.median(under))) <= LESION_HU[1]:
        notes.append(f"the lesion mask does not lie on soft tissue: {median:.0f} HU")
    if crop_mm is not None and plane.extent_mm > crop_mm:
        notes.append(f"the lesion is {plane.extent_mm:.0f} mm across, more than the crop of {crop_mm:.0f} mm")
    return notes


def _position_notes(aligned: Aligned, *, plane: MaskPlane | None) -> list[str]:
    """What to look at in the position that the manifest gives; `plane` is of the lesion's mask, if there is one."""
    assert aligned.place is not None
    notes = []
    middle = aligned.grid.to_mm(aligned.place)
    rows, cols = np.mgrid[: aligned.grid.shape[0], : aligned.grid.shape[1]]
    away = np.linalg.norm(aligned.grid.to_mm(np.stack([rows, cols], axis=-1)) - middle, axis=-1)
    median = float(np.median(aligned.slices[aligned.mask_phase][away <= max(AROUND_MM, float(away.min()))]))
    if not LESION_HU[0] <= median <= LESION_HU[1]:
        notes.append(f"lesion_row and lesion_col do not point at soft tissue: {median:.0f} HU")
    if plane is not None and (apart := plane.apart_mm(aligned.to_mask_phase(middle))) > APART_FROM_MASK_MM:
        notes.append(f"lesion_row and lesion_col lie {apart:.0f} mm from the lesion mask; they are used")
    return notes


def _liver_notes(aligned: Aligned, *, liver: Mask) -> list[str]:
    """What to look at where the liver's mask reaches the slice."""
    plane = liver.near(aligned.z_on_phase)
    if plane is None or (inside := _under(aligned, plane=plane)).sum() < 100:
        return []
    change = float(np.median(aligned.slices["pv"][inside]) - np.median(aligned.slices["nc"][inside]))
    if change >= MIN_ENHANCEMENT_HU:
        return []
    return [
        f"phases look swapped: the liver gains {change:.0f} HU from NC to PV, below {MIN_ENHANCEMENT_HU:.0f}"
    ]


def _under(aligned: Aligned, *, plane: MaskPlane) -> np.ndarray:
    """Which pixels of the aligned slices lie inside a plane of a mask."""
    rows, cols = np.mgrid[: aligned.grid.shape[0], : aligned.grid.shape[1]]
    return plane.at(aligned.to_mask_phase(aligned.grid.to_mm(np.stack([rows, cols], axis=-1))))


def _digest(hu: HUSlice) -> str:
    return hashlib.sha256(f"{hu.shape}".encode() + np.rint(hu).astype("<i4").tobytes()).hexdigest()


def _save_checkerboard(path: Path, first: np.ndarray, second: np.ndarray, *, fields: int = 8) -> None:
    """Both images in alternating fields: where edges go on across a border, they fit."""
    from PIL import Image

    rows, cols = (np.arange(size) * fields // size for size in first.shape)
    odd = (rows[:, None] + cols[None]) % 2 == 1
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(odd, second, first)).resize((2 * IMAGE_SIZE, 2 * IMAGE_SIZE)).save(path)
