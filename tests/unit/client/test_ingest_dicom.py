"""Single CT files: HU as the header says, and a typed refusal for all that is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from openjpeg.utils import encode_array
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from stic_client.ingest.dicom import read_slice
from stic_client.ingest.patient import prepare_patient
from stic_client.ingest.source import locate
from stic_core.config import ImageConfig
from stic_core.data.ct import window
from stic_core.errors import PatientError
from support.ingest_files import body, ct_dataset, manifest_row, real, row_of, save, write_slices


def _compress(dataset: Dataset, syntax: str) -> Dataset:
    """Lossless compression; JPEG 2000 by its own encoder, for pydicom's needs one package more."""
    if syntax == JPEG2000Lossless:
        codestream = encode_array(dataset.pixel_array, bits_stored=12)
        dataset.PixelData = encapsulate([codestream])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    return dataset


def _read(path: Path) -> np.ndarray:
    return read_slice(locate(path.name, subject="A", root=path.parent.resolve()))[1]


def test_stored_values_become_hu(tmp_path: Path) -> None:
    """HU = stored x slope + intercept, whatever the slope."""
    hu = body()
    np.testing.assert_array_equal(_read(save(ct_dataset(hu), tmp_path / "a.dcm")), np.clip(hu, -1024, 3071))
    halves = ct_dataset(hu, RescaleSlope=0.5, RescaleIntercept=-1024)
    halves.PixelData = ((np.clip(hu, -1024, 1000) + 1024) * 2).astype("<u2").tobytes()
    np.testing.assert_array_equal(_read(save(halves, tmp_path / "b.dcm")), np.clip(hu, -1024, 1000))


def test_signed_values_and_bits_above_the_stored_ones(tmp_path: Path) -> None:
    """Two's complement in the stored bits; what lies above them is no part of the value."""
    hu = np.clip(body(), -1000, 1000)
    signed = ct_dataset(hu, RescaleIntercept=0, PixelRepresentation=1, BitsStored=16, HighBit=15)
    signed.PixelData = hu.astype("<i2").tobytes()
    np.testing.assert_array_equal(_read(save(signed, tmp_path / "a.dcm")), hu)
    twelve = ct_dataset(hu, RescaleIntercept=0, PixelRepresentation=1)
    overlay = np.where(np.arange(hu.size).reshape(hu.shape) % 7 == 0, 0xF000, 0).astype(np.uint16)
    twelve.PixelData = ((hu.astype(np.int16).view(np.uint16) & 0x0FFF) | overlay).astype("<u2").tobytes()
    np.testing.assert_array_equal(_read(save(twelve, tmp_path / "b.dcm")), hu)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless, ImplicitVRLittleEndian])
def test_transfer_syntaxes_give_the_same_hu(tmp_path: Path, syntax: str) -> None:
    """Lossless compression changes nothing."""
    hu = body()
    dataset = ct_dataset(hu)
    if syntax == ImplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    else:
        _compress(dataset, syntax)
    np.testing.assert_array_equal(_read(save(dataset, tmp_path / "a.dcm")), np.clip(hu, -1024, 3071))


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_truncated_compressed_pixels_are_refused(tmp_path: Path, syntax: str) -> None:
    """Decoders fill what is missing with zeros; here a frame without its end is an error."""
    path = save(_compress(ct_dataset(body()), syntax), tmp_path / "a.dcm")
    for keep in (0.5, 0.9, 0.99):
        path.with_name("b.dcm").write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        with pytest.raises(PatientError):
            _read(path.with_name("b.dcm"))


def test_prone_and_mirrored_slices_are_turned(tmp_path: Path) -> None:
    """A slice stored with reversed axes lies in patient space as the plain one does."""
    hu = np.clip(body(), -1024, 3071)
    plain = read_slice(locate(save(ct_dataset(hu), tmp_path / "a.dcm").name, subject="A", root=tmp_path))
    position = ct_dataset(hu).ImagePositionPatient
    step = (hu.shape[0] - 1) * 3.5
    turned = ct_dataset(
        hu[::-1, ::-1],
        ImageOrientationPatient=[-1, 0, 0, 0, -1, 0],
        ImagePositionPatient=[position[0] + step, position[1] + step, 0],
    )
    header, pixels = read_slice(locate(save(turned, tmp_path / "b.dcm").name, subject="A", root=tmp_path))
    np.testing.assert_array_equal(pixels, plain[1])
    assert header.grid == plain[0].grid


