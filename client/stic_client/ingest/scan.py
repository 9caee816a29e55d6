"""Folders without a manifest: what is there, grouped by study, and which series is which phase.

A proposal is for a person to complete: it never invents a label or a split, names patients by
number, and says how sure it is of each phase and why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stic_client.ingest import elements
from stic_client.ingest.kinds import ENHANCED_CT, check_kind
from stic_client.ingest.manifest import OPTIONAL, REQUIRED
from stic_client.ingest.source import Source, files_of
from stic_client.ingest.words import guess_phase
from stic_core.data.clinical_texts import read_age, read_gender
from stic_core.data.ct import PHASES
from stic_core.errors import DataError, PatientError
from stic_core.system.files import write_csv

Confidence = Literal["high", "medium", "low", "none"]

_COLUMNS = ("proposed_subject", *(f"{phase}_confidence" for phase in PHASES), "notes")


@dataclass(frozen=True, slots=True)
class SeriesFound:
    """One series of a study.

    Args:
        path: its folder, or its file, relative to the root.
        layout: how the manifest would call it.
        guess: a phase by its description, "other" for a fourth one, "" where it says nothing.
        alone: nothing else lies in its folder.
    """

    path: str
    layout: str
    files: int
    time_s: float | None
    guess: str
    alone: bool


@dataclass(frozen=True, slots=True)
class Proposed:
    """One study as a patient.

    Args:
        row: of the manifest; label and split are empty.
        confidence: by phase.
        notes: what a person should look at.
    """

    row: Mapping[str, str]
    confidence: Mapping[str, Confidence]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a scan found.

    Args:
        patients: one a study, in the order of their paths.
        skipped: files by the reason why they are no slices.
    """

    patients: tuple[Proposed, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)


def scan(folder: Path, *, root: Path) -> Proposal:
    """Propose a manifest.

    Args:
        folder: to look through; inside `root`.
        root: what the paths will be relative to.

    Raises:
        DataError: the folder is not inside the root, or has no CT in it.
    """
    root, folder = root.resolve(), folder.resolve()
    if not folder.is_relative_to(root) or not folder.is_dir():
        raise DataError(
            "the folder to scan is not inside dataset.root",
            advice="Set dataset.root to a folder that holds it.",
        )
    source = Source("scan", "scan", folder, root)
    skipped: dict[str, int] = defaultdict(int)
    found: dict[str, dict[str, list[tuple[Path, dict[str, object]]]]] = defaultdict(lambda: defaultdict(list))
    in_folder: dict[Path, set[str]] = defaultdict(set)
    for file in files_of(source):
        try:
            dataset = elements.open_dataset(file, pixels=False)
            check_kind(dataset, source=file)
        except PatientError as error:
            skipped[error.what] += 1
            continue
        series = elements.text(dataset, "SeriesInstanceUID")
        facts: dict[str, object] = {
            "time": elements.acquired(dataset),
            "guess": guess_phase(elements.text(dataset, "SeriesDescription")),
            "enhanced": elements.text(dataset, "SOPClassUID") in ENHANCED_CT,
            "age": elements.text(dataset, "PatientAge"),
            "sex": elements.text(dataset, "PatientSex"),
        }
        found[elements.text(dataset, "StudyInstanceUID")][series].append((file.path, facts))
        in_folder[file.path.parent].add(series)
    if not found:
        raise DataError(
            "no CT was found", got=f"{sum(skipped.values())} other files", advice="Name another folder."
        )
    studies = sorted(
        found.values(), key=lambda study: min(path for files in study.values() for path, _ in files)
    )
    patients = [
        _propose(f"S{number:04d}", study, root=root, in_folder=in_folder)
        for number, study in enumerate(studies, start=1)
    ]
    return Proposal(tuple(patients), dict(skipped))


