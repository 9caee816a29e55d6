"""`predict`: a model's scores for new patients, as a table and pages; nothing of it is sent.

Each patient goes the way that `prepare` goes, alone, and is examined as `check` examines a dataset. One who
cannot be used is listed with the reason and never stops the others.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stic_client.inference.index_page import render_index
from stic_client.inference.patient_page import PageFacts, render_patient
from stic_client.inference.plausibility import Findings, examine, is_doubt, site_range
from stic_client.inference.result_folder import INDEX_FILE, PAGES, REFUSED_FILE, SCORES_FILE, ResultFolder
from stic_client.inference.verdict import verdict_of
from stic_client.ingest.manifest import PatientRow, read_manifest
from stic_client.ingest.patient import PreparedPatient, prepare_patient
from stic_client.preparation import patient_cache, worker_pool
from stic_client.preparation.prepare import LIMIT_S, check_units, read_clinical, row_warnings
from stic_client.preparation.quarantine import QuarantineEntry, lost_refusal, refusal_of
from stic_core import prediction
from stic_core.config import ImageConfig, SiteConfig
from stic_core.data.clinical import Levels, as_columns
from stic_core.data.ct import PHASES
from stic_core.errors import DataError, PatientError
from stic_core.evaluation.reliability import Reliability, read_reliability
from stic_core.models.saved import ModelDescription, read_model

ProgressOf = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What `predict` did.

    Args:
        scores: the table of scores.
        index: the page over all patients.
        pages: folder of the patients' pages.
        verdicts: of who has scores, by subject: a class, `undecided` or `images doubtful`.
        refused: who could not be used, and why.
        phantom: the model learned from phantoms, or a patient is one.
        not_compared: why images were not compared with this site's training patients, "" where they were.
        reliable: held-out figures came with the model.
    """

    scores: Path
    index: Path
    pages: Path
    verdicts: Mapping[str, str]
    refused: tuple[QuarantineEntry, ...]
    phantom: bool
    not_compared: str
    reliable: bool


