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
from support.ingest_files import PHASES, body, ct_dataset, save, write_series


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
