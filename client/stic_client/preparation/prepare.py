"""`prepare`: from a manifest to the prepared dataset; only what changed is done again.

Each patient is worked on in a process of its own pool and kept in a file of its own
(`stic_client.preparation.patient_cache`), so that a run that is killed goes on where it was. One patient who
cannot be used is quarantined with the reason and never stops the others.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stic_client.ingest.manifest import PatientRow, read_manifest
from stic_client.ingest.patient import PreparedPatient, prepare_patient
from stic_client.preparation import patient_cache, worker_pool
from stic_client.preparation.quarantine import (
    QUARANTINE_FILE,
    QuarantineEntry,
    check_enough,
    duplicates,
    lost_refusal,
    refusal_of,
)
from stic_core.config import DatasetConfig, ImageConfig, SiteConfig
from stic_core.data.clinical import MARKERS, VARIABLES, Levels, as_columns, read_levels
from stic_core.data.dataset import SPLITS, SiteDataset, draw_val, write_dataset
from stic_core.errors import ConfigError, DataError, PatientError
from stic_core.system.files import write_atomically, write_csv
from stic_core.system.room import cannot_write
from stic_core.tasks import KNOWN_LABELS, Task

LIMIT_S = 900.0
"""A patient who takes longer has a file that hangs its decoder."""

WARNINGS_FILE = "warnings.csv"
STATISTICS_FILE = "preparation.json"


@dataclass(frozen=True, slots=True, eq=False)
class PrepareSummary:
    """What a preparation did.

    Args:
        dataset: the prepared dataset.
        counts: patients by split and label.
        quarantined: patients who could not be used.
        prepared, reused: of the patients that are used, those worked on and those taken from the run before.
        missing: share of patients without a value (or with one that settles nothing), by
            clinical variable.
        without_place: patients whose whole slice is used although a crop is configured.
        rejected: registrations that were rejected, of `registrations`.
        warnings: by subject.
        seconds: wall time.
    """

    dataset: SiteDataset
    counts: Mapping[str, Mapping[str, int]]
    quarantined: tuple[QuarantineEntry, ...]
    prepared: int
    reused: int
    missing: Mapping[str, float]
    without_place: int
    rejected: int
    registrations: int
    warnings: tuple[tuple[str, str], ...]
    seconds: float

    @property
    def reasons(self) -> dict[str, int]:
        """Quarantined patients by reason, the most frequent first."""
        return dict(Counter(refusal.reason for refusal in self.quarantined).most_common())


@dataclass(frozen=True, slots=True)
class _Task:
    row: PatientRow
    root: Path
    folder: Path
    image: ImageConfig
    checkerboards: bool
    known: dict[str, patient_cache.Stamped]
    checksums: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Done:
    """What a worker sends back: the image is on disk under `key`.

    Args:
        unwritten: the system's number of why nothing can be written, which is no fault of the patient's.
    """

    key: str = ""
    reused: bool = False
    refusal: QuarantineEntry | None = None
    unwritten: int = 0
    known: Mapping[str, patient_cache.Stamped] | None = None


def prepare(
    config: SiteConfig,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    task: Task | None = None,
    checkerboards: bool = False,
) -> PrepareSummary:
    """Prepare a site's dataset under `config.dataset.prepared`.

    Args:
        config: paths absolute, as `stic_core.config_files.load` leaves them.
        workers: processes; by default one a core. 0 works in this process, where a file that
            crashes its decoder takes it along.
        progress: called with patients done and patients in all.
        task: also refuse labels that the task lacks, and a class without patients in `test`.
        checkerboards: also write a PNG for each registered phase.

    Raises:
        ConfigError: a unit that a laboratory value cannot have.
        DataError: no manifest; more patients quarantined than the site allows; none left.
        OSError: the disk is full, for example; what was done is kept.
    """
    started = time.monotonic()
    settings = config.dataset
    check_units(settings)
    root = _root_of(settings)
    manifest = read_manifest(settings.root / settings.manifest, labels=(*KNOWN_LABELS, *settings.labels))
    folder = settings.prepared
    folder.mkdir(parents=True, exist_ok=True)
    rows, levels, refused = read_clinical(manifest.rows, settings=settings, task=task)
    refused = [refusal_of(error) for error in manifest.refused] + refused
    total = len(manifest.rows) + len(manifest.refused)
    checksums = patient_cache.read_checksums(root)
    images = _prepare_images(
        [_Task(row, root, folder, settings.image, checkerboards, {}, checksums) for row in rows],
        folder=folder,
        workers=workers,
        progress=(lambda done: progress(total - len(rows) + done, total)) if progress else None,
    )
    cohort = _compare(rows, levels, images=images, folder=folder)
    order = {row.subject: number for number, row in enumerate(manifest.rows)}
    refused = sorted(
        [*refused, *cohort.refused],
        key=lambda refusal: (order.get(refusal.subject, -1), refusal.subject),
    )
    write_csv(folder / QUARANTINE_FILE, ("subject_id", "file", "reason", "message"), map(_cells, refused))
    write_csv(folder / WARNINGS_FILE, ("subject_id", "warning"), cohort.warnings)
    check_enough(cohort.rows, refused=refused, settings=settings, total=total, task=task)
    dataset = _write_cohort(cohort, settings=settings, quarantined=len(refused))
    used = [cohort.patients[row.subject] for row in cohort.rows]
    summary = PrepareSummary(
        dataset=dataset,
        counts={
            split: dict(sorted(Counter(np.array(dataset.labels)[dataset.indices(split)].tolist()).items()))
            for split in SPLITS
        },
        quarantined=tuple(refused),
        prepared=sum(row.subject not in images.reused for row in cohort.rows),
        reused=sum(row.subject in images.reused for row in cohort.rows),
        missing=_missing([cohort.levels[row.subject] for row in cohort.rows]),
        without_place=0
        if settings.image.crop_mm is None
        else sum(not patient.place_known for patient in used),
        rejected=sum(len(patient.rejected) for patient in used),
        registrations=sum(2 for row in cohort.rows if not row.registered),
        warnings=cohort.warnings,
        seconds=time.monotonic() - started,
    )
    _write_statistics(folder, summary)
    return summary


@dataclass(frozen=True, slots=True)
class _Images:
    """What came of the patients' images.

    Args:
        keys: of the prepared images on the disk, by subject.
        reused: subjects of those that were taken from the run before.
        refused: those that could not be prepared.
    """

    keys: Mapping[str, str]
    reused: frozenset[str]
    refused: list[QuarantineEntry]


def _prepare_images(
    tasks: list[_Task], *, folder: Path, workers: int | None, progress: Callable[[int], None] | None
) -> _Images:
    """Make or find each patient's own file.

    Args:
        progress: called with patients done.
    """
    keys: dict[str, str] = {}
    refused: list[QuarantineEntry] = []
    reused: set[str] = set()
    known = patient_cache.load_known(folder)
    if progress:
        progress(0)
    try:
        for done, (item, outcome) in enumerate(_images(tasks, known=known, workers=workers), start=1):
            subject = item.row.subject
            if isinstance(outcome, _Done) and outcome.unwritten:
                raise OSError(outcome.unwritten, os.strerror(outcome.unwritten))
            if isinstance(outcome, worker_pool.Lost):
                refused.append(lost_refusal(subject, outcome))
            elif outcome.refusal is not None:
                refused.append(outcome.refusal)
            else:
                keys[subject] = outcome.key
                reused |= {subject} if outcome.reused else set()
                known.update(outcome.known or {})
            if progress:
                progress(done)
    finally:
        patient_cache.save_known(folder, known=known)
    patient_cache.forget(folder, keep=[task.row.subject for task in tasks])
    return _Images(keys, frozenset(reused), refused)


@dataclass(frozen=True, slots=True, eq=False)
class _Cohort:
    """The patients beside each other.

    Args:
        rows: of those that can be used, in the manifest's order.
        patients, levels: by subject, at least of those.
        refused: why the others cannot, after their rows were read.
        warnings: by subject.
    """

    rows: list[PatientRow]
    patients: Mapping[str, PreparedPatient]
    levels: Mapping[str, Levels]
    refused: list[QuarantineEntry]
    warnings: tuple[tuple[str, str], ...]


def _compare(
    rows: list[PatientRow], levels: Mapping[str, Levels], *, images: _Images, folder: Path
) -> _Cohort:
    """Load the prepared patients, and refuse those that are there twice."""
    patients: dict[str, PreparedPatient] = {}
    refused = list(images.refused)
    for subject, key in images.keys.items():
        patient = patient_cache.load(folder, subject=subject, key=key)
        if patient is None:
            what = "its prepared image is gone"
            refused.append(QuarantineEntry(subject, "", what, f"{subject}: {what}. Run prepare again."))
        else:
            patients[subject] = patient
    refused += duplicates(rows, patients=patients)
    out = {refusal.subject for refusal in refused}
    left = [row for row in rows if row.subject not in out]
    warnings = tuple(
        (row.subject, text)
        for row in left
        for text in (
            *patients[row.subject].warnings,
            *row_warnings(patients[row.subject], levels[row.subject]),
        )
    )
    return _Cohort(left, patients, levels, refused, warnings)


def _write_cohort(cohort: _Cohort, *, settings: DatasetConfig, quarantined: int) -> SiteDataset:
    """Draw the validation patients, and write the dataset."""
    subjects, labels = [row.subject for row in cohort.rows], [row.label for row in cohort.rows]
    splits = draw_val(
        subjects,
        labels=labels,
        splits=[row.split for row in cohort.rows],
        seed=settings.seed,
        share=settings.val_share,
    )
    return write_dataset(
        settings.prepared,
        images=(cohort.patients[subject].image for subject in subjects),
        clinical=np.concatenate([as_columns(cohort.levels[subject]) for subject in subjects]),
        labels=labels,
        splits=splits,
        subjects=subjects,
        image=settings.image,
        phantom=any(cohort.patients[subject].phantom for subject in subjects),
        quarantined=quarantined,
    )


def _root_of(settings: DatasetConfig) -> Path:
    try:
        return settings.root.resolve(strict=True)
    except OSError:
        raise DataError(
            "the dataset's root is missing", got=settings.root, advice="Correct dataset.root in site.yaml."
        ) from None


def check_units(settings: DatasetConfig) -> None:
    """Refuse units of the site that the laboratory values cannot have.

    Raises:
        ConfigError: names the first such key.
    """
    for variable, unit in settings.units.items():
        if variable not in MARKERS:
            raise ConfigError(f"dataset.units.{variable}: no such value", expected=" or ".join(MARKERS))
        if unit not in MARKERS[variable].to_unit:
            raise ConfigError(
                f"dataset.units.{variable}", got=repr(unit), expected=" or ".join(MARKERS[variable].to_unit)
            )


def read_clinical(
    rows: Iterable[PatientRow], *, settings: DatasetConfig, task: Task | None
) -> tuple[list[PatientRow], dict[str, Levels], list[QuarantineEntry]]:
    """Clinical values and labels; cheap, so they are judged before any image is read."""
    good, levels, refused = [], {}, []
    for row in rows:
        try:
            if task is not None and row.label and row.label not in task.classes:
                raise PatientError(
                    "a class that the task does not have",
                    subject=row.subject,
                    got=row.label,
                    expected=" or ".join(task.classes),
                    advice="Correct the label, or remove the patient.",
                )
            try:
                levels[row.subject] = read_levels(
                    row.clinical, units=settings.units, compat=settings.compat, decimal=settings.decimal
                )
            except DataError as error:
                raise PatientError(
                    error.what,
                    subject=row.subject,
                    got=error.got,
                    expected=error.expected,
                    advice=error.advice or "Correct the manifest.",
                ) from None
            good.append(row)
        except PatientError as error:
            refused.append(refusal_of(error))
    return good, levels, refused


def _images(
    tasks: list[_Task], *, known: dict[str, patient_cache.Stamped], workers: int | None
) -> Iterable[tuple[_Task, _Done | worker_pool.Lost]]:
    """What came of each patient's image; those that nothing changed for need no process."""
    changed: list[_Task] = []
    for task in tasks:
        try:
            key, used = patient_cache.key_of(
                task.row,
                root=task.root,
                image=task.image,
                known=known,
                checksums=task.checksums,
                hash_new=False,
            )
        except PatientError as error:
            yield task, _Done(refusal=refusal_of(error))
            continue
        if (
            key
            and not task.checkerboards
            and patient_cache.load(task.folder, subject=task.row.subject, key=key)
        ):
            yield task, _Done(key=key, reused=True)
        else:
            task.known.update(used)
            changed.append(task)
    if changed:
        if workers is None:
            workers = (
                len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            )
        yield from worker_pool.run(_work, tasks=changed, workers=min(workers, len(changed)), limit_s=LIMIT_S)


