"""What PACS, vendors and anonymisers write into honest exports, and what must not pass as a phase."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, HTJ2KLossless, ImplicitVRLittleEndian, generate_uid

from stic_client.ingest.belonging import check_belonging
from stic_client.ingest.dicom import read_slice
from stic_client.ingest.enhanced import read_enhanced
from stic_client.ingest.kinds import reconstruction_of
from stic_client.ingest.patient import PreparedPatient, open_phases, prepare_patient
from stic_client.ingest.pixels import decode
from stic_client.ingest.series import read_series
from stic_client.ingest.source import locate
from stic_core.config import ImageConfig
from stic_core.data.ct import window
from stic_core.errors import PatientError
from support.ingest_files import (
    PHASES,
    body,
    ct_dataset,
    enhanced_dataset,
    manifest_row,
    row_of,
    save,
    write_series,
)

NC = ("nc",)


def _source(path: Path):
    return locate(path.name, subject="A", root=path.parent.resolve())


def _read(dataset: Dataset, folder: Path) -> np.ndarray:
    return read_slice(_source(save(dataset, folder / "a.dcm")))[1]


def _all(**elements: Any) -> dict[str, dict[str, Any]]:
    """The same elements for each phase."""
    return dict.fromkeys(PHASES, elements)


def _patient(root: Path, **changes: Mapping[str, Any]) -> PreparedPatient:
    """A patient of single slices; `changes` are elements by phase."""
    for phase in PHASES:
        save(ct_dataset(body(phase), phase=phase, **changes.get(phase, {})), root / f"{phase}.dcm")
    paths = {f"{phase}_path": f"{phase}.dcm" for phase in PHASES}
    return prepare_patient(
        row_of(root, manifest_row(registered="1", **paths)), root=root, image=ImageConfig()
    )


# Padding


def _padded(hu: np.ndarray, stored: int, *, signed: bool, **elements: Any) -> tuple[Dataset, np.ndarray]:
    """A slice whose corners outside a circle hold one stored value, 16 bits."""
    rows, cols = np.mgrid[: hu.shape[0], : hu.shape[1]]
    outside = (rows - 47.5) ** 2 + (cols - 47.5) ** 2 > 47.5**2
    values = np.where(outside, stored, np.clip(hu, -1000, 3000) + (0 if signed else 1024))
    dataset = ct_dataset(hu, BitsStored=16, HighBit=15, PixelRepresentation=int(signed), **elements)
    dataset.RescaleIntercept = 0 if signed else -1024
    dataset.PixelData = values.astype("<i2" if signed else "<u2").tobytes()
    return dataset, outside


@pytest.mark.parametrize(
    ("stored", "signed", "declared"),
    [
        (-2000, True, {"PixelPaddingValue": -2000}),
        (-2000, True, {}),
        (63536, False, {"PixelPaddingValue": 63536}),
        (63536, False, {}),
        (32767, True, {"PixelPaddingValue": 32767}),
        (65535, False, {"PixelPaddingValue": 65000, "PixelPaddingRangeLimit": 65535}),
        (65535, False, {"PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 65000}),
        (0, True, {"PixelPaddingValue": 0}),
        (4095, False, {"PixelPaddingValue": 4095}),
        (-32768, True, {"PixelPaddingValue": -32768}),
    ],
)
def test_padding_is_air(tmp_path: Path, stored: int, signed: bool, declared: dict[str, Any]) -> None:
    """Whatever value fills what lies outside the field of view, it is black and the patient unchanged."""
    dataset, outside = _padded(body(), stored, signed=signed, **declared)
    hu = _read(dataset, tmp_path)
    assert (hu[outside] == -1000).all()
    np.testing.assert_array_equal(hu[~outside], np.clip(body(), -1000, 3000)[~outside])
    assert not window(hu)[outside].any()


def test_padding_of_the_other_sign(tmp_path: Path) -> None:
    """PixelPaddingValue -2000 is written as US 63536 in signed files, and the other way round."""
    for signed, stored, vr, value in ((True, -2000, "US", 63536), (False, 63536, "SS", -2000)):
        dataset, outside = _padded(body(), stored, signed=signed)
        dataset.add_new("PixelPaddingValue", vr, value)
        assert (_read(dataset, tmp_path)[outside] == -1000).all()


def test_padding_wider_than_the_stored_bits(tmp_path: Path) -> None:
    """Twelve stored bits, and 16 for the padding: it is neither an overlay nor a wide value."""
    dataset, outside = _padded(body(), 63536, signed=False, PixelPaddingValue=63536)
    dataset.BitsStored, dataset.HighBit = 12, 11
    assert (_read(dataset, tmp_path)[outside] == -1000).all()


def test_padding_value_inside_the_body_is_tissue(tmp_path: Path) -> None:
    """A file that declares 0 HU as padding loses no water in the patient."""
    hu = np.clip(body(), -1000, 1000)
    hu[40:44, 40:44] = 0
    dataset = ct_dataset(
        hu, BitsStored=16, HighBit=15, PixelRepresentation=1, RescaleIntercept=0, PixelPaddingValue=0
    )
    dataset.PixelData = hu.astype("<i2").tobytes()
    assert (_read(dataset, tmp_path)[40:44, 40:44] == 0).all()


def test_padding_of_an_enhanced_file(tmp_path: Path) -> None:
    """It stands at the top of the file and is of every frame."""
    dataset = enhanced_dataset()
    pixels = np.frombuffer(dataset.PixelData, "<u2").reshape(3, 96, 96).copy()
    pixels[:, :5] = 63536
    dataset.PixelPaddingValue, dataset.PixelData = 63536, pixels.tobytes()
    (stack,) = read_enhanced(_source(save(dataset, tmp_path / "a.dcm")), phases=NC)
    assert (stack.load(1)[:5] == -1000).all()


def test_padding_takes_no_part_in_plausibility(tmp_path: Path) -> None:
    """Two thirds of a narrow field of view at the maximum would be bone in a plain count."""
    hu = np.random.default_rng(0).normal(50, 10, (96, 96)).round()
    dataset, outside = _padded(hu, 32767, signed=True, PixelPaddingValue=32767)
    values = np.frombuffer(dataset.PixelData, "<i2").reshape(96, 96).copy()
    values[:30], values[66:] = 32767, 32767
    dataset.PixelData = values.tobytes()
    outside[:30], outside[66:] = True, True
    np.testing.assert_array_equal(_read(dataset, tmp_path), np.where(outside, -1000, hu))


# Width of values


@pytest.mark.parametrize("signed", [False, True])
def test_values_wider_than_stated_are_refused(tmp_path: Path, signed: bool) -> None:
    """BitsStored 12 with values of 13 bits: cutting the 13th makes bone of air."""
    hu = body()
    dataset = ct_dataset(hu, PixelRepresentation=int(signed), RescaleIntercept=-4200 if not signed else 0)
    values = np.rint(hu) + 4200 if not signed else np.rint(np.where(hu > 200, hu + 2500, hu))
    dataset.PixelData = values.astype("<i2" if signed else "<u2").tobytes()
    with pytest.raises(PatientError, match="more bits than BitsStored"):
        _read(dataset, tmp_path)


@pytest.mark.parametrize("overlay", [0, 0x1000, 0xF000])
def test_signed_values_without_sign_extension(tmp_path: Path, overlay: int) -> None:
    """Twelve bits of two's complement and zeros above, with graphics there or not."""
    hu = np.clip(body(), -1000, 1000)
    values = hu.astype("<i2").view("<u2") & 0x0FFF
    values[10:12, 20:70] |= overlay
    dataset = ct_dataset(hu, PixelRepresentation=1, RescaleIntercept=0, PixelData=values.tobytes())
    np.testing.assert_array_equal(_read(dataset, tmp_path), hu)