def _propose(
    subject: str,
    study: Mapping[str, list[tuple[Path, dict[str, object]]]],
    *,
    root: Path,
    in_folder: Mapping[Path, set[str]],
) -> Proposed:
    series: list[SeriesFound] = []
    for files in study.values():
        first, facts = min(files, key=lambda item: item[0])
        times = [time for _, each in files if isinstance(time := each["time"], float)]
        single = len(files) == 1
        alone = len(in_folder[first.parent]) == 1 and len({path.parent for path, _ in files}) == 1
        path = first if single else first.parent
        layout = "dicom_enhanced" if facts["enhanced"] else "dicom_slices" if single else "dicom_series"
        time = min(times) if times else None
        series.append(
            SeriesFound(
                str(path.relative_to(root)), layout, len(files), time, str(facts["guess"]), alone or single
            )
        )
    chosen, confidence, notes = assign_phases(series)
    layouts = {one.layout for one in chosen.values()}
    if len(layouts) > 1:
        notes.append("the phases have different layouts")
    if any(not one.alone for one in chosen.values()):
        shared = len({one.path for one in chosen.values()}) == 1 and len(series) == len(chosen) == len(PHASES)
        if not shared:
            notes.append("series share a folder: move each phase into a folder of its own")
    about = next(iter(study.values()))[0][1]
    row = dict.fromkeys((*REQUIRED, *OPTIONAL), "")
    row |= {"subject_id": subject, "layout": next(iter(sorted(layouts)), "dicom_series"), "registered": "0"}
    row |= {f"{phase}_path": one.path for phase, one in chosen.items()}
    for column, key, read in (("age", "age", read_age), ("gender", "sex", read_gender)):
        try:
            value = read(str(about[key]))
            row[column] = ("male" if value else "female") if column == "gender" else str(value)
        except DataError:
            notes.append(f"the files do not give {column}")
    return Proposed(row, confidence, tuple(notes))


def assign_phases(
    series: Sequence[SeriesFound],
) -> tuple[dict[str, SeriesFound], dict[str, Confidence], list[str]]:
    """Which series is which phase, and how sure that is.

    Descriptions decide; times confirm them (high), are missing (medium) or contradict them
    (low). Without descriptions, three series in the order of time are a guess (low).
    """
    notes: list[str] = []
    chosen: dict[str, SeriesFound] = {}
    several: set[str] = set()
    for phase in PHASES:
        named = [one for one in series if one.guess == phase]
        if named:
            chosen[phase] = max(named, key=lambda one: one.files)
        if len(named) > 1:
            several.add(phase)
            notes.append(f"{len(named)} series look like {phase}: the one with the most slices was chosen")
    confidence: dict[str, Confidence] = dict.fromkeys(PHASES, "none")
    if not chosen:
        timed = sorted(
            (one for one in series if one.time_s is not None and not one.guess),
            key=lambda one: one.time_s or 0,
        )
        if len(timed) == len(PHASES) == len(series):
            notes.append("descriptions are uninformative: phases are ordered by time")
            return dict(zip(PHASES, timed, strict=True)), dict.fromkeys(PHASES, "low"), notes
        notes.append("no series description names a phase")
        return {}, confidence, notes
    times = [chosen[phase].time_s for phase in PHASES if phase in chosen]
    known = [time for time in times if time is not None]
    complete = len(known) == len(times) > 1
    ordered = complete and known == sorted(known) and len(set(known)) == len(known)
    if complete and not ordered:
        notes.append("times contradict the descriptions")
    for phase in PHASES:
        if phase not in chosen:
            notes.append(f"no series looks like {phase}")
        elif complete and not ordered:
            confidence[phase] = "low"
        else:
            confidence[phase] = "high" if ordered and phase not in several else "medium"
    return chosen, confidence, notes


def write_proposal(proposal: Proposal, *, folder: Path) -> tuple[Path, Path]:
    """Write `manifest.proposed.csv`, and beside it how sure each row is; neither is read by `prepare`.

    Returns:
        Both paths.
    """
    manifest, report = folder / "manifest.proposed.csv", folder / "manifest.proposed.notes.csv"
    columns = (*REQUIRED, *OPTIONAL)
    write_csv(manifest, columns, ([p.row.get(name, "") for name in columns] for p in proposal.patients))
    sure = (
        [p.row["subject_id"], *(p.confidence[phase] for phase in PHASES), "; ".join(p.notes)]
        for p in proposal.patients
    )
    write_csv(report, _COLUMNS, sure)
    return manifest, report
