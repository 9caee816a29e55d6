"""Proposing a manifest: phases by description and time, how sure that is, and no invented label."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from pydicom import Dataset

from stic_client.ingest.manifest import read_manifest
from stic_client.ingest.proposal import write_proposal
from stic_client.ingest.scan import scan
from stic_client.ingest.words import guess_phase
from stic_core.errors import DataError
from support.ingest_files import PHASES, body, ct_dataset, enhanced_dataset, save, write_series


@pytest.mark.parametrize(
    ("description", "phase"),
    [
        ("NC abdomen", "nc"),
        ("Non-contrast 5mm", "nc"),
        ("NATIV", "nc"),
        ("平扫", "nc"),
        ("Liver late arterial", "art"),
        ("ART 1.25", "art"),
        ("动脉期", "art"),
        ("Portal Venous", "pv"),
        ("PVP", "pv"),
        ("门脉期", "pv"),
        ("Delayed 3 min", "other"),
        ("Abdomen 5.0 B30f", ""),
        ("arterial and venous", ""),
        ("PARTIAL", ""),
    ],
)
def test_phases_by_description(description: str, phase: str) -> None:
    """A word that could be two phases is none."""
    assert guess_phase(description) == phase


def _study(root: Path, subject: str, *, descriptions: dict[str, str], times: bool = True) -> None:
    for phase in PHASES:

        def change(dataset: Dataset, number: int, phase: str = phase) -> None:
            dataset.SeriesDescription = descriptions[phase]
            dataset.PatientAge, dataset.PatientSex = "061Y", "F"
            if not times:
                del dataset.AcquisitionTime

        write_series(root / subject / phase, phase=phase, subject=subject, change=change)


def test_a_study_becomes_a_row_without_a_label(tmp_path: Path) -> None:
    """Phases with high confidence, age and sex of the header, nothing of the name; a person adds the rest."""
    _study(tmp_path, "x", descriptions={"nc": "NC", "art": "arterial", "pv": "portal venous"})
    save(ct_dataset(body(), subject="x", Modality="SR"), tmp_path / "x" / "report.dcm")
    (tmp_path / "x" / "readme.txt").write_text("Secret^Name")
    proposal = scan(tmp_path, root=tmp_path)
    (patient,) = proposal.patients
    assert patient.confidence == dict.fromkeys(PHASES, "high")
    assert patient.row["nc_path"] == "x/nc"
    assert patient.row["pv_path"] == "x/pv"
    assert (patient.row["age"], patient.row["gender"]) == ("61", "female")
    assert patient.row["label"] == patient.row["split"] == ""
    assert sum(proposal.skipped.values()) == 2
    manifest, notes = write_proposal(proposal, folder=tmp_path / "out")
    assert b"Secret" not in manifest.read_bytes() + notes.read_bytes()
    # As it stands it is refused row by row, for want of split and label.
    assert len(read_manifest(manifest).refused) == 1
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = [{**row, "split": "train", "label": "HCC"} for row in csv.DictReader(file)]
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert len(read_manifest(manifest).rows) == 1


def test_confidence_falls_with_what_is_missing(tmp_path: Path) -> None:
    """Descriptions without times: medium; against the times: low; times alone: low; nothing: none."""
    named = {"nc": "NC", "art": "arterial", "pv": "portal venous"}
    _study(tmp_path, "a", descriptions=named, times=False)
    _study(tmp_path, "b", descriptions={**named, "nc": "portal venous", "pv": "NC"})
    _study(tmp_path, "c", descriptions=dict.fromkeys(PHASES, "Abdomen"))
    _study(tmp_path, "d", descriptions=dict.fromkeys(PHASES, "Abdomen"), times=False)
    sure = [set(patient.confidence.values()) for patient in scan(tmp_path, root=tmp_path).patients]
    assert sure == [{"medium"}, {"low"}, {"low"}, {"none"}]


def test_two_studies_are_two_patients(tmp_path: Path) -> None:
    """A study is a patient, numbered in the order of paths."""
    for subject in ("b", "a"):
        _study(tmp_path, subject, descriptions={"nc": "NC", "art": "arterial", "pv": "portal venous"})
    patients = scan(tmp_path, root=tmp_path).patients
    assert [(patient.row["subject_id"], patient.row["nc_path"]) for patient in patients] == [
        ("S0001", "a/nc"),
        ("S0002", "b/nc"),
    ]


def test_folder_without_ct_is_an_error(tmp_path: Path) -> None:
    """And one outside of the root."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.txt").write_text("no")
    with pytest.raises(DataError, match="no CT"):
        scan(tmp_path / "x", root=tmp_path)
    with pytest.raises(DataError, match="not inside"):
        scan(tmp_path, root=tmp_path / "x")


_NAMED = {"nc": "NC", "art": "arterial", "pv": "portal venous"}


def test_notes_say_who_each_patient_is(tmp_path: Path) -> None:
    """For a join with laboratory and pathology tables: numbers of the hospital, in the notes alone."""
    _study(tmp_path, "x", descriptions=dict.fromkeys(PHASES, "Abdomen"), times=False)
    proposal = scan(tmp_path, root=tmp_path)
    manifest, notes = write_proposal(proposal, folder=tmp_path)
    with notes.open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["proposed_subject"], row["patient_id"], row["folder"]) == ("S0001", "HOSPITAL-42", "x")
    assert row["study_uid"]
    # No phase was found, and still each series can be.
    assert proposal.patients[0].row["nc_path"] == ""
    assert all(f"x/{phase} (5 files)" in row["series"] for phase in PHASES)
    assert b"HOSPITAL" not in manifest.read_bytes()
    assert notes.stat().st_mode & 0o077 == 0


