"""The prepared dataset on disk: what is written is what is read, and a torn one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stic_core.config import ImageConfig
from stic_core.data.dataset import SiteDataset, Split, draw_val, load_dataset, write_dataset
from stic_core.errors import DataError
from stic_core.tasks import TASKS


def _write(
    folder: Path,
    *,
    labels: tuple[str, ...] = ("HCC", "ICC", "META", "HCC"),
    splits: tuple[Split, ...] = ("train", "train", "val", "test"),
    subjects: tuple[str, ...] = ("A", "B", "C", "D"),
    crop_mm: float | None = None,
    change: Callable[[np.ndarray], None] | None = None,
) -> SiteDataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(labels), 224, 224, 3), dtype=np.uint8)
    if change:
        change(images)
    return write_dataset(
        folder,
        images=[images[:1], images[1:]],
        clinical=np.eye(len(labels), 20, dtype=np.float32),
        labels=labels,
        splits=splits,
        subjects=subjects,
        image=ImageConfig(crop_mm=crop_mm),
        phantom=True,
        quarantined=2,
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every field survives the disk, and the images are a memory map."""
    _write(tmp_path, crop_mm=80.0)
    dataset = load_dataset(tmp_path, verify=True)
    assert isinstance(dataset.images, np.memmap)
    expected = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    np.testing.assert_array_equal(dataset.images, expected)
    np.testing.assert_array_equal(dataset.clinical, np.eye(4, 20, dtype=np.float32))
    assert dataset.labels == ("HCC", "ICC", "META", "HCC")
    assert dataset.subjects == ("A", "B", "C", "D")
    assert dataset.image == ImageConfig(crop_mm=80.0)
    assert dataset.phantom
    assert dataset.quarantined == 2
    assert dataset.indices("train").tolist() == [0, 1]
    assert dataset.label_indices("train", TASKS["malignant"]).tolist() == [0, 1]
    assert dataset.counts(TASKS["malignant"])["train"] == {"HCC": 1, "ICC": 1, "META": 0}