# Compression and files without headers


def test_htj2k_is_decoded(tmp_path: Path) -> None:
    """High-throughput JPEG 2000, as cloud archives store it."""
    code = base64.b64decode(
        "/0//UQApQAAAAAAgAAAAIAAAAAAAAAAAAAAAIAAAACAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQ"
        "kJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAJgAAf+TwAAmIf4FB3QAoAAJQBgCh3QAoAAKkL8x/h3jAQG0AKAA"
        "C0g5zCGHHEwyySST/gLOGMCnVwCgAAuiAJvcZJNNNtlkk00EEUQQQQQRRBBB/u8FrWcUoHv2UoHsvQCgABdUGcwggwwyyCCDDDLIIIMMMsgg"
        "gwz+/0/AAAFKB79lKB79lKB79lKB7LUB/9k="
    )
    dataset = ct_dataset(body(), Rows=32, Columns=32, BitsStored=16, HighBit=15)
    dataset.PixelData = encapsulate([code])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    path = save(dataset, tmp_path / "a.dcm")
    values, padding = decode(dcmread(path), frames=1, source=_source(path))
    assert (values[0, :16] == 24).all()
    assert (values[0, 16:] == 1074).all()
    assert not padding.any()


def test_other_compression_is_named(tmp_path: Path) -> None:
    """A film as MPEG2: the message says what it is."""
    dataset = ct_dataset(body())
    dataset.PixelData = encapsulate([bytes(200)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    with pytest.raises(PatientError, match="got MPEG2"):
        _read(dataset, tmp_path)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("part", ["no preamble", "no meta header", "neither"])
def test_files_without_preamble_or_meta_header(tmp_path: Path, part: str, implicit: bool) -> None:
    """Old archives store bare objects; the values are the same."""
    dataset = ct_dataset(body())
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    whole = save(dataset, tmp_path / "whole.dcm").read_bytes()
    bare = tmp_path / "bare.dcm"
    dcmwrite(bare, Dataset(dict(dataset.items())), implicit_vr=implicit, little_endian=True)
    content = {
        "no preamble": whole[132:],
        "no meta header": whole[:132] + bare.read_bytes(),
        "neither": bare.read_bytes(),
    }
    (tmp_path / "a.dcm").write_bytes(content[part])
    np.testing.assert_array_equal(read_slice(_source(tmp_path / "a.dcm"))[1], np.clip(body(), -1024, 3071))


# Words, kinds


@pytest.mark.parametrize(
    "words",
    ["iDose (3)", "low dose", "CareDose4D Abdomen", "no scout", "post-topogram", "Dose Report", "NC dose"],
)
def test_words_alone_refuse_nobody(tmp_path: Path, words: str) -> None:
    """A reconstruction is called iDose; class, ImageType and plane say that it is a slice."""
    _read(ct_dataset(body(), SeriesDescription=words), tmp_path)


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"ConvolutionKernel": "LUNG"}, "sharp kernel"),
        ({"ConvolutionKernel": ["Br59d", "3"]}, "sharp kernel"),
        ({"ConvolutionKernel": "FC52"}, "sharp kernel"),
        (
            {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"], "SeriesDescription": "70 keV"},
            "monoenergetic",
        ),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_REMOVED"]}, "virtual non-contrast"),
        ({"SeriesDescription": "Liver iodine map"}, "iodine"),
        ({"SeriesDescription": "Dose Report"}, "dose report"),
    ],
)
def test_unusual_reconstructions_are_warned_of(tmp_path: Path, elements: dict[str, Any], said: str) -> None:
    """They may be what a hospital has: the patient is used, and somebody looks."""
    assert any(said in text for text in _patient(tmp_path, nc=elements).warnings)


