"""The phantom cohort: deterministic files, valid DICOM, and patients that look like their class."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pydicom
import pytest

from stic_core.data.clinical import COLUMNS, encode
from stic_core.data.ct import PHASES
from stic_core.errors import UsageError
from stic_core.phantom import (
    CENTRES,
    DEMO_COUNTS,
    FULL_COUNTS,
    MANIFEST_COLUMNS,
    Centre,
    PhantomPatient,
    clean,
    draw_patient,
    is_phantom,
    members,
    render,
    resample,
    scene,
    write_cohort,
)
from stic_core.phantom.clinical import draw_clinical, draw_host
from stic_core.phantom.cohort import Member, write_patient
from stic_core.phantom.lesion import SIGNS
from stic_core.phantom.shapes import Grid, depth, ellipse, tube

COUNTS = {"train": 3, "test": 1}


@cache
def drawn(label: str, *, count: int = 200) -> tuple[PhantomPatient, ...]:
    """Patients of a class, drawn and not rendered."""
    return tuple(draw_patient(centre=CENTRES["center1"], label=label, seed=7, index=i) for i in range(count))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A small cohort on disk."""
    folder = tmp_path_factory.mktemp("phantom")
    return write_cohort(folder, centre="center1", seed=3, counts=COUNTS).parent