REFUSALS = {
    "slope": ({"RescaleSlope": None}, "no slope or intercept"),
    "intercept": ({"RescaleIntercept": None}, "no slope or intercept"),
    "rescale type": ({"RescaleType": "HU_MOD"}, "rescale type"),
    "8 bits": ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "bits per pixel"),
    "secondary capture": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
    "truncated": ({"PixelData": b"\0\0" * 4000}, "cut short"),
    "too long": ({"PixelData": b"\0\0" * 10_000}, "too long"),
    "no pixels": ({"PixelData": None}, "pixel data are missing"),
    "localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
    "dose report": ({"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}, "dose report"),
    "patient protocol": ({"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]}, "screen save"),
    "screen save": ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "screen save"),
    "MIP": ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]}, "projection"),
    "GE MIP": ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]}, "projection"),
    "iodine map": ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"]}, "map of a material"),
    "iodine in words": (
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "SeriesDescription": "Iodine map"},
        "map of a material",
    ),
    "40 keV": (
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"], "SeriesDescription": "MonoE 40 keV"},
        "got 40 keV",
    ),
    "coronal": ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "not axial"),
    "3 degrees": ({"ImageOrientationPatient": [1, 0, 0, 0, 0.99863, 0.05234]}, "3.0 degrees"),
    "gantry": ({"GantryDetectorTilt": 12.5}, "gantry is tilted"),
    "monochrome1": ({"PhotometricInterpretation": "MONOCHROME1"}, "got MONOCHROME1"),
    "rgb": ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "got RGB"),
    "burned in": ({"BurnedInAnnotation": "YES"}, "burned into"),
    "modality": ({"Modality": "MR"}, "got MR"),
    "spacing": ({"PixelSpacing": None}, "pixel spacing"),
    "position": ({"ImagePositionPatient": None}, "position is missing"),
    "raw values": ({"RescaleIntercept": 0}, "not Hounsfield units"),
    "sign": ({"RescaleIntercept": 30000}, "not Hounsfield units"),
    "high bit": ({"HighBit": 15}, "high bit"),
    "rows": ({"Rows": 4}, "rows or columns"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_ct_slice_is_refused(tmp_path: Path, case: str) -> None:
    """The error names subject and file, says what to do, and holds nothing of the patient."""
    changes, words = REFUSALS[case]
    path = save(ct_dataset(body(), **changes), tmp_path / "a.dcm")
    with pytest.raises(PatientError, match=words) as caught:
        _read(path)
    assert str(caught.value).startswith("A, a.dcm: ")
    assert caught.value.advice or caught.value.expected
    assert "Secret" not in str(caught.value)
    assert "HOSPITAL" not in str(caught.value)


def test_tilt_of_one_degree_is_no_tilt(tmp_path: Path) -> None:
    """Up to 2 degrees pass."""
    _read(
        save(ct_dataset(body(), ImageOrientationPatient=[1, 0, 0, 0, 0.99985, 0.01745]), tmp_path / "a.dcm")
    )


def test_names_in_codes_are_not_shown(tmp_path: Path) -> None:
    """A file whose Modality holds a patient's name is refused without the name."""
    with pytest.raises(PatientError, match="got another value") as caught:
        _read(save(ct_dataset(body(), Modality="DOE_JOHN"), tmp_path / "a.dcm"))
    assert "DOE" not in str(caught.value)


def test_wrong_byte_order_is_refused(tmp_path: Path) -> None:
    """Pixels in the other byte order are no HU."""
    hu = body()
    dataset = ct_dataset(hu)
    dataset.PixelData = (np.rint(hu) + 1024).clip(0, 4095).astype(">u2").tobytes()
    with pytest.raises(PatientError, match="not Hounsfield units"):
        _read(save(dataset, tmp_path / "a.dcm"))
    assert ExplicitVRBigEndian.is_little_endian is False


def test_no_dicom_file_is_refused(tmp_path: Path) -> None:
    """Text with a DICOM file's name."""
    (tmp_path / "a.dcm").write_text("Secret^Name" * 100)
    with pytest.raises(PatientError, match="not a DICOM file") as caught:
        _read(tmp_path / "a.dcm")
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["../out.dcm", "/etc/hostname", "link.dcm", "folder/../../out.dcm", "~/x", "a\0b"]
)
def test_paths_that_leave_the_root_are_refused(tmp_path: Path, path: str) -> None:
    """`..`, absolute paths and links, and what they point at is not named."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    save(ct_dataset(body()), tmp_path / "out.dcm")
    (root / "link.dcm").symlink_to(tmp_path / "out.dcm")
    with pytest.raises(PatientError, match="dataset's root") as caught:
        locate(path, subject="A", root=root.resolve())
    assert str(tmp_path) not in str(caught.value)


def test_phases_are_registered_and_windowed(tmp_path: Path) -> None:
    """The prepared image is the window of the registered slices; a still phase is untouched."""
    values = write_slices(tmp_path)
    prepared = prepare_patient(
        row_of(tmp_path, {**values, "registered": "1"}), root=tmp_path, image=ImageConfig()
    )
    assert prepared.image.shape == (1, 224, 224, 3)
    assert prepared.image.dtype == np.uint8
    moved = prepare_patient(row_of(tmp_path, values), root=tmp_path, image=ImageConfig())
    assert not moved.rejected
    spine = (int(70 * 224 / 96), int(48 * 224 / 96))
    assert moved.image[0, *spine].tolist() == [255, 255, 255]
    edge = window(np.array([[-1000.0]], dtype=np.float32))[0, 0]
    assert prepared.image[0, 0, 0].tolist() == [edge] * 3
    # The registered phases' edges of the body lie where NC's do; unregistered, 2 pixels off.
    nc, art = (moved.image[0, :, :, channel].astype(int) for channel in (0, 1))
    still = prepared.image[0, :, :, 1].astype(int)
    assert (
        np.abs((nc > 30).astype(int) - (art > 30)).mean()
        < 0.3 * np.abs((nc > 30).astype(int) - (still > 30)).mean()
    )


def test_crop_is_around_the_lesion(tmp_path: Path) -> None:
    """With a known place the lesion is in the middle, at the configured size; without, all is used."""
    values = write_slices(tmp_path)
    place = {"mask_phase": "pv", "lesion_row": "48", "lesion_col": "27"}  # NC's (46, 28), moved by (2, -1)
    cropped = prepare_patient(
        row_of(tmp_path, {**values, **place}), root=tmp_path, image=ImageConfig(crop_mm=70)
    )
    assert cropped.place_known
    row, col = np.nonzero(
        np.abs(cropped.image[0, :, :, 2].astype(int) - window(np.full((1, 1), 75, np.float32))) < 8
    )
    middle = slice(60, 164)
    assert middle.start < np.median(row) < middle.stop
    assert middle.start < np.median(col) < middle.stop
    whole = prepare_patient(row_of(tmp_path, values), root=tmp_path, image=ImageConfig(crop_mm=70))
    assert not whole.place_known


def test_same_file_for_two_phases_is_refused(tmp_path: Path) -> None:
    """The authors' code reused a phase silently."""
    values = {**write_slices(tmp_path), "art_path": "A/nc.dcm"}
    with pytest.raises(PatientError, match="two phases have the same pixels"):
        prepare_patient(row_of(tmp_path, values), root=tmp_path, image=ImageConfig())


