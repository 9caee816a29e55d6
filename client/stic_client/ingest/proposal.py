"""A manifest for a person to complete: which series is which phase, and which mask belongs to it.

It never invents a label or a split and names patients by number. Beside it stand how sure it is
of each phase and why, and what tells the hospital who each patient is.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stic_client.ingest.exam import Exam
from stic_client.ingest.manifest import OPTIONAL, REQUIRED
from stic_client.ingest.phase_choice import Confidence, SeriesFound, assign_phases, notes_on
from stic_core.data.ct import PHASES
from stic_core.system.files import write_csv

_LESION = re.compile(r"LESION|TUMO|MASS|NODUL|\bHCC\b|\bI?CCA?\b|\bICC\b|METAST|CANCER|NEOPLAS|病灶|肿瘤")
_LIVER = re.compile(r"LIVER|LEBER|HEPAR|肝")

_IDENTITY = ("patient_id", "accession_number", "study_date", "study_uid")
_COLUMNS = (
    "proposed_subject",
    *(f"{phase}_confidence" for phase in PHASES),
    "notes",
    "folder",
    "series",
    *_IDENTITY,
)


@dataclass(frozen=True, slots=True)
class CTFile:
    """One CT file.

    Args:
        path: relative to the root.
        patient_id, accession, date: as the header has them, for the hospital's own eyes.
    """

    path: Path
    series: str
    enhanced: bool
    time_s: float | None
    exam: Exam
    patient_id: str
    accession: str
    date: str


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A DICOM SEG.

    Args:
        referenced: series that it was drawn on.
        segments: labels by number, upper case.
    """

    path: Path
    referenced: tuple[str, ...]
    study: str
    segments: Mapping[int, str]

    @property
    def lesions(self) -> list[int]:
        """Segments that their label calls a lesion; the only one there is, unless it is the liver."""
        named = [number for number, label in self.segments.items() if _LESION.search(label)]
        others = [number for number, label in self.segments.items() if not _LIVER.search(label)]
        return named or (others if len(self.segments) == 1 else [])


@dataclass(frozen=True, slots=True)
class Study:
    """The CT files of one study."""

    files: Sequence[CTFile]