@pytest.fixture(scope="module")
def rows(cohort):
    """Its manifest."""
    with (cohort / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_equal_arguments_write_equal_bytes(cohort, tmp_path):
    """A cohort is a function of its seed, centre and counts, with one process or two."""
    write_cohort(tmp_path, centre="center1", seed=3, counts=COUNTS, workers=2)
    files = sorted(path.relative_to(cohort) for path in cohort.rglob("*") if path.is_file())
    assert len(files) == 4 * 3 + 2
    for file in files:
        assert (tmp_path / file).read_bytes() == (cohort / file).read_bytes(), file


def test_another_seed_is_another_patient():
    """Seed, centre and index each change the patient."""
    base = draw_patient(centre=CENTRES["center1"], label="HCC", seed=0, index=0)
    assert base == draw_patient(centre=CENTRES["center1"], label="HCC", seed=0, index=0)
    for other in ({"seed": 1}, {"index": 1}, {"centre": CENTRES["center2"]}):
        patient = draw_patient(
            **{"centre": CENTRES["center1"], "label": "HCC", "seed": 0, "index": 0, **other}
        )
        assert patient.anatomy != base.anatomy


def test_a_complete_cohort_is_left_alone_and_any_other_rewritten(tmp_path):
    """A second call touches nothing; a lost file, or another seed, makes the cohort anew."""
    file = tmp_path / "center1-test-0000" / "pv.dcm"
    write_cohort(tmp_path, centre="center1", seed=0, counts={"test": 1})
    before, content = file.stat().st_mtime_ns, file.read_bytes()
    write_cohort(tmp_path, centre="center1", seed=0, counts={"test": 1})
    assert file.stat().st_mtime_ns == before
    file.unlink()
    seen: list[tuple[int, int]] = []
    write_cohort(tmp_path, centre="center1", seed=0, counts={"test": 1}, progress=lambda *n: seen.append(n))
    assert file.read_bytes() == content
    assert seen == [(1, 1)]
    write_cohort(tmp_path, centre="center1", seed=1, counts={"test": 1})
    assert file.read_bytes() != content


def test_the_manifest_has_the_columns_of_the_data_spec(rows):
    """Relative paths, raw texts, and the lesion's place on the portal venous slice."""
    assert tuple(rows[0]) == MANIFEST_COLUMNS
    for row in rows:
        assert row["layout"] == "dicom_slices"
        assert row["registered"] == "0"
        assert row["label_source"] == "pathology"
        assert row["mask_phase"] == "pv"
        assert not row["pv_path"].startswith("/")
        assert 0 < float(row["lesion_row"]) < 511
        assert 0 < float(row["lesion_col"]) < 300, "the liver is on the image's left"
        assert encode({key: row[key] for key in row if key in MANIFEST_COLUMNS[-9:]}).sum() >= 1


def test_files_are_ct_images_that_say_phantom(cohort, rows):
    """Header fields a reader relies on, and the word where an operator sees it."""
    for row in rows:
        headers = [pydicom.dcmread(cohort / row[f"{phase}_path"]) for phase in PHASES]
        times = [header.AcquisitionTime for header in headers]
        assert times == sorted(set(times))
        assert len({header.StudyInstanceUID for header in headers}) == 1
        assert len({header.SOPInstanceUID for header in headers}) == 3
        for header, phase in zip(headers, PHASES, strict=True):
            assert is_phantom(header)
            for field in ("PatientName", "ManufacturerModelName", "ImageComments", "StudyDescription"):
                assert str(header[field].value).startswith("PHANTOM"), field
            assert header.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
            assert list(header.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
            assert header.Modality == "CT"
            assert ("ContrastBolusAgent" in header) == (phase != "nc")
            assert header.pixel_array.shape == (512, 512)


def test_a_scanner_is_no_phantom():
    """A header without the word, or without the field, is a patient's."""
    assert not is_phantom(pydicom.Dataset())
    other = pydicom.Dataset()
    other.ManufacturerModelName = "Revolution"
    assert not is_phantom(other)


@pytest.mark.parametrize("centre", sorted(CENTRES))
def test_stored_values_times_slope_are_the_rendered_hu(centre, tmp_path):
    """HU survive the file to half a unit, in both ways of storing them."""
    member = Member("s", "train", "ICC", 5)
    write_patient(tmp_path, member=member, centre=CENTRES[centre], seed=2)
    header = pydicom.dcmread(tmp_path / "s" / "art.dcm")
    hu = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
    expected = render(draw_patient(centre=CENTRES[centre], label="ICC", seed=2, index=5), "art")
    inside = (expected > -1000) & (expected < 3000)
    assert np.abs(hu - expected)[inside].max() <= 0.5


def test_organs_have_the_hu_of_their_phase():
    """Aorta bright in the arterial phase, liver in the portal venous one; fat and bone as ever."""
    patient = draw_patient(centre=CENTRES["center1"], label="META", seed=1, index=1)
    layers = scene(patient)
    hu = {phase: clean(patient, phase, drawn=layers) for phase in PHASES}
    liver = (layers.liver > 0.99) & (layers.lesion == 0)
    medians = [float(np.median(hu[phase][liver])) for phase in PHASES]
    assert 35 < medians[0] < 70
    assert medians[0] < medians[1] < medians[2]
    assert 75 < medians[2] < 135
    aorta = patient.anatomy.aorta
    row, col = (round(v) for v in patient.grid.pixel(x=aorta.x, y=aorta.y))
    assert 30 < hu["nc"][row, col] < 60
    assert hu["art"][row, col] > 180
    assert 90 < hu["pv"][row, col] < 200
    assert hu["nc"][0, 0] == -1000
    assert hu["nc"].max() > 300


def test_an_hcc_is_brighter_than_the_liver_in_the_arterial_phase_and_a_metastasis_darker_later():
    """The classes' signatures, averaged over rendered lesions without noise."""
    contrast = {}
    for label in ("HCC", "META"):
        seen = []
        for patient in drawn(label)[:6]:
            layers = scene(patient)
            inside, liver = layers.lesion > 0.9, (layers.liver > 0.99) & (layers.lesion == 0)
            images = [clean(patient, phase, drawn=layers) for phase in PHASES]
            seen.append([np.median(image[inside]) - np.median(image[liver]) for image in images])
        contrast[label] = np.mean(seen, axis=0)
    assert contrast["HCC"][1] > 8
    assert contrast["META"][1] < 5
    assert contrast["META"][2] < -8
    assert contrast["HCC"][2] > contrast["META"][2]


@pytest.mark.parametrize("label", sorted(SIGNS))
def test_signs_are_as_frequent_as_counted(label):
    """Drawn rates and median diameter follow the table they come from."""
    lesions = [patient.lesions[0] for patient in drawn(label)]
    signs = SIGNS[label]
    for rate, shown in (
        (signs.rim, [lesion.arterial == "rim" for lesion in lesions]),
        (signs.diffuse, [lesion.arterial == "diffuse" for lesion in lesions]),
        (signs.nodular, [lesion.arterial == "nodular" for lesion in lesions]),
        (signs.washout, [lesion.washout for lesion in lesions]),
        (signs.lobulated, [lesion.lobulated for lesion in lesions]),
        (signs.capsule, [lesion.capsule_mm > 0 for lesion in lesions]),
    ):
        assert np.mean(shown) == pytest.approx(rate, abs=4 * np.sqrt(0.25 / len(lesions)))
    # The liver of a slice has no room for the largest ones, so the upper tail is cut.
    assert np.median([lesion.diameter_mm for lesion in lesions]) == pytest.approx(
        signs.diameter_mm[1], rel=0.25
    )


def records(label: str, centre: Centre, *, count: int) -> list[Mapping[str, str]]:
    """Clinical texts of patients of a class, without their images."""
    rng = np.random.default_rng(11)
    return [
        draw_clinical(label=label, host=draw_host(label=label, rng=rng), centre=centre, rng=rng)
        for _ in range(count)
    ]


def test_clinical_values_point_the_way_the_cutoffs_are_for():
    """AFP and HBsAg for HCC, CA19-9 for ICC, CEA for metastasis, platelets for cirrhosis."""
    centre = replace(CENTRES["center1"], missing=())
    rates = {
        label: np.mean([encode(texts)[0] for texts in records(label, centre, count=400)], axis=0)
        for label in ("HCC", "ICC", "META")
    }

    def highest(column: str) -> str:
        return max(rates, key=lambda label: rates[label][COLUMNS.index(column)])

    assert highest("AFP_abnormal1") == highest("AFP_abnormal2") == highest("HBsAg_positive") == "HCC"
    assert highest("PLT_abnormal") == highest("Gender_male") == "HCC"
    assert highest("CA199_abnormal") == highest("TBIL_abnormal") == "ICC"
    assert highest("CEA_abnormal") == "META"


@pytest.mark.parametrize("centre", sorted(CENTRES))
def test_values_are_missing_at_the_centres_rates(centre):
    """Every laboratory column is empty about as often as the centre says; age and gender never."""
    texts = records("HCC", CENTRES[centre], count=1000)
    for column, rate in CENTRES[centre].missing:
        share = np.mean([text[column] == "" for text in texts])
        assert share == pytest.approx(rate, abs=4 * np.sqrt(rate / len(texts)))
    assert all(text["age"] and text["gender"] for text in texts)


def test_center2_misses_less_than_center1():
    """As in the paper, where center 2 has fewer missing values."""
    first, second = (dict(CENTRES[name].missing) for name in ("center1", "center2"))
    assert all(second[column] < first[column] for column in first)


def test_texts_come_in_the_forms_that_hospitals_export():
    """Bounds, thousands and signs occur, and the reader understands each."""
    texts = {text for row in records("HCC", CENTRES["center1"], count=500) for text in row.values()}
    assert ">1210" in texts
    assert {"(-)", "+"} <= texts
    assert any("," in text for text in texts)


@pytest.mark.parametrize("counts", [DEMO_COUNTS, FULL_COUNTS])
def test_every_test_set_holds_enough_of_each_class(counts):
    """At least ten of each class in each test set, and shares that stay within one patient."""
    for name, splits in counts.items():
        cohort = members(centre=CENTRES[name], counts=splits)
        for split, count in splits.items():
            labels = [member.label for member in cohort if member.split == split]
            for label, share in CENTRES[name].shares:
                assert abs(labels.count(label) - share * count) < 1
                assert split != "test" or labels.count(label) >= 10
        assert len({member.subject for member in cohort}) == sum(splits.values())


def test_the_true_transform_leads_from_one_phase_to_another():
    """A slice without noise, moved back by the truth, is the slice at rest."""
    centre = replace(CENTRES["center1"], noise_hu=0.0, blur_mm=1e-6)
    patient = draw_patient(centre=centre, label="HCC", seed=4, index=2)
    layers = scene(patient)
    matrix = patient.transform("pv")
    moved = render(patient, "pv", drawn=layers)
    back = resample(moved, matrix)
    rest = clean(patient, "pv", drawn=layers)
    inside = layers.liver > 0.99
    assert np.abs(back - rest)[inside].mean() < 3
    assert np.abs(moved - rest)[inside].mean() > np.abs(back - rest)[inside].mean()
    row, col = patient.lesion_pixel("nc")
    assert np.allclose(matrix[:, :2] @ (row, col) + matrix[:, 2], patient.lesion_pixel("pv"))


def test_unknown_names_are_refused():
    """An unknown class, centre or split is an error that lists the known ones."""
    with pytest.raises(UsageError, match="HCC or ICC"):
        draw_patient(centre=CENTRES["center1"], label="FNH", seed=0, index=0)
    with pytest.raises(UsageError, match="train, val, test"):
        members(centre=CENTRES["center1"], counts={"holdout": 3})


def test_an_unknown_centre_is_refused(tmp_path):
    """A name that is none of `CENTRES`."""
    with pytest.raises(UsageError, match="center1 or center2"):
        write_cohort(tmp_path, centre="center9", seed=0, counts={"train": 1})


def test_outlines_cover_their_area():
    """A circle covers pi r^2, a tube its length times its width plus the round ends."""
    grid = Grid(200, 0.5, (-50.0, -50.0))
    circle = depth(ellipse(x=1.0, y=-2.0, semi=(20.0, 20.0)), grid)
    assert circle.cover().sum() * 0.25 == pytest.approx(np.pi * 400, rel=2e-3)
    _, inside = tube(grid, ((-20.0, 0.0, 3.0), (20.0, 0.0, 3.0)))
    assert np.clip(inside + 0.5, 0, 1).sum() * 0.25 == pytest.approx(240 + np.pi * 9, rel=1e-2)