@dataclass(frozen=True, slots=True)
class _Task:
    row: PatientRow
    root: Path
    image: ImageConfig
    checksums: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class _Patient:
    row: PatientRow
    prepared: PreparedPatient
    levels: Levels


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What is the same on all pages; see `PageFacts`."""

    config: SiteConfig
    description: ModelDescription
    reliability: Reliability | None
    not_compared: str
    phantom: bool
    made: dt.datetime


def predict(
    config: SiteConfig,
    *,
    model: Path,
    manifest: Path,
    out: Path,
    root: Path | None = None,
    workers: int = 1,
    progress: ProgressOf | None = None,
) -> Prediction:
    """Score the patients of a manifest.

    Args:
        model: a model's folder, as a run leaves it.
        manifest: as for `prepare`; split and label may be empty or missing, and are not looked at.
        out: folder for the table and the pages; what an earlier run left there is replaced.
        root: that the manifest's paths are relative to; None is the manifest's own folder.
        workers: processes that read images; 0 reads in this one.
        progress: told what is done, patients done and patients in all.

    Raises:
        DataError: no model, no manifest, or no patient that can be used.
        UsageError: `out` holds files that `predict` did not write, or another one is writing there.
        WeightsError: another backbone than the model's.
    """
    tell = progress or _silent
    check_units(config.dataset)
    saved = read_model(model)
    description = saved.description
    reliability = read_reliability(model, model_digest=description.digest)
    restored = prediction.restore_model(
        saved,
        device=config.device,
        precision=config.precision,
        backbone_weights=config.backbone_weights.get(description.architecture.backbone),
    )
    table = read_manifest(manifest, labelled=False)
    base = (root or manifest.parent).resolve()
    if not base.is_dir():
        raise DataError("the dataset's root is missing", got=base, advice="Correct --root.")
    folder = ResultFolder(out)
    with folder.claimed(row.subject for row in table.rows):
        refused = [refusal_of(error) for error in table.refused]
        patients = _read(
            table.rows,
            config=config,
            base=base,
            image=description.image,
            workers=workers,
            refused=refused,
            progress=lambda done, total: tell("reading patients", done, total),
        )
        known = site_range(
            config,
            description,
            progress=lambda done, total: tell("comparing with this site's patients", done, total),
        )
        findings = {
            patient.row.subject: found
            for patient, found in zip(
                patients, examine(_images(patients), known) if patients else (), strict=True
            )
        }
        refused += [_blank_refusal(subject, found) for subject, found in findings.items() if found.blank]
        patients = [patient for patient in patients if not findings[patient.row.subject].blank]
        made = dt.datetime.now().astimezone()
        if not patients:
            folder.replace(
                refused=map(_refused_row, refused), index=render_index([], refused=refused, made=made)
            )
            raise DataError(
                "no patient can be used",
                got="; ".join(refusal.message for refusal in refused[:3]) or "an empty manifest",
                advice=f"See {out / REFUSED_FILE}.",
            )
        scores = prediction.predict(
            restored, _images(patients), np.concatenate([as_columns(patient.levels) for patient in patients])
        ).to_numpy()
        common = _Common(
            config=config,
            description=description,
            reliability=reliability,
            not_compared=known if isinstance(known, str) else "",
            phantom=bool(description.phantom) or any(patient.prepared.phantom for patient in patients),
            made=made,
        )
        shared = _shared(patients)
        pages = [
            _facts(
                patient,
                tuple(float(value) for value in values),
                found=findings[patient.row.subject],
                shared=shared[patient.row.subject],
                common=common,
            )
            for patient, values in zip(patients, scores, strict=True)
        ]
        folder.replace(
            refused=map(_refused_row, refused),
            index=render_index(pages, refused=refused, made=made),
            pages=((facts.subject, render_patient(facts)) for facts in pages),
            scores=(_columns(description.classes), map(_score_row, pages)),
        )
    return Prediction(
        scores=out / SCORES_FILE,
        index=out / INDEX_FILE,
        pages=out / PAGES,
        verdicts={facts.subject: facts.verdict.text for facts in pages},
        refused=tuple(refused),
        phantom=common.phantom,
        not_compared=common.not_compared,
        reliable=reliability is not None,
    )


def _silent(what: str, done: int, total: int) -> None:
    """Shows nothing."""


def _images(patients: Sequence[_Patient]) -> np.ndarray:
    return np.concatenate([patient.prepared.image for patient in patients])


def _read(
    rows: tuple[PatientRow, ...],
    *,
    config: SiteConfig,
    base: Path,
    image: ImageConfig,
    workers: int,
    refused: list[QuarantineEntry],
    progress: Callable[[int, int], None],
) -> list[_Patient]:
    """The patients who can be used, in the manifest's order; the others go into `refused`."""
    good, levels, unread = read_clinical(rows, settings=config.dataset, task=None)
    refused += unread
    checksums = patient_cache.read_checksums(base)
    tasks = [_Task(row, base, image, checksums) for row in good]
    found: dict[str, PreparedPatient] = {}
    outcomes = worker_pool.run(_work, tasks=tasks, workers=min(workers, len(tasks)), limit_s=LIMIT_S)
    for done, (task, outcome) in enumerate(outcomes, start=1):
        if isinstance(outcome, worker_pool.Lost):
            refused.append(lost_refusal(task.row.subject, outcome))
        elif isinstance(outcome, QuarantineEntry):
            refused.append(outcome)
        else:
            found[task.row.subject] = outcome
        progress(done, len(tasks))
    return [_Patient(row, found[row.subject], levels[row.subject]) for row in rows if row.subject in found]


def _work(task: _Task) -> PreparedPatient | QuarantineEntry:
    """One patient, in a worker."""
    try:
        if task.checksums:
            patient_cache.key_of(
                task.row, root=task.root, image=task.image, known={}, checksums=task.checksums
            )
        return prepare_patient(task.row, root=task.root, image=task.image, keep_whole=True)
    except PatientError as error:
        return refusal_of(error)
    except Exception as error:  # noqa: BLE001 - a file that nobody foresaw: the others go on
        what = f"it cannot be prepared ({type(error).__name__})"
        return QuarantineEntry(task.row.subject, "", what, f"{task.row.subject}: {what}.")


def _blank_refusal(subject: str, found: Findings) -> QuarantineEntry:
    error = PatientError(
        "an image shows nothing",
        subject=subject,
        got=f"{', '.join(found.blank)} blank or nearly so",
        expected="a slice through the liver in each phase",
        advice="Look at the files and at the lesion's position in a viewer.",
    )
    return refusal_of(error)


