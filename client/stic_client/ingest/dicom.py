"""One classic CT image file: what must hold of its header, and its pixels in HU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, AllTransferSyntaxes

from stic_client.ingest.damaged_frames import check_codestreams, check_smooth, decompress
from stic_client.ingest.elements import (
    acquired,
    digest_of,
    is_phantom,
    known,
    numbers,
    open_dataset,
    text,
    value,
)
from stic_client.ingest.hounsfield import check_hu
from stic_client.ingest.source import Source, quiet
from stic_client.ingest.stack import Stack
from stic_core.data.ct import Grid, Turn
from stic_core.tensors.array_types import HUSlice

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_STRUCTURED_REPORT = "1.2.840.10008.5.1.4.1.1.88"

MAX_TILT_DEGREES = 2.0
_SIZES = (32, 2048)
_SPACINGS_MM = (0.1, 5.0)

# Words of ImageType and SeriesDescription: a match may be shown, the text it stands in not.
_NOT_A_SLICE = {
    "LOCALIZER": "a localizer",
    "LOCALISER": "a localizer",
    "SCOUT": "a localizer",
    "TOPOGRAM": "a localizer",
    "SURVIEW": "a localizer",
    "DOSE": "a dose report",
    "EXAM SUMMARY": "an exam summary",
    "PATIENT PROTOCOL": "an exam summary",
    "SCREEN SAVE": "a screen save",
    "SCREENSAVE": "a screen save",
}
_MODALITIES = (
    "CT",
    "MR",
    "PT",
    "US",
    "NM",
    "CR",
    "DX",
    "OT",
    "SR",
    "SEG",
    "SC",
    "RTDOSE",
    "RTSTRUCT",
    "PR",
    "KO",
)
_PHOTOMETRIC = (
    "MONOCHROME1",
    "MONOCHROME2",
    "RGB",
    "PALETTE COLOR",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_RCT",
    "YBR_ICT",
)


@dataclass(frozen=True, slots=True)
class Header:
    """What the reader needs of a classic CT header, checked.

    Args:
        grid: after flipping to the standard orientation.
        flip: rows, columns: which axes of the stored image run the other way.
        z_mm: patient z.
        position: ImagePositionPatient, x y z, mm.
        series, acquisition: what tells groups of slices apart; they stay in memory.
        time_s: acquisition, or content, or series time.
        study: digest of StudyInstanceUID.
        stored: rows and columns as stored.
    """

    grid: Grid
    flip: tuple[bool, bool]
    z_mm: float
    position: tuple[float, float, float]
    series: str
    acquisition: str
    time_s: float | None
    study: str
    phantom: bool
    warnings: tuple[str, ...]


def check_kind(dataset: Dataset, *, source: Source) -> None:
    """Refuse what is no CT slice.

    Raises:
        PatientError: another modality, a localizer, a report, a screen save, burned-in text.
    """
    advice = "Name the axial CT series of the phase."
    words = text(dataset, "ImageType") + "\\" + text(dataset, "SeriesDescription")
    kind = next((name for word, name in _NOT_A_SLICE.items() if word in words), None)
    uid = text(dataset, "SOPClassUID")
    if kind:
        raise source.refuse(f"it is {kind}", expected="an axial CT slice", advice=advice)
    if uid.startswith(_SECONDARY_CAPTURE):
        raise source.refuse("it is a secondary capture", expected="CT Image Storage", advice=advice)
    if uid.startswith(_STRUCTURED_REPORT):
        raise source.refuse("it is a structured report", expected="CT Image Storage", advice=advice)
    modality = text(dataset, "Modality")
    if modality != "CT":
        raise source.refuse(
            "unsupported modality", got=known(modality, _MODALITIES), expected="CT", advice=advice
        )
    if uid != CT and uid not in ENHANCED_CT:
        raise source.refuse(
            "it is another kind of DICOM object", expected="(enhanced) CT Image Storage", advice=advice
        )
    if text(dataset, "BurnedInAnnotation") == "YES":
        raise source.refuse(
            "text is burned into the image",
            got="BurnedInAnnotation YES",
            expected="NO",
            advice="Export the original series: burned-in text may identify the patient.",
        )


def check_pixels(dataset: Dataset, *, source: Source) -> tuple[int, int]:
    """Refuse pixels that are not 16-bit monochrome; rows and columns.

    Raises:
        PatientError: colours, MONOCHROME1, 8 bits, or numbers that cannot be.
    """
    photometric = text(dataset, "PhotometricInterpretation")
    if photometric != "MONOCHROME2":
        raise source.refuse(
            "unsupported photometric interpretation",
            got=known(photometric, _PHOTOMETRIC),
            expected="MONOCHROME2",
            advice="Export the original CT series.",
        )
    allocated, stored, high, samples, signed, rows, cols = (
        value(dataset, keyword)
        for keyword in (
            "BitsAllocated",
            "BitsStored",
            "HighBit",
            "SamplesPerPixel",
            "PixelRepresentation",
            "Rows",
            "Columns",
        )
    )
    if allocated != 16:
        got = f"{allocated} bits" if isinstance(allocated, int) else "nothing"
        raise source.refuse(
            "unsupported bits per pixel",
            got=got,
            expected="16 bits",
            advice="Export the original series, not a capture of it.",
        )
    if not isinstance(stored, int) or not 8 < stored <= 16 or high != stored - 1:
        raise source.refuse(
            "unsupported bits stored and high bit",
            expected="9 to 16 bits, and a high bit one below",
            advice="Export it again.",
        )
    if samples != 1 or signed not in (0, 1):
        raise source.refuse(
            "unsupported samples per pixel or sign",
            expected="1 sample, sign 0 or 1",
            advice="Export it again.",
        )
    low, most = _SIZES
    if not (isinstance(rows, int) and isinstance(cols, int) and low <= rows <= most and low <= cols <= most):
        raise source.refuse(
            "unsupported number of rows or columns",
            expected=f"{low} to {most} each",
            advice="Export it again.",
        )
    return rows, cols


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
    if kind not in {"", "HU"}:
        raise source.refuse(
            "unsupported rescale type", got="another value", expected="HU", advice="Export the CT in HU."
        )
    return slope[0], intercept[0]


def check_header(dataset: Dataset, *, source: Source) -> Header:
    """Everything that must hold of a classic CT slice, short of its pixels.

    Raises:
        PatientError: see DATA: what must be refused.
    """
    check_kind(dataset, source=source)
    if text(dataset, "SOPClassUID") in ENHANCED_CT:
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
    return Header(
        grid=plane_grid(shape, spacing=spacing, position=position, orientation=orientation, flip=flip),
        flip=flip,
        z_mm=position[2],
        position=(position[0], position[1], position[2]),
        series=text(dataset, "SeriesInstanceUID"),
        acquisition=text(dataset, "AcquisitionNumber"),
        time_s=acquired(dataset),
        study=digest_of(dataset, "StudyInstanceUID"),
        phantom=is_phantom(dataset),
        warnings=("the images went through lossy compression",) if lossy else (),
    )


def decode(dataset: Dataset, *, frames: int, source: Source) -> np.ndarray:
    """Stored values of all frames, shape (frames, rows, columns).

    Raises:
        PatientError: pixel data that are missing, cut short, too long or cannot be decoded.
    """
    rows, cols = check_pixels(dataset, source=source)
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if not isinstance(syntax, UID) or syntax not in AllTransferSyntaxes:
        raise source.refuse(
            "transfer syntax is missing or unknown", advice="Convert it to uncompressed DICOM."
        )
    data = value(dataset, "PixelData")
    if not isinstance(data, bytes):
        raise source.refuse("pixel data are missing", expected="PixelData", advice="Export the series again.")
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    if not syntax.is_compressed:
        expected = frames * rows * cols * 2
        if len(data) != expected:
            raise source.refuse(
                "pixel data are cut short" if len(data) < expected else "pixel data are too long",
                got=f"{len(data)} bytes",
                expected=f"{expected} bytes",
                advice="Export or transfer the file again.",
            )
        order = "<" if syntax.is_little_endian else ">"
        pixels = np.frombuffer(data, dtype=f"{order}{'i' if signed else 'u'}2")
    else:
        check_codestreams(dataset, frames=frames, source=source)
        try:
            with quiet():
                pixels = decompress(dataset, frames=frames)
        except Exception as error:  # noqa: BLE001 - decoders raise almost anything on broken streams
            raise source.unreadable("compressed pixels", error) from None
        if pixels.size != frames * rows * cols or pixels.dtype.kind not in "iu":
            raise source.refuse(
                "decoded pixels have the wrong shape",
                expected=f"{frames} x {rows} x {cols}",
                advice="Export it again.",
            )
    pixels = pixels.reshape(frames, rows, cols).astype(np.int32)
    # Bits above BitsStored may hold an overlay; they are no part of the value.
    pixels &= (1 << bits) - 1
    values = np.where(pixels >= 1 << (bits - 1), pixels - (1 << bits), pixels) if signed else pixels
    if syntax.is_compressed:
        check_smooth(values, source=source)
    return values


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
    hu = (decode(dataset, frames=1, source=source)[0] * slope + intercept).astype(np.float32)
    return header, check_hu(flipped(hu, flip=header.flip), source=source)


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
        study=header.study,
        phantom=header.phantom,
        turn=Turn(rows=header.flip[0], cols=header.flip[1]),
        warnings=header.warnings,
    )
