"""The prepared site dataset: what `prepare` leaves on disk, and its reader.

A folder holds `dataset.json` and the two arrays that it names (`images-*.npy`, mapped into
memory, and `clinical-*.npy`). The arrays are written first and the JSON is moved into place
last, so a preparation that is killed leaves the dataset before it whole.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from stic_core.config import ImageConfig
from stic_core.data.clinical import COLUMNS
from stic_core.data.ct import IMAGE_SIZE
from stic_core.errors import DataError
from stic_core.system.files import atomic_file, partial_of, put_in_place, write_atomically
from stic_core.system.room import RUN_AGAIN, reserve
from stic_core.tasks import Task
from stic_core.tensors.array_types import ClinicalMatrix, LabelVector, PhaseImages

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

SCHEMA_VERSION: Final = 2
"""Of `dataset.json`; another version's dataset is prepared again."""

SPEC_VERSION = 2
"""Version of the way from files to arrays; raised when the same files give other arrays."""

SUMMARY_FILE = "dataset.json"

_NPY_HEADER = 256
"""Bytes before an array, at most."""


class _Summary(BaseModel):
    """`dataset.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = SCHEMA_VERSION
    spec_version: int
    images: str
    clinical: str
    image: ImageConfig
    fingerprint: str
    row_digests: tuple[str, ...]
    phantom: bool
    quarantined: int
    subjects: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[Split, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SiteDataset:
    """A site's patients, ready for the model; row i of everything is the same patient.

    A task is a choice of classes: one dataset serves several tasks, each with its own patients.

    Args:
        images: mapped from disk, read-only, 0 to 255 after the CT window.
        clinical: the 20 columns, 0 or 1.
        labels: a class's name, "" where there is none.
        subjects: pseudonyms; they never leave the dataset.
        fingerprint: of all rows, see `fingerprint_of`.
        row_digests: see `digest_of_row`.
        image: how the images were prepared.
        phantom: at least one patient is a phantom.
        quarantined: patients of the manifest that could not be used.
    """

    folder: Path
    images: PhaseImages
    clinical: ClinicalMatrix
    labels: tuple[str, ...]
    splits: tuple[Split, ...]
    subjects: tuple[str, ...]
    fingerprint: str
    row_digests: tuple[str, ...]
    image: ImageConfig
    phantom: bool
    quarantined: int

    def __len__(self) -> int:
        return len(self.subjects)

    def indices(self, split: Split, task: Task | None = None) -> LabelVector:
        """Rows of one split, ascending; of a task, those whose label is one of its classes."""
        return np.array(
            [
                row
                for row, (of_row, label) in enumerate(zip(self.splits, self.labels, strict=True))
                if of_row == split and (task is None or label in task.classes)
            ],
            dtype=np.int64,
        )

    def label_indices(self, split: Split, task: Task) -> LabelVector:
        """The class index of each of `indices(split, task)`."""
        return np.array([task.index(self.labels[row]) for row in self.indices(split, task)], dtype=np.int64)

    def counts(self, task: Task) -> dict[str, dict[str, int]]:
        """A task's patients by split and class."""
        out = {split: dict.fromkeys(task.classes, 0) for split in SPLITS}
        for split, label in zip(self.splits, self.labels, strict=True):
            if label in out[split]:
                out[split][label] += 1
        return out

    def left_out(self, task: Task) -> int:
        """How many patients have another label than the task's classes, or none."""
        return sum(label not in task.classes for label in self.labels)

    def fingerprint_for(self, task: Task, split: Split | None = None) -> str:
        """The fingerprint of a task's patients, of one split if it is given."""
        rows = [
            row
            for row, label in enumerate(self.labels)
            if label in task.classes and split in {None, self.splits[row]}
        ]
        return fingerprint_of(
            [self.row_digests[row] for row in rows], splits=[self.splits[row] for row in rows]
        )

    def require(self, task: Task) -> None:
        """Check that this site has patients for a task: of one class at least, since sites may lack the others.

        Raises:
            DataError: it has none.
        """
        empty = [name for name in task.classes if name not in self.labels]
        if len(empty) == len(task.classes):
            labels = ", ".join(sorted(set(self.labels) - {""})) or "none"
            raise DataError(
                f"this site has no patients of a class of task {task.name}",
                got=f"no {', no '.join(empty)}, and labels {labels}",
                expected=f"patients of {', '.join(task.classes)}",
                advice="Take part in a task whose classes this site has, or correct the labels and prepare again.",
            )