def _shared(patients: Sequence[_Patient]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """By subject: doubts and notes about patients of the same table who share images or the study.

    Two lesions of one patient are two honest rows. The same lesion twice is one patient too many, and a phase
    that serves two patients, or two phases, is another one's.
    """
    holders: dict[str, list[_Patient]] = defaultdict(list)
    for patient in patients:
        for digest in set(patient.prepared.digests):
            holders[digest].append(patient)
    found: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for patient in patients:
        others = {
            other.row.subject: _likeness(patient.prepared, other.prepared)
            for digest in patient.prepared.digests
            for other in holders[digest]
            if other is not patient
        }
        same, mixed, beside = (
            [name for name, likeness in others.items() if likeness == kind]
            for kind in ("same", "mixed", "study")
        )
        doubts = [f"the same images and lesion as {', '.join(same)}"] if same else []
        doubts += [f"some phases are also those of {', '.join(mixed)}"] if mixed else []
        notes = [f"the same study as {', '.join(beside)}"] if beside else []
        found[patient.row.subject] = tuple(doubts), tuple(notes)
    return found


def _likeness(one: PreparedPatient, other: PreparedPatient) -> str:
    """`same`, `mixed` or `study`, of two patients who share a digest."""
    phases, theirs = one.digests[: len(PHASES)], other.digests[: len(PHASES)]
    if phases == theirs:
        return "same" if np.array_equal(one.image, other.image) else "study"
    return "mixed" if set(phases) & set(theirs) else "study"


def _facts(
    patient: _Patient,
    scores: tuple[float, ...],
    *,
    found: Findings,
    shared: tuple[tuple[str, ...], tuple[str, ...]],
    common: _Common,
) -> PageFacts:
    """All that a page says."""
    warnings = [*patient.prepared.warnings, *row_warnings(patient.prepared, patient.levels)]
    doubts = (*found.doubts, *shared[0], *(text for text in warnings if is_doubt(text)))
    notes = (*shared[1], *(text for text in warnings if not is_doubt(text)))
    crop_mm = common.description.image.crop_mm
    if crop_mm is not None and patient.prepared.placement.size_mm is None:
        notes = (f"pictures are scored as they are; they must show {crop_mm:g} mm around the lesion", *notes)
    elif crop_mm is not None and not patient.prepared.place_known:
        doubts = (
            *doubts,
            f"the lesion's place is not known: the whole slice was scored, not {crop_mm:g} mm around the lesion",
        )
    if found.learned:
        notes = (
            "among this site's training patients: a model that learned there scores them too well",
            *notes,
        )
    description = common.description
    return PageFacts(
        subject=patient.row.subject,
        prepared=patient.prepared,
        crop_mm=description.image.crop_mm if patient.prepared.place_known else None,
        levels=patient.levels,
        clinical=patient.row.clinical,
        units=common.config.dataset.units,
        verdict=verdict_of(description.classes, scores, doubts=doubts, reliability=common.reliability),
        scores=dict(zip(description.classes, scores, strict=True)),
        doubts=doubts,
        notes=notes,
        not_compared=common.not_compared,
        reliability=common.reliability,
        phantom=common.phantom,
        run=description.run_id,
        model=description.digest[:12],
        made=common.made,
    )


def _columns(classes: tuple[str, ...]) -> tuple[str, ...]:
    return (
        "subject_id",
        *(f"score_{name}" for name in classes),
        "highest",
        "verdict",
        "missing",
        "doubts",
        "notes",
        "phantom",
        "model",
        "scored",
    )


def _score_row(facts: PageFacts) -> tuple[object, ...]:
    return (
        facts.subject,
        *(f"{value:.6f}" for value in facts.scores.values()),
        facts.verdict.ranking[0][0],
        facts.verdict.text,
        " ".join((*facts.levels.missing, *facts.levels.unsettled)),
        "; ".join(facts.doubts),
        "; ".join(facts.notes),
        int(facts.phantom),
        facts.model,
        facts.made.isoformat(timespec="seconds"),
    )


def _refused_row(refusal: QuarantineEntry) -> tuple[str, ...]:
    return refusal.subject, refusal.file, refusal.reason, refusal.message