def _work(task: _Task) -> _Done:
    """One patient, in a worker."""
    row = task.row
    try:
        key, used = patient_cache.key_of(
            row, root=task.root, image=task.image, known=task.known, checksums=task.checksums
        )
        patient = prepare_patient(
            row,
            root=task.root,
            image=task.image,
            checkerboards=task.folder / "checkerboards" if task.checkerboards else None,
        )
        patient_cache.save(task.folder, subject=row.subject, key=key, patient=patient)
        return _Done(key=key, known=used)
    except PatientError as error:
        return _Done(refusal=refusal_of(error))
    except Exception as error:  # noqa: BLE001 - a fault of this project, or a file that nobody foresaw: the others go on
        if isinstance(error, OSError) and cannot_write(error):
            return _Done(unwritten=error.errno or errno.EIO)
        what = f"it cannot be prepared ({type(error).__name__})"
        return _Done(
            refusal=QuarantineEntry(
                row.subject, "", what, f"{row.subject}: {what}. Remove it from the manifest, and report this."
            )
        )


def row_warnings(patient: PreparedPatient, levels: Levels) -> list[str]:
    """What to look at beside `PreparedPatient.warnings`: rejected registrations, and values that say too little."""
    return [
        *(f"registration of {phase} was rejected: {reason}" for phase, reason in patient.rejected.items()),
        *(
            f"{name} is censored and does not determine a level: treated as missing"
            for name in levels.unsettled
        ),
        *(f"the text of {name} is not understood: treated as missing" for name in levels.unread),
    ]


def _missing(levels: list[Levels]) -> dict[str, float]:
    counts = Counter(name for patient in levels for name in (*patient.missing, *patient.unsettled))
    return {name: counts[name] / len(levels) for name in VARIABLES}


def _cells(refusal: QuarantineEntry) -> tuple[str, ...]:
    return refusal.subject, refusal.file, refusal.reason, refusal.message


def _write_statistics(folder: Path, summary: PrepareSummary) -> None:
    """What `check` shows later without reading the files again."""
    content = {
        "fingerprint": summary.dataset.fingerprint,
        "counts": summary.counts,
        "quarantined": summary.reasons,
        "missing": summary.missing,
        "without_place": summary.without_place,
        "registrations": summary.registrations,
        "rejected": summary.rejected,
        "warnings": len(summary.warnings),
    }
    write_atomically(folder / STATISTICS_FILE, json.dumps(content, indent=1))
