"""What an image is, by SOP class, ImageType and plane: a CT slice, something else, or a CT slice with a caveat.

Words of a description decide nothing alone: "iDose" is a reconstruction and "no scout" an axial series. They
count where ImageType says that the image was computed from others; elsewhere they only give a warning.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from stic_client.ingest.elements import first, known, numbers, text, value
from stic_client.ingest.source import Source, quiet
from stic_core.errors import PatientError

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_STRUCTURED_REPORT = "1.2.840.10008.5.1.4.1.1.88"

UNSPECIFIED = "US"
"""The RescaleType that names no unit; some scanners and archives write it beside HU."""

MONOENERGETIC_KEV = (60, 80)
"""Virtual monoenergetic images in this range look like the usual 120 kV; at 40 keV iodine is twice as bright."""

_CROSSWISE_DEGREES = 45.0
"""A plane farther from axial than this is no slice of a tilted gantry but another view."""

_ADVICE = "Name the axial CT series of the phase."

_LOCALIZER = re.compile(r"LOCALI[SZ]ER|SCOUT|TOPOGRAM|SURVIEW")
_CAPTURE = re.compile(
    r"SCREEN ?(SAVE|CAPTURE)|(^|\\ )DOSE( ?(INFO|REPORT|SUMMARY))?( \\|$)|EXAM SUMMARY|PATIENT PROTOCOL|\bPROT\b"
)
_DOSE_REPORT = re.compile(r"DOSE (REPORT|INFO|SUMMARY)|EXAM SUMMARY|PATIENT PROTOCOL")
_PROJECTION = re.compile(
    r"\b(MIP|MAX ?IP|MAXIMUM IP|MIN ?IP|MINIMUM IP|MAXIMUM INTENSITY|PROJECTION IMAGE|VRT?)\b|(VOLUME|SURFACE) REND"
)
_CONTRAST_REMOVED = re.compile(
    r"\b(VNC|VUE|TNC|VNE)\b|VIRTUAL (NON|UNENH|NATIV|PLAIN)|MAT REMOVED|IODINE (REMOVED|SUPPRESSED|FREE)"
    r"|WATER ?\(? ?IODINE"
)
_MATERIAL = re.compile(
    r"IODINE|\bIODMAP\b|MAT (SPECIFIC|FRACTIONAL|VALUE)|ATOMIC NUM|\bZ ?EFF\b|EFFECTIVE Z|ELECTRON DENSITY|\bRHO ?Z\b"
    r"|PERFUSION MAP|BLOOD (FLOW|VOLUME)|FAT (FRACTION|MAP)"
)
_MAP_CODE = re.compile(r"\b(PERFUSION|SUBTRACT(ION|ED)?|CBF|CBV|MTT|TTP|PBV)\b")
"""Values of ImageType alone: a description may say that the exam was one of perfusion."""

_MONOENERGETIC = re.compile(r"\bVMI\b|\bMONO ?(E|PLUS|\+)|MONOENERG|MONOCHROMATIC|\d ?KEV\b")
_KEV = re.compile(r"(\d{2,3}) ?KEV\b")

_SHARP_KERNEL = re.compile(
    r"LUNG|BONE|EDGE|SHARP"  # GE and others in words
    r"|^[A-Z][A-Z]?(5[5-9]|[6-9]\d)[A-Z]?\b"  # Siemens: B70f, Br59d, Bl57
    r"|^FC(3\d|5\d|8\d)"  # Canon
    r"|^(L|LB|Y[A-E])$"  # Philips
)
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


class Reconstruction(NamedTuple):
    """What a CT slice is beyond the original, soft-tissue kind.

    Args:
        contrast_removed: a virtual non-contrast image, which may stand for that phase alone.
        caveats: what an engineer should look at, in this project's words.
        rank: the fewer, the fitter: original and soft before derived and sharp.
    """

    contrast_removed: bool
    caveats: tuple[str, ...]
    rank: int


def check_kind(dataset: Dataset, *, source: Source) -> None:
    """Refuse what is no CT slice at all: beside a series it is passed over.

    Raises:
        PatientError: another modality or object, a localizer, a report, a screen save, a projection, a map of a
            material, another plane than the axial.
    """
    uid = sop_class(dataset)
    modality = text(dataset, "Modality")
    if uid.startswith(_SECONDARY_CAPTURE):
        raise source.refuse("it is a secondary capture", expected="CT Image Storage", advice=_ADVICE)
    if uid.startswith(_STRUCTURED_REPORT):
        raise source.refuse("it is a structured report", expected="CT Image Storage", advice=_ADVICE)
    if modality not in {"", "CT"}:
        raise source.refuse(
            "unsupported modality", got=known(modality, _MODALITIES), expected="CT", advice=_ADVICE
        )
    if uid != CT and uid not in ENHANCED_CT:
        raise source.refuse(
            "it is another kind of DICOM object", expected="(enhanced) CT Image Storage", advice=_ADVICE
        )
    check_reconstruction(dataset, source=source)
    plane = numbers(dataset, "ImageOrientationPatient", count=6)
    if plane is not None and _from_axial(plane) > _CROSSWISE_DEGREES:
        raise source.refuse(
            "the slice is not axial but shows another plane",
            got=f"{_from_axial(plane):.0f} degrees from axial",
            expected="an axial CT slice",
            advice=_ADVICE,
        )


def sop_class(dataset: Dataset) -> str:
    """SOP class UID, from the meta header where an anonymiser removed it from the object."""
    return text(dataset, "SOPClassUID") or text(
        getattr(dataset, "file_meta", Dataset()), "MediaStorageSOPClassUID"
    )


def check_reconstruction(dataset: Dataset, *, source: Source) -> None:
    """Refuse by ImageType, whose values are codes and no free text, and by a description that it bears out.

    Args:
        dataset: a header, or what stands for it of one frame of an enhanced file.

    Raises:
        PatientError: a localizer, a screen save, or an image computed from others that shows no CT slice.
    """
    image_type = _coded(dataset)
    if _LOCALIZER.search(image_type):
        raise source.refuse("it is a localizer", expected="an axial CT slice", advice=_ADVICE)
    if _CAPTURE.search(image_type):
        raise source.refuse(
            "it is a dose report or a screen save", expected="an axial CT slice", advice=_ADVICE
        )
    if _MAP_CODE.search(image_type):
        raise _no_hu(source)
    _check_computed(image_type, source=source)
    if is_computed(dataset) or _MONOENERGETIC.search(image_type):
        _check_computed(_description(dataset), source=source)


def _no_hu(source: Source) -> PatientError:
    return source.refuse(
        "it is a map of a material, such as iodine, or of blood flow: its values are not HU",
        expected="the usual CT image",
        advice=_ADVICE,
    )


def as_classic(dataset: Dataset, *, frame: Dataset) -> Dataset:
    """What an enhanced file says of a frame's kind and plane, where a classic header would say it.

    Args:
        frame: the frame's own functional groups; those that it lacks are shared.
    """
    shared = first(dataset, "SharedFunctionalGroupsSequence") or Dataset()
    about = Dataset()
    with quiet():
        for keyword, sequence in (
            ("SOPClassUID", ""),
            ("Modality", ""),
            ("SeriesDescription", ""),
            ("ImageType", ""),
            ("ConvolutionKernel", "CTReconstructionSequence"),
            ("VolumeBasedCalculationTechnique", "CTImageFrameTypeSequence"),
            ("FrameType", "CTImageFrameTypeSequence"),
            ("ImageOrientationPatient", "PlaneOrientationSequence"),
        ):
            group = (first(frame, sequence) or first(shared, sequence)) if sequence else dataset
            found = None if group is None else value(group, keyword)
            if found is not None:
                with suppress(ValueError, TypeError):  # a broken element is a missing one
                    setattr(about, "ImageType" if keyword == "FrameType" else keyword, found)
    return about


def _check_computed(words: str, *, source: Source) -> None:
    if _PROJECTION.search(words):
        raise source.refuse(
            "it is a projection (MIP or volume rendering)",
            expected="axial slices as they were reconstructed",
            advice=_ADVICE,
        )
    if _CONTRAST_REMOVED.search(words):
        return
    if _MATERIAL.search(words):
        raise _no_hu(source)
    energy = _kev(words)
    if energy is not None and not MONOENERGETIC_KEV[0] <= energy <= MONOENERGETIC_KEV[1]:
        raise source.refuse(
            "it is a virtual monoenergetic image whose contrast differs from the usual CT image",
            got=f"{energy} keV",
            expected=f"{MONOENERGETIC_KEV[0]} to {MONOENERGETIC_KEV[1]} keV, or the mixed image",
            advice=_ADVICE,
        )


def reconstruction_of(dataset: Dataset) -> Reconstruction:
    """Caveats of a slice that `check_kind` lets pass."""
    image_type, description = _coded(dataset), _description(dataset)
    computed = is_computed(dataset)
    axial = "AXIAL" in text(dataset, "ImageType").split("\\")
    caveats = []
    removed = bool(
        _CONTRAST_REMOVED.search(image_type) or (computed and _CONTRAST_REMOVED.search(description))
    )
    said = f"{image_type} {description}"
    if removed:
        caveats.append("a virtual non-contrast image, computed from a contrast phase")
    elif _MONOENERGETIC.search(said):
        caveats.append("a virtual monoenergetic image")
    if not computed:
        for words, name in (
            (_PROJECTION, "a projection (MIP)"),
            (_CONTRAST_REMOVED, "a virtual non-contrast image"),
            (_MATERIAL, "a map of a material, such as iodine"),
            *(() if axial else ((_LOCALIZER, "a localizer"),)),
            (_DOSE_REPORT, "a dose report"),
        ):
            negated = re.search(rf"\b(NO|W/?O|WITHOUT|OHNE)\W+(?:{words.pattern})", description)
            if words.search(description) and not negated:
                caveats.append(f"described as {name}, although ImageType does not say so")
    if text(dataset, "RescaleType") == UNSPECIFIED:
        caveats.append("RescaleType says 'unspecified', so its values are taken for HU")
    kernel = text(dataset, "ConvolutionKernel")
    sharp = (
        any(_SHARP_KERNEL.search(part) for part in kernel.split("\\")) if kernel else "LUNG" in description
    )
    if sharp:
        caveats.append("reconstructed with a sharp kernel, for lung or bone")
    return Reconstruction(removed, tuple(caveats), 2 * len(caveats) + computed)


def _coded(dataset: Dataset) -> str:
    """ImageType, and what enhanced files say of it in other codes."""
    codes = ("ImageType", "VolumeBasedCalculationTechnique")
    return _spaced("\\".join(text(dataset, keyword) for keyword in codes))


def _spaced(codes: str) -> str:
    """Codes with their underscores and hyphens as spaces, and each code as a word of its own."""
    return re.sub(r"[_\-]", " ", codes).replace("\\", " \\ ")


def _description(dataset: Dataset) -> str:
    return _spaced(text(dataset, "SeriesDescription"))


def is_computed(dataset: Dataset) -> bool:
    """Whether ImageType says that the image was derived from others."""
    kinds = text(dataset, "ImageType").split("\\")
    return "DERIVED" in kinds[:1] or "SECONDARY" in kinds[1:2]


def _kev(words: str) -> int | None:
    found = _KEV.search(words)
    return int(found[1]) if found else None


def _from_axial(orientation: tuple[float, ...]) -> float:
    """Degrees between the plane and the axial one."""
    normal = np.cross(orientation[:3], orientation[3:])
    length = float(np.linalg.norm(normal))
    return float(np.degrees(np.arccos(min(1.0, abs(float(normal[2])) / length)))) if length > 0 else 0.0