@pytest.mark.parametrize(
    "elements",
    [
        {"ConvolutionKernel": "STANDARD", "SeriesDescription": "Abdomen iDose no MIP"},
        {"ConvolutionKernel": ["Br40d", "3"]},
        {"ConvolutionKernel": "B30f", "ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]},
        {"ConvolutionKernel": "FC18"},
    ],
)
def test_usual_reconstructions_are_not(elements: dict[str, Any]) -> None:
    """Soft kernels, averages and a description with a negation."""
    assert reconstruction_of(ct_dataset(body(), **elements)).caveats == ()


@pytest.mark.parametrize(
    ("frame_type", "said"),
    [
        (["DERIVED", "PRIMARY", "VOLUME", "MAX_IP"], "projection"),
        (["DERIVED", "PRIMARY", "VOLUME", "MAT_SPECIFIC"], "map of a material"),
        (["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"], "localizer"),
        (["DERIVED", "PRIMARY", "VOLUME", "MAT_REMOVED"], ""),
        (["DERIVED", "PRIMARY", "VOLUME", "VMI"], ""),
    ],
)
def test_kinds_of_enhanced_frames(tmp_path: Path, frame_type: list[str], said: str) -> None:
    """FrameType says of each frame what ImageType says of a classic file."""
    dataset, kind = enhanced_dataset(), Dataset()
    kind.FrameType = frame_type
    dataset.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence = [kind]
    source = _source(save(dataset, tmp_path / "a.dcm"))
    if said:
        with pytest.raises(PatientError, match=said):
            read_enhanced(source, phases=NC)
    else:
        (stack,) = read_enhanced(source, phases=NC)
        assert stack.exam is not None
        assert stack.exam.reconstruction.caveats


def test_virtual_non_contrast_is_no_contrast_phase(tmp_path: Path) -> None:
    """For the non-contrast phase it is warned of; as arterial it is wrong."""
    removed: dict[str, Any] = {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VNC"]}
    with pytest.raises(PatientError, match="virtual non-contrast"):
        _patient(tmp_path, art=removed)


# Parts of one patient


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"PatientID": "HOSPITAL-43"}, "PatientID"),
        ({"PatientSex": "F"}, "PatientSex"),
        ({"PatientAge": "030Y"}, "PatientAge"),
        ({"PatientBirthDate": "19800101"}, "PatientBirthDate"),
    ],
)
def test_another_patients_phase_is_refused(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    """Named by what differs, never by its value."""
    same = {"PatientSex": "M", "PatientAge": "061Y", "PatientBirthDate": "19580101"}
    with pytest.raises(PatientError, match=f"{what} of PV differs") as refused:
        _patient(tmp_path, nc=same, art=same, pv={**same, **changes})
    assert "HOSPITAL" not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"PatientID": " hospital-42 "},
        {"PatientID": ""},
        {"PatientAge": "062Y", "PatientBirthDate": ""},
        {"PatientSex": "O"},
        {"AcquisitionDate": ""},
        {"AcquisitionTime": "185900"},
    ],
)
def test_honest_differences_are_no_other_patient(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Anonymisers and systems drop, pad and reword."""
    same = {"PatientSex": "M", "PatientAge": "061Y", "PatientBirthDate": "19580101"}
    assert not _patient(tmp_path, nc=same, art=same, pv={**same, **changes}).warnings


def test_removed_or_equalised_times_say_nothing(tmp_path: Path) -> None:
    """Without dates, or with one moment for all, no order is contradicted and nothing is far apart."""
    for when in (
        {"AcquisitionDate": None, "AcquisitionTime": None},
        {"AcquisitionDate": "19000101", "AcquisitionTime": "000000"},
    ):
        assert not _patient(tmp_path, **_all(**when)).warnings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"AcquisitionDate": "20210105"}, "370 days"),
        ({"StudyInstanceUID": "1.2.3"}, "different studies"),
        ({"FrameOfReferenceUID": "1.2.3"}, "frames of reference"),
        ({"PatientName": "Married^Name"}, "different names"),
        ({"SeriesDescription": "Arterial 5mm"}, "PV: its description names arterial"),
        ({"SeriesDescription": "delayed"}, "PV: its description names a late phase"),
    ],
)
def test_parts_that_may_not_belong_are_warned_of(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """Another day, study, frame of reference or phase by its description."""
    frame = {"FrameOfReferenceUID": "1.2.9"}
    warnings = _patient(tmp_path, nc=frame, art=frame, pv={**frame, **changes}).warnings
    assert any(said in text for text in warnings)


def test_one_description_for_all_says_nothing(tmp_path: Path) -> None:
    """The protocol's name stands in each series."""
    assert not _patient(tmp_path, **_all(SeriesDescription="Liver portal venous")).warnings


# Folders


def _folder(
    root: Path, descriptions: dict[str, str], change: Callable[[Dataset, int], None] | None = None
) -> Path:
    """Series of several phases in one folder, by the number of their minute."""
    for minute, (name, description) in enumerate(descriptions.items()):
        phase = name if name in PHASES else "pv"

        def describe(
            dataset: Dataset, number: int, minute: int = minute, text: str = description, name: str = name
        ) -> None:
            dataset.SeriesDescription, dataset.AcquisitionTime = text, f"11{minute:02d}00"
            dataset.SeriesInstanceUID = f"1.2.{minute + 1}"
            dataset.SOPInstanceUID = f"1.2.{minute + 1}.{number + 1}"
            if change:
                change(dataset, number)

        write_series(root / "all" / name, phase=phase, change=describe)
    return root / "all"


def test_arterial_portal_and_delayed_are_not_nc_art_pv(tmp_path: Path) -> None:
    """Three series in the order of time, and none of them without contrast."""
    folder = _folder(tmp_path, {"art": "arterial", "pv": "portal venous", "late": "delayed"})
    with pytest.raises(PatientError, match="descriptions contradict"):
        read_series(_source(folder), phases=PHASES)


def test_a_series_without_description_beside_two_that_have_one(tmp_path: Path) -> None:
    """By its time it is the late phase, whose description an anonymiser removed; without times it may be NC."""
    folder = _folder(tmp_path, {"art": "arterial", "pv": "portal venous", "late": ""})
    with pytest.raises(PatientError, match="descriptions contradict"):
        read_series(_source(folder), phases=PHASES)
    first = _folder(tmp_path / "first", {"nc": "", "art": "arterial", "pv": "portal venous"})
    assert not read_series(_source(first), phases=PHASES)[0].warnings

    def untimed(dataset: Dataset, number: int) -> None:
        del dataset.AcquisitionTime

    names = {"pv": "portal venous", "nc": "", "art": "arterial"}
    stacks = read_series(_source(_folder(tmp_path / "untimed", names, untimed)), phases=PHASES)
    np.testing.assert_array_equal(stacks[0].load(2), np.clip(body("nc"), -1024, 3071))
    assert any("no time confirms" in text for text in stacks[0].warnings)


def test_a_late_phase_beside_the_three_is_left_out(tmp_path: Path) -> None:
    """Four series and three phases: the descriptions say which, whatever the times."""
    folder = _folder(tmp_path, {"late": "delayed", "pv": "portal venous", "art": "arterial", "nc": "plain"})
    stacks = read_series(_source(folder), phases=PHASES)
    for phase, stack in zip(PHASES, stacks, strict=True):
        np.testing.assert_array_equal(stack.load(2), np.clip(body(phase), -1024, 3071))
    assert "series of other phases or kinds in the folder, ignored: 1" in stacks[0].warnings


def test_a_lung_kernel_beside_the_soft_one_is_left_out(tmp_path: Path) -> None:
    """One phase, two reconstructions: the soft one is used, and the warning says that there was another."""
    folder = _folder(
        tmp_path,
        {"nc": "5.0 B30f", "late": "1.0 B70f"},
        lambda dataset, _: setattr(dataset, "ConvolutionKernel", dataset.SeriesDescription.split()[1]),
    )
    (stack,) = read_series(_source(folder), phases=NC)
    np.testing.assert_array_equal(stack.load(2), np.clip(body("nc"), -1024, 3071))
    assert "series of other phases or kinds in the folder, ignored: 1" in stack.warnings


def test_what_lies_beside_the_slices_is_passed_over(tmp_path: Path) -> None:
    """Files of systems and people, a report, a SEG and a coronal view with the series' own UID."""
    write_series(tmp_path / "nc", phase="nc")
    for name in ("Thumbs.db", "README", "VERSION", "export.zip", "desktop.ini", "DICOMDIR", "viewer.exe"):
        (tmp_path / "nc" / name).write_bytes(b"\0\1nothing")
    save(
        ct_dataset(body(), Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22"),
        tmp_path / "nc" / "sr.dcm",
    )
    save(
        ct_dataset(body(), Modality="SEG", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"),
        tmp_path / "nc" / "seg.dcm",
    )
    save(ct_dataset(body(), ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), tmp_path / "nc" / "coronal.dcm")
    (stack,) = read_series(_source(tmp_path / "nc"), phases=NC)
    assert len(stack) == 5
    assert [text.split(": ")[1] for text in stack.warnings] == ["3", "7"]


@pytest.mark.parametrize("keep", [150, 400, 700, 900])
def test_a_slice_cut_short_in_its_header_is_not_passed_over(tmp_path: Path, keep: int) -> None:
    """The last slice of the stack, without which it would be even."""
    write_series(tmp_path / "nc", phase="nc")
    last = tmp_path / "nc" / "06-nc-4.dcm"
    last.write_bytes(last.read_bytes()[:keep])
    with pytest.raises(PatientError):
        read_series(_source(tmp_path / "nc"), phases=NC)


@pytest.mark.parametrize("name", ["99-nc-9.dcm", "12-nc-8"])
def test_a_broken_slice_is_not_passed_over(tmp_path: Path, name: str) -> None:
    """A file that is called as the slices are was one; its place is said, and not its name."""
    write_series(tmp_path / "nc", phase="nc")
    for path in (tmp_path / "nc").iterdir():
        path.rename(path.with_suffix(Path(name).suffix))
    (tmp_path / "nc" / name).write_bytes(b"")
    with pytest.raises(PatientError, match=r"nc \(file [56] of 6\): it is not a DICOM file"):
        read_series(_source(tmp_path / "nc"), phases=NC)


def test_identical_copies_are_counted_once(tmp_path: Path) -> None:
    """A folder copied into itself, and a slice that was sent again under another UID."""
    write_series(tmp_path / "nc", phase="nc")
    shutil.copytree(tmp_path / "nc", tmp_path / "copy")
    shutil.move(tmp_path / "copy", tmp_path / "nc" / "copy")
    (stack,) = read_series(_source(tmp_path / "nc"), phases=NC)
    assert len(stack) == 5
    assert "identical copies of slices, ignored: 5" in stack.warnings
    again = dcmread(next((tmp_path / "nc").glob("*.dcm")))
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    shutil.rmtree(tmp_path / "nc" / "copy")
    save(again, tmp_path / "nc" / "again.dcm")
    assert len(read_series(_source(tmp_path / "nc"), phases=NC)[0]) == 5


@pytest.mark.parametrize("timed", [True, False])
def test_acquisition_number_per_slice(tmp_path: Path, timed: bool) -> None:
    """Scanners that step number each slice: alone it is one phase, and three in one series are three."""

    def step(first: int) -> Callable[[Dataset, int], None]:
        def change(dataset: Dataset, number: int) -> None:
            dataset.SeriesInstanceUID, dataset.AcquisitionNumber = "1.2.3", first + number
            if not timed:
                del dataset.AcquisitionTime

        return change

    write_series(tmp_path / "one", phase="nc", change=step(1))
    assert len(read_series(_source(tmp_path / "one"), phases=NC)[0]) == 5
    for number, phase in enumerate(PHASES):
        write_series(tmp_path / "all" / phase, phase=phase, change=step(5 * number))
    if timed:
        stacks = read_series(_source(tmp_path / "all"), phases=PHASES)
        np.testing.assert_array_equal(stacks[2].load(2), np.clip(body("pv"), -1024, 3071))
    else:
        with pytest.raises(PatientError, match="times do not tell"):
            read_series(_source(tmp_path / "all"), phases=PHASES)


def test_phases_of_one_series_with_different_ranges(tmp_path: Path) -> None:
    """The arterial scan is longer than the others: the pauses between the scans part them."""

    def one(dataset: Dataset, number: int) -> None:
        dataset.SeriesInstanceUID, dataset.AcquisitionNumber = "1.2.3", 1

    for phase in PHASES:
        heights = (-15, -10, -5, 0, 5, 10) if phase == "art" else (-5, 0, 5)
        write_series(tmp_path / "all" / phase, phase=phase, heights=heights, change=one)
    stacks = read_series(_source(tmp_path / "all"), phases=PHASES)
    assert [len(stack) for stack in stacks] == [3, 6, 3]


def test_a_series_uid_per_slice(tmp_path: Path) -> None:
    """Some anonymisers give each file a series of its own."""

    def own(dataset: Dataset, number: int) -> None:
        dataset.SeriesInstanceUID = f"1.2.{number + 1}"

    write_series(tmp_path / "nc", phase="nc", change=own)
    assert len(read_series(_source(tmp_path / "nc"), phases=NC)[0]) == 5


def test_two_patients_in_one_series_are_refused(tmp_path: Path) -> None:
    """Equal UIDs after anonymising, and one slice of somebody else."""

    def other(dataset: Dataset, number: int) -> None:
        dataset.PatientID = "X" if number == 2 else "Y"

    write_series(tmp_path / "nc", phase="nc", change=other)
    with pytest.raises(PatientError, match="different patients"):
        read_series(_source(tmp_path / "nc"), phases=NC)


def test_equal_study_uids_are_not_one_exam(tmp_path: Path) -> None:
    """An anonymiser's one UID for all does not make patients twins; the same exam twice does."""
    same: dict[str, Any] = {"StudyInstanceUID": "1.2.3"}
    first = _patient(tmp_path, **_all(**same))
    again = _patient(tmp_path, **_all(**same))
    other = _patient(
        tmp_path, **{phase: {**same, "SeriesInstanceUID": f"1.{n}"} for n, phase in enumerate(PHASES)}
    )
    assert set(first.digests) == set(again.digests)
    # Each slice of a series may have its own time; another slice is still the same exam.
    slice_later = _patient(tmp_path, **_all(**same, AcquisitionTime="174211"))
    assert set(first.digests) == set(slice_later.digests)
    # What is left in common are the three pictures.
    assert len(set(first.digests) & set(other.digests)) == 3 < len(first.digests)


def test_a_segmentation_of_another_patient_is_refused(tmp_path: Path) -> None:
    """A mask is a part of the patient too; one that was drawn in another frame of reference is warned of."""
    for phase in PHASES:
        save(ct_dataset(body(phase), phase=phase, FrameOfReferenceUID="1.2.9"), tmp_path / f"{phase}.dcm")
    row = row_of(tmp_path, manifest_row(**{f"{phase}_path": f"{phase}.dcm" for phase in PHASES}))
    stacks = open_phases(row, root=tmp_path)
    for frame, count in (("1.2.9", 0), ("1.2.8", 1)):
        seg = save(ct_dataset(body(), Modality="SEG", FrameOfReferenceUID=frame), tmp_path / "seg.dcm")
        warnings = check_belonging(stacks, segmentation=_source(seg))
        assert sum("the mask" in text for text in warnings) == count
    seg = save(ct_dataset(body(), Modality="SEG", PatientID="X"), tmp_path / "seg.dcm")
    with pytest.raises(PatientError, match="PatientID of mask differs"):
        check_belonging(stacks, segmentation=_source(seg))