def digest_of_row(image: PhaseImages, *, clinical: ClinicalMatrix, label: str, how: ImageConfig) -> str:
    """sha256 (hex) of one patient: arrays, label, specification version and settings.

    Neither pseudonym nor split count: renaming a patient leaves it as it is.

    Args:
        image, clinical: one row of each.
    """
    header = [SPEC_VERSION, how.model_dump(mode="json"), label]
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(image).data)
    digest.update(np.ascontiguousarray(clinical).astype("<f4").tobytes())
    return digest.hexdigest()


def fingerprint_of(digests: Sequence[str], *, splits: Sequence[Split]) -> str:
    """sha256 (hex) over patients' digests and splits; it holds nothing that identifies a patient.

    Rows count in their order, because caches are kept by this fingerprint row by row.
    """
    return hashlib.sha256(json.dumps(list(zip(digests, splits, strict=True))).encode()).hexdigest()


def draw_val(
    subjects: Sequence[str], *, labels: Sequence[str], splits: Sequence[Split], seed: int, share: float
) -> tuple[Split, ...]:
    """Draw `val` from `train`, stratified by label, where the manifest has no `val`.

    A patient's place in the draw is a hash of seed and pseudonym, so that one patient more
    moves at most one other, and so that the draw does not depend on the manifest's order.

    Args:
        share: of each class's training patients; rounded, at least one of two or more. A
            class with one training patient keeps it in `train`.

    Returns:
        The splits, unchanged where a `val` is there.
    """
    if "val" in splits:
        return tuple(splits)
    out = list(splits)

    def place(row: int) -> bytes:
        return hashlib.sha256(f"{seed}|{subjects[row]}".encode()).digest()

    for label in sorted(set(labels)):
        rows = [row for row in range(len(out)) if out[row] == "train" and labels[row] == label]
        if len(rows) > 1:
            take = min(max(1, round(share * len(rows))), len(rows) - 1)
            for row in sorted(rows, key=place)[:take]:
                out[row] = "val"
    return tuple(out)