def test_fingerprint_is_of_content_and_settings_not_of_names(tmp_path: Path) -> None:
    """Renaming patients keeps the fingerprint; one pixel, a label, a split or a setting changes it."""

    def one_pixel(images: np.ndarray) -> None:
        images[2, 5, 5, 1] ^= 1

    first = _write(tmp_path / "a")
    assert _write(tmp_path / "b", subjects=("W", "X", "Y", "Z")).fingerprint == first.fingerprint
    others = [
        _write(tmp_path / "c", change=one_pixel),
        _write(tmp_path / "d", labels=("HCC", "ICC", "META", "ICC")),
        _write(tmp_path / "e", splits=("train", "train", "train", "test")),
        _write(tmp_path / "f", crop_mm=80.0),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5
    changed, task = others[0], TASKS["malignant"]
    assert changed.fingerprint_for(task, "val") != first.fingerprint_for(task, "val")
    assert changed.fingerprint_for(task, "train") == first.fingerprint_for(task, "train")
    assert first.fingerprint_for(task) == first.fingerprint


def test_preparing_again_leaves_one_dataset(tmp_path: Path) -> None:
    """The arrays of the dataset before are removed once the new one is in place."""
    _write(tmp_path)
    _write(tmp_path, crop_mm=70.0)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    assert load_dataset(tmp_path, verify=True).image.crop_mm == 70.0


@pytest.mark.parametrize("damage", ["missing", "json", "truncated", "array gone", "version", "schema"])
def test_torn_dataset_is_refused_with_advice(tmp_path: Path, damage: str) -> None:
    """Whatever is broken on disk, the reader says to prepare again."""
    _write(tmp_path)
    images = next(tmp_path.glob("images-*.npy"))
    summary = tmp_path / "dataset.json"
    if damage == "missing":
        summary.unlink()
    elif damage == "json":
        summary.write_text(summary.read_text()[:100])
    elif damage == "truncated":
        images.write_bytes(images.read_bytes()[:-1])
    elif damage == "array gone":
        images.unlink()
    elif damage == "schema":
        summary.write_text('{"schema_version": 1, "spec_version": 1}')
    else:
        summary.write_text(summary.read_text().replace('"spec_version": 2', '"spec_version": 0'))
    with pytest.raises(DataError, match="Run stic-client --site S prepare"):
        load_dataset(tmp_path)


def test_verify_notices_one_changed_byte(tmp_path: Path) -> None:
    """A byte flipped on disk is found by `verify`."""
    _write(tmp_path)
    images = next(tmp_path.glob("images-*.npy"))
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    load_dataset(tmp_path)
    with pytest.raises(DataError, match="was changed"):
        load_dataset(tmp_path, verify=True)


def test_a_task_has_the_patients_of_its_classes(tmp_path: Path) -> None:
    """Others are left out and counted; class indices are the task's, in its order."""
    dataset = _write(
        tmp_path,
        labels=("META", "ICC", "HCC", "", "ICC", "HCC"),
        splits=("train", "train", "train", "test", "test", "val"),
        subjects=tuple("ABCDEF"),
    )
    task = TASKS["hcc-icc"]
    assert dataset.indices("train").tolist() == [0, 1, 2]
    assert dataset.indices("train", task).tolist() == [1, 2]
    assert dataset.label_indices("train", task).tolist() == [1, 0]
    assert dataset.indices("test", task).tolist() == [4]
    assert dataset.left_out(task) == 2
    assert dataset.counts(task)["test"] == {"HCC": 0, "ICC": 1}
    dataset.require(task)


def test_a_tasks_fingerprint_is_of_its_patients(tmp_path: Path) -> None:
    """A patient of another class comes, goes or changes: the task's is the same, the dataset's another."""
    task = TASKS["hcc-icc"]
    first = _write(tmp_path / "a")

    def of_meta(images: np.ndarray) -> None:
        images[2] ^= 1

    second = _write(tmp_path / "b", change=of_meta)
    assert second.fingerprint != first.fingerprint
    assert second.fingerprint_for(task) == first.fingerprint_for(task) != first.fingerprint

    def of_hcc(images: np.ndarray) -> None:
        images[3] ^= 1

    third = _write(tmp_path / "c", change=of_hcc)
    assert third.fingerprint_for(task, "test") != first.fingerprint_for(task, "test")
    assert third.fingerprint_for(task, "train") == first.fingerprint_for(task, "train")


def test_a_task_without_patients_is_refused(tmp_path: Path) -> None:
    """A site may lack a class, but not all."""
    dataset = _write(tmp_path, labels=("HCC", "HCC", "META", "HCC"))
    dataset.require(TASKS["malignant"])
    with pytest.raises(DataError, match="no BENIGN, no MALIGNANT"):
        dataset.require(TASKS["benign-malignant"])


def test_val_is_drawn_stratified_and_stable() -> None:
    """A fifth of each class moves to val, whatever the order; a single patient stays in train."""
    labels = ["HCC"] * 10 + ["ICC"] * 5 + ["META"]
    subjects = [f"S{row}" for row in range(16)]
    splits: list[Split] = ["train"] * 16
    drawn = draw_val(subjects, labels=labels, splits=splits, seed=3, share=0.2)
    taken = {subject for subject, split in zip(subjects, drawn, strict=True) if split == "val"}
    assert [sum(labels[int(s[1:])] == label for s in taken) for label in ("HCC", "ICC", "META")] == [2, 1, 0]
    order = np.random.default_rng(1).permutation(16)
    again = draw_val(
        [subjects[i] for i in order], labels=[labels[i] for i in order], splits=splits, seed=3, share=0.2
    )
    assert {subjects[i] for i, split in zip(order, again, strict=True) if split == "val"} == taken
    assert drawn != draw_val(subjects, labels=labels, splits=splits, seed=4, share=0.2)


def test_val_of_the_manifest_is_kept() -> None:
    """Where the manifest has a val, nothing is drawn, and test never moves."""
    splits: tuple[Split, ...] = ("train", "train", "val", "test")
    assert draw_val("ABCD", labels=["HCC"] * 4, splits=splits, seed=0, share=0.5) == splits
    no_val: tuple[Split, ...] = ("train", "train", "test", "test")
    assert draw_val("ABCD", labels=["HCC"] * 4, splits=no_val, seed=0, share=0.5)[2:] == ("test", "test")


def test_rows_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    """A subject twice is an error, and nothing is written."""
    with pytest.raises(DataError, match="do not agree"):
        _write(tmp_path, subjects=("A", "A", "C", "D"))
    assert not (tmp_path / "dataset.json").exists()


@pytest.mark.parametrize("schema", [1, 3, "2"])
def test_a_dataset_of_another_schema_is_said_to_be_one(tmp_path: Path, schema: object) -> None:
    """An older one, and a newer one after a downgrade: it is not called damaged."""
    _write(tmp_path)
    summary = tmp_path / "dataset.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"schema_version": schema}))
    with pytest.raises(DataError, match="was written by another version"):
        load_dataset(tmp_path)
