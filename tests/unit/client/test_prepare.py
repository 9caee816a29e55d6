"""`prepare`: one bad patient stops nobody, a second run does what changed, a killed one goes on."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path

import pytest

from stic_client.preparation.prepare import prepare
from stic_core.config import ImageConfig
from stic_core.data.clinical import COLUMNS
from stic_core.data.dataset import load_dataset
from stic_core.errors import ConfigError, DataError
from stic_core.tasks import TASKS
from support.ingest_files import (
    body,
    ct_dataset,
    manifest_row,
    prepare_config,
    save,
    write_hospital,
    write_manifest,
)

LABELS = ("HCC", "ICC", "META")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine patients, a third of them held out."""
    data = tmp_path_factory.mktemp("cohort") / "data"
    write_hospital(data)
    return data.parent


@pytest.fixture
def site(cohort: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    shutil.copytree(cohort / "data", tmp_path / "data")
    return tmp_path


def _rows(site: Path) -> list[dict[str, str]]:
    with (site / "data" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_cohort_is_prepared(site: Path) -> None:
    """Images, clinical columns, labels and a drawn val, and progress up to the end."""
    steps: list[tuple[int, int]] = []
    summary = prepare(
        prepare_config(site), workers=0, progress=lambda done, total: steps.append((done, total))
    )
    dataset = load_dataset(site / "prepared", verify=True)
    assert len(dataset) == 9
    assert steps[0] == (0, 9)
    assert steps[-1] == (9, 9)
    assert summary.counts["test"] == {"HCC": 1, "ICC": 1, "META": 1}
    assert summary.counts["val"] == {"HCC": 1, "ICC": 1, "META": 1}
    assert dataset.clinical[:, COLUMNS.index("AFP_abnormal1")].all()
    assert summary.missing["afp"] == 0
    assert summary.missing["cea"] == 1
    assert summary.dataset.fingerprint == dataset.fingerprint
    assert not dataset.phantom


def test_a_second_run_does_what_changed(site: Path) -> None:
    """Nothing changed: all reused, same fingerprint; a file, a setting or a label: no more than that."""
    first = prepare(prepare_config(site), workers=0)
    again = prepare(prepare_config(site), workers=0)
    assert (first.prepared, first.reused) == (9, 0)
    assert (again.prepared, again.reused) == (0, 9)
    assert again.dataset.fingerprint == first.dataset.fingerprint

    save(ct_dataset(body("pv", seed=77), phase="pv", subject="P4"), site / "data" / "P4" / "pv.dcm")
    changed = prepare(prepare_config(site), workers=0)
    assert (changed.prepared, changed.reused) == (1, 8)
    assert changed.dataset.fingerprint != first.dataset.fingerprint

    rows = _rows(site)
    rows[5]["label"], rows[6]["cea"] = "ICC", "3"
    write_manifest(site / "data", rows)
    relabelled = prepare(prepare_config(site), workers=0)
    assert (relabelled.prepared, relabelled.reused) == (0, 9)
    assert relabelled.dataset.labels[5] == "ICC"
    assert prepare(prepare_config(site, image={"crop_mm": 90}), workers=0).prepared == 9


def test_bad_patients_are_quarantined(site: Path) -> None:
    """Each with its reason; the others are prepared; nothing but pseudonyms is written."""
    (site / "data" / "P3" / "art.dcm").unlink()
    broken = site / "data" / "P4" / "pv.dcm"
    broken.write_bytes(broken.read_bytes()[:-500])
    rows = _rows(site)
    rows[5]["gender"] = "unknown"
    rows[6]["afp"] = "6,500"
    rows[0]["afp"] = "see Dr. Smith"
    rows[7]["subject_id"] = "Doe^Jane"
    write_manifest(site / "data", rows)
    summary = prepare(prepare_config(site), workers=0)
    assert len(summary.dataset) == 4
    assert summary.dataset.quarantined == 5
    with (site / "prepared" / "quarantine.csv").open(encoding="utf-8") as file:
        quarantine = list(csv.DictReader(file))
    assert {row["subject_id"]: row["reason"] for row in quarantine} == {
        "(line 9)": "subject_id is not a pseudonym",
        "P3": "it does not exist",
        "P4": "pixel data are cut short",
        "P5": "gender cannot be read",
        "P6": "afp can be read as two numbers",
    }
    assert "6.5 or 6500" in next(row["message"] for row in quarantine if row["subject_id"] == "P6")
    assert ("P0", "the text of afp is not understood: treated as missing") in summary.warnings
    written = b"".join(path.read_bytes() for path in (site / "prepared").glob("*.csv"))
    written += (site / "prepared" / "preparation.json").read_bytes()
    for secret in (b"Secret", b"HOSPITAL", b"Smith", b"Doe"):
        assert secret not in written


def test_too_many_bad_patients_fail(site: Path) -> None:
    """Above the site's limit, and when nobody is left; the quarantine is written all the same."""
    for number in range(3):
        (site / "data" / f"P{number}" / "art.dcm").unlink()
    with pytest.raises(DataError, match="at most 2"):
        prepare(prepare_config(site, max_quarantined=2), workers=0)
    assert len((site / "prepared" / "quarantine.csv").read_text().splitlines()) == 4
    assert not (site / "prepared" / "dataset.json").exists()
    shutil.rmtree(site / "data" / "P3")
    write_manifest(site / "data", _rows(site)[:4])
    with pytest.raises(DataError, match="no patient can be used"):
        prepare(prepare_config(site), workers=0)


def test_same_pixels_in_two_splits_are_refused(site: Path) -> None:
    """A patient under two pseudonyms, one of them held out: both go; within a split one stays."""
    shutil.rmtree(site / "data" / "P8")
    shutil.copytree(site / "data" / "P0", site / "data" / "P8")
    shutil.rmtree(site / "data" / "P7")
    shutil.copytree(site / "data" / "P6", site / "data" / "P7")
    summary = prepare(prepare_config(site), workers=0)
    assert {refusal.subject: refusal.reason for refusal in summary.quarantined} == {
        "P0": "the same images in two splits",
        "P7": "the same images as another patient",
        "P8": "the same images in two splits",
    }


def test_task_is_checked(site: Path) -> None:
    """A label that the task lacks is a patient's fault; an empty class in test is the dataset's."""
    summary = prepare(prepare_config(site), workers=0, task=TASKS["hcc-icc"])
    assert summary.reasons == {"a class that the task does not have": 3}
    rows = _rows(site)
    rows[2]["split"] = "train"
    write_manifest(site / "data", rows)
    with pytest.raises(DataError, match="no META"):
        prepare(prepare_config(site), workers=0, task=TASKS["malignant"])


def test_censored_value_is_warned_of(site: Path) -> None:
    """`>20` settles no level of AFP: missing, and the patient is listed; units are converted."""
    rows = _rows(site)
    rows[3]["afp"] = ">20"
    rows[4]["tbil"] = "1.0"
    write_manifest(site / "data", rows)
    summary = prepare(prepare_config(site, units={"tbil": "mg/dL"}), workers=0)
    assert ("P3", "afp is censored and does not determine a level: treated as missing") in summary.warnings
    assert summary.dataset.clinical[4, COLUMNS.index("TBIL_abnormal")] == 1
    with pytest.raises(ConfigError, match=r"units\.tbil"):
        prepare(prepare_config(site, units={"tbil": "furlongs"}), workers=0)


def test_crop_without_a_place_is_counted(site: Path) -> None:
    """Patients whose lesion's place is not known keep their whole slice."""
    rows = _rows(site)
    for row in rows[:5]:
        row |= {"lesion_row": "46", "lesion_col": "28", "mask_phase": "nc"}
    write_manifest(site / "data", rows)
    summary = prepare(prepare_config(site, image=ImageConfig(crop_mm=80).model_dump()), workers=0)
    assert summary.without_place == 4
    assert summary.dataset.image.crop_mm == 80


def test_checksums_of_the_export_are_compared(site: Path) -> None:
    """Where SHA256SUMS lies in the root, a file that differs from it is refused, also if it was prepared."""
    data = site / "data"
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(data)}\n"
        for path in sorted(data.rglob("*.dcm"))
    ]
    (data / "SHA256SUMS").write_text("".join(lines))
    assert len(prepare(prepare_config(site), workers=0).dataset) == 9
    (data / "SHA256SUMS").write_text("".join(["0" * 64 + lines[0][64:], *lines[1:]]))
    summary = prepare(prepare_config(site), workers=0)
    assert list(summary.reasons) == ["a file differs from the exported one: its checksum does not match"]
    (data / "SHA256SUMS").write_text("no checksum")
    with pytest.raises(DataError, match="SHA256SUMS"):
        prepare(prepare_config(site), workers=0)


def test_checkerboards_on_request(site: Path) -> None:
    """A PNG a registered phase, also for patients who are prepared already."""
    prepare(prepare_config(site), workers=0)
    assert not (site / "prepared" / "checkerboards").exists()
    prepare(prepare_config(site), workers=0, checkerboards=True)
    assert len(list((site / "prepared" / "checkerboards").glob("*.png"))) == 18


def test_interrupted_run_goes_on(site: Path) -> None:
    """What was done before the interrupt is not done again."""

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(prepare_config(site), workers=0, progress=interrupt)
    summary = prepare(prepare_config(site), workers=0)
    assert (summary.prepared, summary.reused) == (5, 4)


def test_row_without_a_root_is_a_data_error(tmp_path: Path) -> None:
    """No folder, no manifest: each says what to do."""
    with pytest.raises(DataError, match=r"dataset\.root"):
        prepare(prepare_config(tmp_path), workers=0)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="manifest is missing"):
        prepare(prepare_config(tmp_path), workers=0)
    write_manifest(tmp_path / "data", [manifest_row(nc_path="../x", art_path="../y", pv_path="../z")])
    with pytest.raises(DataError, match="no patient can be used"):
        prepare(prepare_config(tmp_path), workers=0)
