"""What a second set of hospital files found, written by somebody who had not read the code."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from stic_client.ingest.dicom import read_single
from stic_client.ingest.hounsfield import check_hu
from stic_client.ingest.manifest import read_manifest
from stic_client.ingest.masks import read_mask
from stic_client.ingest.patient import PreparedPatient, prepare_patient
from stic_client.ingest.scan import scan
from stic_client.ingest.source import Source, locate
from stic_client.preparation.prepare import prepare
from stic_core.config import ImageConfig
from stic_core.data.ct import window
from stic_core.errors import DataError, PatientError
from stic_core.system import command_errors
from support.ingest_files import (
    PHASES,
    SIZE,
    SPACING,
    body,
    ct_dataset,
    manifest_row,
    prepare_config,
    row_of,
    save,
    write_hospital,
    write_manifest,
)
from support.volume_files import write_nifti


def _patient(
    folder: Path, values: Mapping[str, str], *, change: Callable[[Dataset], object] = lambda _: None
) -> PreparedPatient:
    """A patient of three single slices, all changed alike."""
    for phase in PHASES:
        dataset = ct_dataset(body(phase), phase=phase, PatientSex="M", PatientAge="061Y")
        change(dataset)
        save(dataset, folder / f"{phase}.dcm")
    paths = {f"{phase}_path": f"{phase}.dcm" for phase in PHASES}
    row = manifest_row(**{"registered": "1", **paths, **values})
    return prepare_patient(row_of(folder, row), root=folder.resolve(), image=ImageConfig())


def _grey(folder: Path, dataset: Dataset) -> np.ndarray:
    save(dataset, folder / "one.dcm")
    return window(read_single(locate("one.dcm", subject="A", root=folder.resolve())).load(0))


@pytest.mark.parametrize("length", [40, 60])
def test_a_line_drawn_from_the_lesion_by_a_slip_leaves_the_crop_on_the_lesion(
    tmp_path: Path, length: int
) -> None:
    """The middle of a box around both would be half a line away."""
    for phase in PHASES:
        write_nifti(tmp_path / f"{phase}.nii", body(phase)[None].astype(np.int16))
    inside = np.zeros((1, SIZE, SIZE), dtype=np.uint8)
    inside[0, 38:53, 20:35] = 1
    alone = inside.copy()
    inside[0, 45, 34 : 34 + length] = 1
    images = []
    for name, mask in (("alone", alone), ("line", inside)):
        write_nifti(tmp_path / f"{name}.nii", mask)
        row = manifest_row(
            layout="nifti",
            registered="1",
            mask_path=f"{name}.nii",
            **{f"{phase}_path": f"{phase}.nii" for phase in PHASES},
        )
        images.append(
            prepare_patient(
                row_of(tmp_path, row), root=tmp_path.resolve(), image=ImageConfig(crop_mm=32 * SPACING)
            ).image
        )
    # A pixel of the file is seven of the image's: at most two and a half of the file.
    shifts = [
        np.abs(images[0].astype(int) - np.roll(images[1], 7 * by, axis=2)).mean() for by in range(-8, 9)
    ]
    assert abs(int(np.argmin(shifts)) - 8) <= 5


@pytest.mark.parametrize(
    ("row", "col", "noted"), [("46", "28", False), ("4", "4", True), ("46.4", "28.6", False)]
)
def test_a_position_in_air_is_warned_of(tmp_path: Path, row: str, col: str, *, noted: bool) -> None:
    """Row and column given in the wrong order, or of another image, often point beside the patient."""
    warnings = _patient(tmp_path, {"lesion_row": row, "lesion_col": col}).warnings
    assert any("lesion_row" in text for text in warnings) == noted


@pytest.mark.parametrize(("col", "noted"), [("28", False), ("32", False), ("60", True)])
def test_a_position_far_from_the_mask_is_warned_of(tmp_path: Path, col: str, *, noted: bool) -> None:
    """Two statements of where the lesion is must not contradict each other silently."""
    inside = np.zeros((1, SIZE, SIZE), dtype=np.uint8)
    inside[0, 40:53, 22:34] = 1
    for phase in PHASES:
        write_nifti(tmp_path / f"{phase}.nii", body(phase)[None].astype(np.int16))
    write_nifti(tmp_path / "mask.nii", inside)
    paths = {f"{phase}_path": f"{phase}.nii" for phase in PHASES}
    row = manifest_row(
        layout="nifti", registered="1", mask_path="mask.nii", lesion_row="46", lesion_col=col, **paths
    )
    patient = prepare_patient(row_of(tmp_path, row), root=tmp_path.resolve(), image=ImageConfig())
    assert any("from the lesion mask" in text for text in patient.warnings) == noted


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, set()),
        ({"age": "63"}, set()),
        ({"age": ""}, set()),
        ({"age": "34"}, {"age"}),
        ({"gender": "female"}, {"gender"}),
        ({"age": "34", "gender": "female"}, {"age", "gender"}),
    ],
)
def test_a_row_that_slipped_against_its_images_is_warned_of(
    tmp_path: Path, values: dict[str, str], expected: set[str]
) -> None:
    """The header's sex and age are compared with the manifest's, and neither is repeated."""
    warnings = [text for text in _patient(tmp_path, values).warnings if "the manifest's" in text]
    assert {word for word in ("age", "gender") if any(f"'s {word}" in text for text in warnings)} == expected
    assert not any(sign.isdigit() for text in warnings for sign in text)


def test_unspecified_units_of_a_classic_ct_are_taken_for_hu_and_said(tmp_path: Path) -> None:
    """Some scanners write RescaleType US beside HU; what else it may be, the check of values refuses."""
    patient = _patient(tmp_path, {}, change=lambda dataset: setattr(dataset, "RescaleType", "US"))
    assert any("RescaleType" in text for text in patient.warnings)


@pytest.mark.parametrize(
    "image_type",
    [
        ["DERIVED", "PRIMARY", "PERFUSION"],
        ["DERIVED", "SECONDARY", "AXIAL", "SUBTRACTION"],
        ["DERIVED", "PRIMARY", "OTHER"],
    ],
)
def test_unspecified_units_of_a_computed_image_are_refused(tmp_path: Path, image_type: list[str]) -> None:
    """A map of blood flow has no HU, whatever range its numbers have."""

    def computed(dataset: Dataset) -> None:
        dataset.ImageType, dataset.RescaleType = image_type, "US"

    with pytest.raises(PatientError):
        _patient(tmp_path, {}, change=computed)


@pytest.mark.parametrize("words", ["Leber topogr.-gesteuert Surview 5mm", "Abdomen SCOUT based low DOSE"])
def test_words_say_nothing_where_imagetype_says_axial(tmp_path: Path, words: str) -> None:
    """A centre that names all of its series so gets no warning for each of its patients."""
    patient = _patient(tmp_path, {}, change=lambda dataset: setattr(dataset, "SeriesDescription", words))
    assert patient.warnings == ()


def _twelve_bits(hu: np.ndarray, *, signed: bool, intercept: int, extended: bool = False) -> Dataset:
    stored = np.rint(hu).astype(np.int32) - intercept
    pixels = stored.astype("<i2").tobytes() if extended else (stored & 0xFFF).astype("<u2").tobytes()
    return ct_dataset(
        hu, PixelRepresentation=int(signed), RescaleIntercept=intercept, PixelData=pixels, BitsStored=12
    )


@pytest.mark.parametrize("extended", [False, True])
def test_negative_values_of_twelve_bits_are_read_with_and_without_an_extended_sign(
    tmp_path: Path, *, extended: bool
) -> None:
    """The bits above the stored ones may hold anything (PS3.5, 8.1.1)."""
    hu = np.clip(body(), -1024, 2047)
    np.testing.assert_array_equal(
        _grey(tmp_path, _twelve_bits(hu, signed=True, intercept=0, extended=extended)), window(hu)
    )


def test_unsigned_values_that_are_called_signed_are_refused(tmp_path: Path) -> None:
    """Read as signed, dense bone above 1023 HU would turn into air."""
    hu = body()
    hu[66:74, 44:52] = 1900
    with pytest.raises(PatientError, match="PixelRepresentation"):
        _grey(tmp_path, _twelve_bits(hu, signed=True, intercept=-1024))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_quotation_mark_that_swallows_rows_is_refused(tmp_path: Path, separator: str) -> None:
    """Otherwise the patients behind it would be missing without a word."""
    path = write_manifest(tmp_path, [manifest_row(f"P{number}", afp="500") for number in range(4)])
    lines = path.read_text(encoding="utf-8").replace(",", separator).splitlines()
    lines[2] = lines[2].removesuffix("500") + '"500'
    lines[3] += '"'
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match="whole rows") as caught:
        read_manifest(path)
    assert "line 4" in str(caught.value.got)


def test_a_line_break_within_a_text_is_none_of_the_tables(tmp_path: Path) -> None:
    """Alt+Enter in a cell is a text's own."""
    paths = {f"{phase}_path": f"{phase}.dcm" for phase in PHASES}
    rows = [manifest_row("P0", afp="6.5\nng/mL, fasting", **paths), manifest_row("P1", **paths)]
    path = write_manifest(tmp_path, rows)
    assert [row.subject for row in read_manifest(path).rows] == ["P0", "P1"]