def test_swapped_phases_are_warned_of(tmp_path: Path) -> None:
    """ART acquired after PV is a warning, not an error: times are often wrong."""
    values = write_slices(tmp_path)
    swapped = {**values, "art_path": "A/pv.dcm", "pv_path": "A/art.dcm"}
    prepared = prepare_patient(row_of(tmp_path, swapped), root=tmp_path, image=ImageConfig())
    assert any("swapped" in text for text in prepared.warnings)
    assert not prepare_patient(row_of(tmp_path, values), root=tmp_path, image=ImageConfig()).warnings


def test_real_slices_have_the_hu_of_their_readme() -> None:
    """A GE scanner's implicit little endian files, with padding that rescales to -3024 HU."""
    folder = real("liver-ct-3slice").resolve()
    for name, z in (("01.dcm", -126.69), ("02.dcm", -127.69), ("03.dcm", -128.69)):
        header, hu = read_slice(locate(name, subject="real", root=folder))
        assert hu.shape == (512, 512)
        assert hu[0, 0] == -1000  # padding is air
        assert hu.min() >= -1024
        assert header.z_mm == pytest.approx(z, abs=0.01)
        assert header.grid.spacing_mm == pytest.approx((0.810547, 0.810547), abs=1e-5)


def test_real_slices_prepare(tmp_path: Path) -> None:
    """Three neighbouring real slices as stand-ins for the three phases: they are no such study."""
    folder = real("liver-ct-3slice")
    paths = {
        f"{phase}_path": f"{number:02d}.dcm" for number, phase in enumerate(("nc", "art", "pv"), start=1)
    }
    row = row_of(tmp_path, manifest_row("real", **paths))
    prepared = prepare_patient(row, root=folder.resolve(), image=ImageConfig())
    assert not prepared.rejected
    assert not prepared.phantom
    stored = dcmread(folder / "01.dcm")
    hu = stored.pixel_array.astype(np.float32) * float(stored.RescaleSlope) + float(stored.RescaleIntercept)
    liver = prepared.image[0, 60:110, 50:90, 0]
    expected = window(hu)[60 * 512 // 224 : 110 * 512 // 224, 50 * 512 // 224 : 90 * 512 // 224]
    assert liver.mean() == pytest.approx(expected.mean(), abs=1.0)