def write_dataset(
    folder: Path,
    *,
    images: Iterable[PhaseImages],
    clinical: ClinicalMatrix,
    labels: Sequence[str],
    splits: Sequence[Split],
    subjects: Sequence[str],
    image: ImageConfig,
    phantom: bool,
    quarantined: int = 0,
) -> SiteDataset:
    """Write a prepared dataset; the one that was there stays valid until the last step.

    Args:
        folder: made where it is missing.
        images: parts of the image array in row order (a list with one array will do), so that
            a large site need not hold all of it in memory.
        splits: final; see `draw_val`.

    Raises:
        DataError: rows that do not agree, or none.
        NoRoomError: the disk has not the room for the images.
    """
    n = len(subjects)
    if not (len(labels) == len(splits) == len(clinical) == n) or len(set(subjects)) != n or n == 0:
        raise DataError(
            "rows of a dataset do not agree",
            got=f"{n} subjects ({len(set(subjects))} different), {len(labels)} labels, {len(splits)} splits, "
            f"{len(clinical)} clinical rows",
            expected="the same number of each, at least 1, each subject once",
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial = partial_of(folder / "images")  # its name is known when all of it was read
    try:
        array = _write_images(partial, images, count=n)
    except BaseException:
        partial.unlink(missing_ok=True)  # on a full disk, what was written would keep it full
        raise
    clinical = np.ascontiguousarray(clinical, dtype=np.float32)
    digests = _row_digests(array, clinical=clinical, labels=labels, image=image)
    fingerprint = fingerprint_of(digests, splits=splits)
    del array
    summary = _Summary(
        spec_version=SPEC_VERSION,
        images=f"images-{fingerprint[:16]}.npy",
        clinical=f"clinical-{fingerprint[:16]}.npy",
        image=image,
        fingerprint=fingerprint,
        row_digests=digests,
        phantom=phantom,
        quarantined=quarantined,
        subjects=tuple(subjects),
        labels=tuple(labels),
        splits=tuple(splits),
    )
    put_in_place(partial, folder / summary.images)
    with atomic_file(folder / summary.clinical) as file:
        np.save(file, clinical)
    write_atomically(folder / SUMMARY_FILE, summary.model_dump_json(indent=1))
    for old in (*folder.glob("images-*"), *folder.glob("clinical-*"), *folder.glob(".*.partial")):
        if old.name not in {summary.images, summary.clinical}:
            old.unlink(missing_ok=True)
    return load_dataset(folder)


def _write_images(path: Path, images: Iterable[PhaseImages], *, count: int) -> PhaseImages:
    """Write the image array; mapped from disk, read-only.

    It is written as any file is: through a memory map, a full disk would end the process by a signal.

    Raises:
        DataError: another number of rows, or of another shape.
        NoRoomError: the disk has not the room for it.
    """
    shape = (count, IMAGE_SIZE, IMAGE_SIZE, 3)
    reserve(path, math.prod(shape) + _NPY_HEADER, what="the prepared dataset", advice=RUN_AGAIN)
    row = 0
    with path.open("r+b") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in images:
            if part.dtype != np.uint8 or part.shape[1:] != shape[1:] or row + len(part) > count:
                raise DataError("images of a dataset do not agree", got=part.shape, expected=shape)
            file.write(np.ascontiguousarray(part).data)
            row += len(part)
        if row != count:
            raise DataError("images of a dataset do not agree", got=f"{row} rows", expected=count)
        file.truncate()
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _row_digests(
    images: PhaseImages, *, clinical: ClinicalMatrix, labels: Sequence[str], image: ImageConfig
) -> tuple[str, ...]:
    """Every row's digest; one row at a time in memory."""
    return tuple(
        digest_of_row(images[row], clinical=clinical[row], label=label, how=image)
        for row, label in enumerate(labels)
    )


def load_dataset(folder: Path, *, verify: bool = False) -> SiteDataset:
    """Open a prepared dataset; the images stay on disk.

    Args:
        verify: also read every image and compare the fingerprint (a second per GB or so).

    Raises:
        DataError: nothing was prepared here, or what is here is torn or was changed.
    """

    def unusable(what: str) -> DataError:
        return DataError(
            f"prepared dataset {what}",
            got=folder,
            expected="a folder that `prepare` wrote",
            advice="Run stic-client --site S prepare.",
        )

    try:
        found = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise unusable("was written by another version")
        summary = _Summary.model_validate(found)
    except FileNotFoundError:
        raise unusable("is missing") from None
    except (OSError, ValueError):  # not JSON, not UTF-8, or not these fields
        raise unusable("is damaged: dataset.json cannot be read") from None
    if summary.spec_version != SPEC_VERSION:
        raise unusable("was written by another version")
    n = len(summary.subjects)
    try:
        images = np.load(folder / Path(summary.images).name, mmap_mode="r", allow_pickle=False)
        clinical = np.load(folder / Path(summary.clinical).name, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise unusable("is damaged: an array cannot be read") from None
    right = (
        images.shape == (n, IMAGE_SIZE, IMAGE_SIZE, 3)
        and images.dtype == np.uint8
        and clinical.shape == (n, len(COLUMNS))
        and clinical.dtype == np.float32
        and len(summary.labels) == len(summary.splits) == len(summary.row_digests) == n
    )
    if not right:
        raise unusable("is damaged: its arrays do not have the shapes in dataset.json")
    if verify and summary.fingerprint != fingerprint_of(
        _row_digests(images, clinical=clinical, labels=summary.labels, image=summary.image),
        splits=summary.splits,
    ):
        raise unusable("was changed: its fingerprint does not match")
    return SiteDataset(
        folder=folder,
        images=images,
        clinical=clinical,
        labels=summary.labels,
        splits=summary.splits,
        subjects=summary.subjects,
        fingerprint=summary.fingerprint,
        row_digests=summary.row_digests,
        image=summary.image,
        phantom=summary.phantom,
        quarantined=summary.quarantined,
    )