def test_the_usual_series_is_preferred(tmp_path: Path) -> None:
    """Neither the coronal view nor the lung kernel, though they have more slices; the note says why."""
    _study(tmp_path, "x", descriptions=_NAMED)

    def lung(dataset: Dataset, number: int) -> None:
        dataset.SeriesDescription, dataset.SeriesInstanceUID = "arterial", "1.2.7"
        dataset.ConvolutionKernel = "B70f"

    def coronal(dataset: Dataset, number: int) -> None:
        dataset.SeriesDescription, dataset.SeriesInstanceUID = "portal venous", "1.2.8"
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    heights = tuple(range(-30, 30, 2))
    write_series(tmp_path / "x" / "lung", phase="art", subject="x", heights=heights, change=lung)
    write_series(tmp_path / "x" / "coronal", phase="pv", subject="x", heights=heights, change=coronal)
    proposal = scan(tmp_path, root=tmp_path)
    (patient,) = proposal.patients
    assert [patient.row[f"{phase}_path"] for phase in PHASES] == ["x/nc", "x/art", "x/pv"]
    assert any("soft kernel was preferred" in note for note in patient.notes)
    assert proposal.skipped == {"the slice is not axial but shows another plane": len(heights)}


@pytest.mark.parametrize("beside", [True, False])
def test_a_segmentation_is_proposed_as_mask(tmp_path: Path, beside: bool) -> None:
    """By the series that it was drawn on; of its segments the lesion; within the CT's folder or not."""
    _study(tmp_path, "x", descriptions=_NAMED)
    reference = Dataset()
    reference.SeriesInstanceUID = ct_dataset(body(), phase="pv", subject="x").SeriesInstanceUID
    segments = [Dataset(), Dataset()]
    for number, (segment, label) in enumerate(zip(segments, ("Liver", "Liver lesion"), strict=True), start=1):
        segment.SegmentNumber, segment.SegmentLabel = number, label
    seg = ct_dataset(body(), subject="x", Modality="SEG", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    seg.SeriesInstanceUID, seg.SegmentSequence, seg.ReferencedSeriesSequence = "1.2.3", segments, [reference]
    save(seg, tmp_path / "x" / ("pv" if beside else "seg") / "seg.dcm")
    (patient,) = scan(tmp_path, root=tmp_path).patients
    columns = ("mask_path", "mask_phase", "mask_type", "mask_label", "pv_path")
    assert [patient.row[name] for name in columns] == [
        f"x/{'pv' if beside else 'seg'}/seg.dcm",
        "pv",
        "seg",
        "2",
        "x/pv",
    ]


def test_studies_with_equal_uids_are_told_apart(tmp_path: Path) -> None:
    """Anonymisers write one study UID, and some one PatientID, into every file; two reconstructions are one study."""

    def study(name: str, patient: str, **elements: object) -> None:
        for phase in PHASES:

            def change(dataset: Dataset, number: int, phase: str = phase) -> None:
                dataset.SeriesDescription, dataset.StudyInstanceUID, dataset.PatientID = (
                    _NAMED[phase],
                    "1.2",
                    patient,
                )
                for keyword, value in elements.items():
                    setattr(dataset, keyword, value)

            write_series(tmp_path / "x" / name / phase, phase=phase, subject=name, change=change)

    for name in ("a", "b"):
        study(name, "anonymous")
    for name in ("c", "d"):
        study(name, name)
    for name in ("e/thin", "e/thick"):
        study(name, "e", FrameOfReferenceUID="1.2.9")
    patients = scan(tmp_path, root=tmp_path).patients
    assert [patient.row["nc_path"] for patient in patients] == [
        "x/a/nc",
        "x/b/nc",
        "x/c/nc",
        "x/d/nc",
        "x/e/thick/nc",
    ]
    assert all(any("one study UID" in note for note in patient.notes) for patient in patients)


def test_enhanced_files_are_judged_by_their_frames(tmp_path: Path) -> None:
    """A projection and a coronal view say so in functional groups, and are not proposed."""
    for number, (name, description) in enumerate(_NAMED.items()):
        dataset = enhanced_dataset((name,))
        dataset.SeriesDescription, dataset.SeriesInstanceUID = description, f"1.2.{number + 1}"
        save(dataset, tmp_path / "x" / f"{name}.dcm")
        shared, kind = dataset.SharedFunctionalGroupsSequence[0], Dataset()
        if name == "art":
            kind.FrameType = ["DERIVED", "PRIMARY", "VOLUME", "MAX_IP"]
            shared.CTImageFrameTypeSequence = [kind]
        else:
            shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        dataset.SeriesInstanceUID = f"1.2.{number + 7}"
        save(dataset, tmp_path / "x" / f"a-{name}.dcm")
    proposal = scan(tmp_path, root=tmp_path)
    (patient,) = proposal.patients
    assert [patient.row[f"{phase}_path"] for phase in PHASES] == [f"x/{phase}.dcm" for phase in PHASES]
    assert patient.row["layout"] == "dicom_enhanced"
    assert sum(proposal.skipped.values()) == 3