@dataclass(frozen=True, slots=True)
class Proposed:
    """One study as a patient.

    Args:
        row: of the manifest; label and split are empty.
        confidence: by phase.
        notes: what a person should look at.
        folder: what all files of the study have in common, relative to the root.
        series: every series of the study, whether it was chosen or not.
        identity: what the headers say, for joining the hospital's own tables.
    """

    row: Mapping[str, str]
    confidence: Mapping[str, Confidence]
    notes: tuple[str, ...]
    folder: str = ""
    series: tuple[str, ...] = ()
    identity: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a scan found.

    Args:
        patients: one per study, in the order of their paths.
        skipped: files by the reason why they are no slices.
    """

    patients: tuple[Proposed, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def propose(studies: Sequence[Study], *, segmentations: Sequence[Segmentation]) -> tuple[Proposed, ...]:
    """One patient per study."""
    in_folder: dict[Path, set[str]] = defaultdict(set)
    for study in studies:
        for file in study.files:
            in_folder[file.path.parent].add(file.series)
    subjects = {f"S{number:04d}": study for number, study in enumerate(studies, start=1)}
    same_uid = Counter(study.files[0].exam.study for study in studies)
    same_patient: dict[str, list[str]] = defaultdict(list)
    for subject, study in subjects.items():
        same_patient[study.files[0].exam.patient].append(subject)
    patients = []
    for subject, study in subjects.items():
        exam = study.files[0].exam
        series = _series_of(study, in_folder=in_folder)
        chosen, confidence, notes = assign_phases(series)
        fullest = max((len(in_folder[Path(one.path)]) for one in chosen.values()), default=0)
        notes += notes_on(chosen, series=series, in_folder=fullest)
        # A number that every file has is an anonymiser's, and says nothing.
        others = [other for other in same_patient[exam.patient] if other != subject]
        if exam.patient and 0 < len(others) <= 2 and len(others) + 1 < len(studies):
            notes.append(f"the same PatientID as {', '.join(others)}")
        if same_uid[exam.study] > 1:
            notes.append("several patients share one study UID: they were told apart by PatientID or folder")
        layouts = sorted({one.layout for one in chosen.values()})
        row = dict.fromkeys((*REQUIRED, *OPTIONAL), "")
        row |= {"subject_id": subject, "layout": layouts[0] if layouts else "dicom_series", "registered": "0"}
        row |= {f"{phase}_path": one.path for phase, one in chosen.items()}
        mine = [
            one
            for one in segmentations
            if {found.uid for found in series} & set(one.referenced)
            or (not one.referenced and one.study == exam.study and same_uid[exam.study] == 1)
        ]
        row |= _mask(mine, chosen=chosen, notes=notes)
        row |= _age_and_gender(exam, notes=notes)
        patients.append(
            Proposed(
                row,
                confidence,
                tuple(notes),
                folder=_common_folder(study),
                series=tuple(one.about for one in series),
                identity=_identity(study),
            )
        )
    return tuple(patients)


def _series_of(study: Study, *, in_folder: Mapping[Path, set[str]]) -> list[SeriesFound]:
    by_series: dict[str, list[CTFile]] = defaultdict(list)
    for file in sorted(study.files, key=lambda file: file.path):
        by_series[file.series].append(file)
    series = []
    for uid, files in by_series.items():
        first, single = files[0], len(files) == 1
        folder = first.path.parent
        times = [file.time_s for file in files if file.time_s is not None]
        series.append(
            SeriesFound(
                uid=uid,
                path=str(first.path if single else folder),
                layout="dicom_enhanced" if first.enhanced else "dicom_slices" if single else "dicom_series",
                files=len(files),
                time_s=min(times) if times else None,
                guess=first.exam.phase,
                alone=single
                or (len(in_folder[folder]) == 1 and len({file.path.parent for file in files}) == 1),
                rank=first.exam.reconstruction.rank,
                caveats=first.exam.reconstruction.caveats,
            )
        )
    return series


def _mask(
    found: Sequence[Segmentation], *, chosen: Mapping[str, SeriesFound], notes: list[str]
) -> dict[str, str]:
    """The mask's columns, from the SEG that was drawn on a chosen phase and has a lesion."""
    if not found:
        return {}
    fit: list[tuple[Segmentation, str]] = []
    for one in found:
        phases = [phase for phase, series in chosen.items() if series.uid in one.referenced]
        if one.lesions and (phases or not one.referenced):
            fit.append((one, phases[0] if phases else ""))
    if not fit:
        notes.append("a DICOM SEG is there, but not of a lesion on one of the chosen phases")
        return {}
    if len(fit) > 1:
        notes.append(f"{len(fit)} DICOM SEGs could be the lesion's mask: the first was chosen")
    mask, phase = fit[0]
    if not phase:
        notes.append("the DICOM SEG does not say which series it was drawn on: fill in mask_phase")
    label = str(mask.lesions[0]) if len(mask.segments) > 1 else ""
    if len(mask.lesions) > 1:
        notes.append("the DICOM SEG has several lesions: the first was chosen, see mask_label")
    return {"mask_path": str(mask.path), "mask_phase": phase, "mask_type": "seg", "mask_label": label}


def _age_and_gender(exam: Exam, *, notes: list[str]) -> dict[str, str]:
    row = {
        "age": "" if exam.age is None else str(exam.age),
        "gender": {"M": "male", "F": "female"}.get(exam.sex, ""),
    }
    notes += [f"the files do not give {column}" for column, value in row.items() if not value]
    return row


def _common_folder(study: Study) -> str:
    return os.path.commonpath([file.path.parent for file in study.files]) or "."


def _identity(study: Study) -> dict[str, str]:
    """What the headers say; several values of one study are all shown."""
    values = (
        (file.patient_id for file in study.files),
        (file.accession for file in study.files),
        (file.date for file in study.files),
        (file.exam.study for file in study.files),
    )
    return {name: "; ".join(sorted(set(found) - {""})) for name, found in zip(_IDENTITY, values, strict=True)}


def write_proposal(proposal: Proposal, *, folder: Path) -> tuple[Path, Path]:
    """Write `manifest.proposed.csv`, and beside it the notes; neither is read by `prepare`.

    The notes hold the hospital's own numbers, so only their owner may read them.

    Returns:
        Both paths.
    """
    manifest, report = folder / "manifest.proposed.csv", folder / "manifest.proposed.notes.csv"
    columns = (*REQUIRED, *OPTIONAL)
    write_csv(manifest, columns, ([p.row.get(name, "") for name in columns] for p in proposal.patients))
    notes = (
        [
            p.row["subject_id"],
            *(p.confidence[phase] for phase in PHASES),
            "; ".join(p.notes),
            p.folder,
            "; ".join(p.series),
            *(p.identity.get(name, "") for name in _IDENTITY),
        ]
        for p in proposal.patients
    )
    write_csv(report, _COLUMNS, notes, mode=0o600)
    return manifest, report
