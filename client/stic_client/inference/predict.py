"""`predict`: a model's scores for new patients, as a table and a page each; nothing of it is sent.

Each patient goes the way that `prepare` goes, alone. One who cannot be used is listed with
the reason and never stops the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stic_client.inference.patient_page import PageFacts, write_page
from stic_client.ingest.manifest import PatientRow, read_manifest
from stic_client.ingest.patient import PreparedPatient, prepare_patient
from stic_client.preparation import worker_pool
from stic_client.preparation.prepare import LIMIT_S
from stic_client.preparation.quarantine import QuarantineEntry, lost_refusal, refusal_of
from stic_core import prediction
from stic_core.config import ImageConfig, SiteConfig
from stic_core.data.clinical import Levels, as_columns, read_levels
from stic_core.errors import DataError, PatientError
from stic_core.models.saved import ModelDescription, read_model
from stic_core.system.files import write_csv

SCORES_FILE, REFUSED_FILE, PAGES = "scores.csv", "refused.csv", "patients"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What `predict` did.

    Args:
        scores: the table of scores.
        pages: folder of the pages.
        patients: who have scores.
        refused: who could not be used, and why.
        phantom: the model learned from phantoms, or a patient is one.
    """

    scores: Path
    pages: Path
    patients: int
    refused: tuple[QuarantineEntry, ...]
    phantom: bool


@dataclass(frozen=True, slots=True)
class _Task:
    row: PatientRow
    root: Path
    image: ImageConfig


@dataclass(frozen=True, slots=True, eq=False)
class _Patient:
    row: PatientRow
    prepared: PreparedPatient
    levels: Levels


def predict(
    config: SiteConfig,
    *,
    model: Path,
    manifest: Path,
    out: Path,
    root: Path | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Score the patients of a manifest.

    Args:
        model: a model's folder, as a run leaves it.
        manifest: as for `prepare`; its labels may be empty and are not looked at.
        out: folder for the table and the pages.
        root: that the manifest's paths are relative to; None is the manifest's own folder.
        workers: processes that read images; 0 reads in this one.
        progress: told patients done and patients in all.

    Raises:
        DataError: no model, no manifest, or no patient that can be used.
        WeightsError: another backbone than the model's.
    """
    saved = read_model(model)
    restored = prediction.restore_model(
        saved,
        device=config.device,
        precision=config.precision,
        backbone_weights=config.backbone_weights.get(saved.description.architecture.backbone),
    )
    table = read_manifest(manifest)
    refused = [refusal_of(error) for error in table.refused]
    base = (root or manifest.parent).resolve()
    patients = _read(
        table.rows,
        config=config,
        base=base,
        image=saved.description.image,
        workers=workers,
        refused=refused,
        progress=progress,
    )
    _write_refused(out / REFUSED_FILE, refused)
    if not patients:
        raise DataError(
            "no patient can be used",
            got="; ".join(refusal.message for refusal in refused[:3]) or "an empty manifest",
            advice=f"See {out / REFUSED_FILE}.",
        )
    scores = prediction.predict(
        restored,
        np.concatenate([patient.prepared.image for patient in patients]),
        np.concatenate([as_columns(patient.levels) for patient in patients]),
    ).to_numpy()
    phantom = bool(saved.description.phantom) or any(patient.prepared.phantom for patient in patients)
    _write_scores(out / SCORES_FILE, patients, scores, description=saved.description, phantom=phantom)
    for patient, values in zip(patients, scores, strict=True):
        facts = PageFacts(
            subject=patient.row.subject,
            image=patient.prepared.image[0],
            levels=patient.levels,
            clinical=patient.row.clinical,
            classes=saved.description.classes,
            scores=tuple(float(value) for value in values),
            notes=_notes(patient),
            phantom=phantom,
            model=f"{saved.description.run_id} {saved.description.digest[:12]}".strip(),
        )
        write_page(out / PAGES / f"{patient.row.subject}.html", facts)
    return Prediction(out / SCORES_FILE, out / PAGES, len(patients), tuple(refused), phantom)


def _read(
    rows: tuple[PatientRow, ...],
    *,
    config: SiteConfig,
    base: Path,
    image: ImageConfig,
    workers: int,
    refused: list[QuarantineEntry],
    progress: Callable[[int, int], None] | None,
) -> list[_Patient]:
    """The patients who can be used, in the manifest's order; the others go into `refused`."""
    levels: dict[str, Levels] = {}
    for row in rows:
        try:
            settings = config.dataset
            levels[row.subject] = read_levels(
                row.clinical, units=settings.units, compat=settings.compat, decimal=settings.decimal
            )
        except DataError as error:
            refused.append(
                refusal_of(
                    PatientError(
                        error.what,
                        subject=row.subject,
                        got=error.got,
                        expected=error.expected,
                        advice=error.advice,
                    )
                )
            )
    tasks = [_Task(row, base, image) for row in rows if row.subject in levels]
    found: dict[str, PreparedPatient] = {}
    outcomes = worker_pool.run(_work, tasks=tasks, workers=min(workers, len(tasks)), limit_s=LIMIT_S)
    for done, (task, outcome) in enumerate(outcomes, start=1):
        if isinstance(outcome, worker_pool.Lost):
            refused.append(lost_refusal(task.row.subject, outcome))
        elif isinstance(outcome, QuarantineEntry):
            refused.append(outcome)
        else:
            found[task.row.subject] = outcome
        if progress:
            progress(done, len(tasks))
    return [_Patient(row, found[row.subject], levels[row.subject]) for row in rows if row.subject in found]


def _work(task: _Task) -> PreparedPatient | QuarantineEntry:
    """One patient, in a worker."""
    try:
        return prepare_patient(task.row, root=task.root, image=task.image)
    except PatientError as error:
        return refusal_of(error)
    except Exception as error:  # noqa: BLE001 - a file that nobody foresaw: the others go on
        what = f"it cannot be prepared ({type(error).__name__})"
        return QuarantineEntry(task.row.subject, "", what, f"{task.row.subject}: {what}.")


def _notes(patient: _Patient) -> tuple[str, ...]:
    rejected = [
        f"registration of {phase} was rejected: {why}" for phase, why in patient.prepared.rejected.items()
    ]
    return (*rejected, *patient.prepared.warnings)


def _write_scores(
    path: Path,
    patients: list[_Patient],
    scores: np.ndarray,
    *,
    description: ModelDescription,
    phantom: bool,
) -> None:
    classes = description.classes
    columns = ("subject_id", *(f"score_{name}" for name in classes), "highest", "missing", "notes", "phantom")
    rows = (
        (
            patient.row.subject,
            *(f"{value:.6f}" for value in values),
            classes[int(values.argmax())],
            " ".join((*patient.levels.missing, *patient.levels.unsettled)),
            "; ".join(_notes(patient)),
            int(phantom),
        )
        for patient, values in zip(patients, scores, strict=True)
    )
    write_csv(path, columns, rows)


def _write_refused(path: Path, refused: list[QuarantineEntry]) -> None:
    rows = ((r.subject, r.file, r.reason, r.message) for r in refused)
    write_csv(path, ("subject_id", "file", "reason", "message"), rows)