@pytest.mark.parametrize("name", ["manifest.csv", "nothing"])
def test_what_cannot_be_scanned_is_said_without_a_pseudonym(tmp_path: Path, name: str) -> None:
    """A file, and a folder without files, inside the root."""
    (tmp_path / "manifest.csv").write_text("x", encoding="utf-8")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError) as caught:
        scan(tmp_path / name, root=tmp_path)
    assert not isinstance(caught.value, PatientError)
    assert "folder" in caught.value.what


@pytest.mark.parametrize(
    ("spacing", "noted"), [((3.5, 3.5), False), ((3.5, 3.52), False), ((3.5, 4.5), True)]
)
def test_pixels_that_are_not_square_are_warned_of(
    tmp_path: Path, spacing: tuple[float, float], *, noted: bool
) -> None:
    """Scanners reconstruct squares: the two numbers come from elsewhere."""
    patient = _patient(tmp_path, {}, change=lambda dataset: setattr(dataset, "PixelSpacing", list(spacing)))
    assert any("square" in text for text in patient.warnings) == noted


def test_grey_values_with_noise_are_no_hu() -> None:
    """Dithering and interpolation spread a window's lowest value, by far less than a CT's noise."""
    source = Source("A", "nc.nii", Path("nc.nii"), Path())
    rng = np.random.default_rng(0)
    with pytest.raises(PatientError, match="windowed"):
        check_hu((window(body()) + rng.uniform(0, 0.6, (SIZE, SIZE))).astype(np.float32), source=source)
    tight = body()  # the field of view lies within the patient: honest, and no air
    tight[tight < -300] = -95
    check_hu((tight + rng.normal(0, 4, tight.shape)).astype(np.float32), source=source)


