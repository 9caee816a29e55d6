"""MCT-LTDiag: a miniature in its layout, and the real patient table."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest

from stic_client.ingest.manifest import read_manifest
from stic_client.preparation.prepare import prepare
from stic_client.preparation.public_cohorts import TABLE, import_mct_ltdiag, label_of
from stic_core.config import DatasetConfig, ServerAddress, SiteConfig
from stic_core.errors import DataError, UsageError
from stic_core.tasks import TASKS
from support.ingest_files import real
from support.public_cohort_files import miniature as miniature  # noqa: PLC0414 - a fixture is found by its name


def test_the_miniature_is_imported_and_prepared(miniature: Path, tmp_path: Path) -> None:
    """From the download to a prepared dataset: metastases are META, hemangiomas left out, ages in years."""
    summary = import_mct_ltdiag(miniature, out=tmp_path)
    assert summary.counts == {"": {"HCC": 2, "ICC": 2, "META": 2}}
    assert summary.left_out == {"of a type that the task does not have": 1, "without images": 1}
    manifest = read_manifest(summary.manifests[""])
    assert not manifest.refused
    assert Counter((row.label, row.split) for row in manifest.rows) == Counter(
        (label, split) for label in ("HCC", "ICC", "META") for split in ("train", "test")
    )
    ages = {row.subject: row.clinical["age"] for row in manifest.rows}
    assert ages["230218a2"] == "61"
    config = SiteConfig(
        site="m1",
        server=ServerAddress(address="localhost:1"),
        dataset=DatasetConfig(
            root=summary.root,
            manifest=summary.manifests[""],
            prepared=tmp_path / "prepared",
            max_quarantined=0,
        ),
    )
    prepared = prepare(config, workers=0, task=TASKS["malignant"])
    assert len(prepared.dataset) == 6
    # No markers in this cohort: only age and sex have columns.
    assert prepared.dataset.clinical[:, 5:].sum() == 0
    assert prepared.rejected == 0
    assert not [text for _, text in prepared.warnings if "swapped" in text]


def test_centres_of_a_simulated_federation(miniature: Path, tmp_path: Path) -> None:
    """Each patient in one centre, stratified; the same again for the same seed."""
    first = import_mct_ltdiag(miniature, out=tmp_path / "a", centres=("c1", "c2"), seed=3)
    again = import_mct_ltdiag(miniature, out=tmp_path / "b", centres=("c1", "c2"), seed=3)
    assert first.counts == {name: {"HCC": 1, "ICC": 1, "META": 1} for name in ("c1", "c2")}
    subjects = [row.subject for path in first.manifests.values() for row in read_manifest(path).rows]
    assert len(subjects) == len(set(subjects)) == 6
    for name in ("c1", "c2"):
        assert first.manifests[name].read_bytes() == again.manifests[name].read_bytes()


def test_benign_against_malignant(miniature: Path, tmp_path: Path) -> None:
    """Hemangiomas are BENIGN where the task has that class."""
    summary = import_mct_ltdiag(miniature, out=tmp_path, task=TASKS["benign-malignant"])
    assert summary.counts == {"": {"BENIGN": 1, "MALIGNANT": 6}}
    assert label_of("HH", task=TASKS["malignant"]) is None
    assert label_of("BCLM", task=TASKS["hcc-icc"]) is None


def test_real_patient_table(tmp_path: Path) -> None:
    """517 real patients: every age and sex is read; without images all of them are counted as such."""
    shutil.copy(real("mct-ltdiag") / TABLE, tmp_path / TABLE)
    with pytest.raises(DataError, match="421 without images, 96 of a type"):
        import_mct_ltdiag(tmp_path, out=tmp_path / "out")
    with (tmp_path / TABLE).open(newline="", encoding="utf-8-sig") as file:
        records = list(csv.DictReader(file))
    for record in records:
        folder = tmp_path / record["ID"] / "NIFTI"
        folder.mkdir(parents=True)
        for name in ("nc", "art", "pvp", "mask_pvp"):
            (folder / f"{name}.nii.gz").touch()
    summary = import_mct_ltdiag(tmp_path, out=tmp_path / "out", centres=("a", "b"))
    total = Counter()
    for counts in summary.counts.values():
        total.update(counts)
    assert total == {"HCC": 103, "ICC": 100, "META": 218}
    for path in summary.manifests.values():
        assert not read_manifest(path).refused


@pytest.mark.parametrize("end", ["", ",", ",a remark"], ids=["as it is", "a comma", "a value more"])
def test_ids_of_the_table_stay_texts(tmp_path: Path, end: str) -> None:
    """007 and NA are names, a short row lacks values, and a row that is too long shifts no other's columns."""
    lines = [
        "ID,type,patient_sex,patient_age",
        "007,HCC,M,61",
        "NA,HCC,F,50" + end,
        "1e3,HCC,M,44" + end,
        "8,HCC",
    ]
    (tmp_path / TABLE).write_text("\n".join(lines) + "\n")
    for name in ("007", "NA", "1e3", "8"):
        folder = tmp_path / name / "NIFTI"
        folder.mkdir(parents=True)
        for phase in ("nc", "art", "pvp", "mask_pvp"):
            (folder / f"{phase}.nii.gz").touch()
    summary = import_mct_ltdiag(tmp_path, out=tmp_path / "out")
    rows = read_manifest(summary.manifests[""]).rows
    assert {row.subject: row.clinical["age"] for row in rows} == {"007": "61", "NA": "50", "1e3": "44"}
    assert summary.left_out == {"without a readable age or sex": 1}


def test_what_is_no_download_is_an_error(tmp_path: Path) -> None:
    """No table, other columns, the same centre twice."""
    with pytest.raises(DataError, match="patient table"):
        import_mct_ltdiag(tmp_path, out=tmp_path)
    (tmp_path / TABLE).write_text("ID,kind\n1,HCC\n")
    with pytest.raises(DataError, match="got no "):
        import_mct_ltdiag(tmp_path, out=tmp_path)
    with pytest.raises(UsageError):
        import_mct_ltdiag(tmp_path, out=tmp_path, centres=("a", "a"))