def test_a_scan_says_where_patients_share_a_folder(tmp_path: Path) -> None:
    """Rows that name one folder of two patients would both be refused."""
    for subject in ("one", "two"):
        for phase in PHASES:
            for z in (0.0, 5.0):
                dataset = ct_dataset(body(phase), phase=phase, z=z, subject=subject, SeriesDescription=phase)
                save(dataset, tmp_path / f"{subject}-{phase}-{z}.dcm")
    notes = [patient.notes for patient in scan(tmp_path, root=tmp_path).patients]
    assert [any("share a folder" in note for note in of) for of in notes] == [True, True]


def test_used_patients_are_counted_after_they_were_compared(tmp_path: Path) -> None:
    """A patient who is there twice is quarantined, and not counted as prepared as well."""
    write_hospital(tmp_path / "data")
    with (tmp_path / "data" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    write_manifest(tmp_path / "data", [*rows, {**rows[-1], "subject_id": "again"}])
    for counted in ((9, 0), (0, 9)):
        summary = prepare(prepare_config(tmp_path), workers=1)
        assert (summary.prepared, summary.reused) == counted
        assert len(summary.quarantined) == 1


def test_a_warning_of_the_manifests_values_goes_when_they_are_corrected(tmp_path: Path) -> None:
    """The patient's prepared image is reused only while what it was compared with stays."""
    write_hospital(tmp_path / "data")
    for phase in PHASES:
        path = tmp_path / "data" / "P8" / f"{phase}.dcm"
        dataset = dcmread(path)
        dataset.PatientSex = "F"
        dataset.save_as(path)
    with (tmp_path / "data" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for gender, noted in (("male", True), ("female", False)):
        rows[8]["gender"] = gender
        write_manifest(tmp_path / "data", rows)
        warnings = prepare(prepare_config(tmp_path), workers=1).warnings
        assert ("P8", "the manifest's gender is not that of the images") in warnings or not noted
        assert bool([subject for subject, text in warnings if "gender" in text]) == noted


def test_the_part_that_is_largest_in_space_chooses_the_slice(tmp_path: Path) -> None:
    """A slip of the brush on one slice may cover more of it than the lesion does of any."""
    inside = np.zeros((7, SIZE, SIZE), dtype=np.uint8)
    inside[1:4, 40:50, 22:32] = 1
    inside[2, 50, 22:32] = 1
    inside[6, 60:75, 60:75] = 1
    write_nifti(tmp_path / "mask.nii", inside)
    mask = read_mask(locate("mask.nii", subject="A", root=tmp_path.resolve()), kind="nifti")
    assert mask.largest() is mask.planes[1]


@pytest.mark.parametrize("stands_there", ["a file", "a link to nothing"])
def test_what_stands_where_the_prepared_folder_should_be_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], stands_there: str
) -> None:
    """No traceback for a path of the configuration that names something else."""
    write_hospital(tmp_path / "data")
    if stands_there == "a file":
        (tmp_path / "prepared").write_text("x", encoding="utf-8")
    else:
        (tmp_path / "prepared").symlink_to("nowhere/at/all")

    def command(*, standalone_mode: bool) -> None:
        prepare(prepare_config(tmp_path), workers=1)

    with pytest.raises(SystemExit) as ended:
        command_errors.run(command, name="stic-client")
    assert ended.value.code == 1
    assert capfd.readouterr().err.count("\n") == 1


def test_a_path_that_cannot_be_written_in_this_locale_is_that_patients_fault(tmp_path: Path) -> None:
    """It would end the preparation of all."""
    with pytest.raises(PatientError, match="LC_ALL"):
        locate("P\ud800/nc.dcm", subject="A", root=tmp_path.resolve())
