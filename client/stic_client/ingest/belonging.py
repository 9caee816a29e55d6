"""Whether the parts of one patient belong together: another patient's is refused, the rest is warned of.

Identifiers are compared and never shown. Anonymisers remove, shift or equalise what they stand
for, so a missing value says nothing, and only what no anonymiser does to one patient refuses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from itertools import combinations

from stic_client.ingest import elements
from stic_client.ingest.exam import Exam, exam_of
from stic_client.ingest.source import Source
from stic_client.ingest.stack import Stack
from stic_client.ingest.words import PHASE_NAMES
from stic_core.data.clinical_texts import read_age, read_gender
from stic_core.data.ct import PHASES
from stic_core.errors import DataError

_YEAR_DAYS = 365.25
_SLACK_YEARS = 2
"""Ages and dates of birth may differ by this much beside the time between the exams: dates are shifted and
rounded, and an age is written down on another day than the scan's."""

_MANIFEST_YEARS = 5
"""The manifest's age may be that of another day, and either may be rounded."""

_SAME_SESSION_S = 12 * 3600.0
"""Phases of one exam lie minutes apart; a night examination passes midnight."""


def check_belonging(
    stacks: Mapping[str, Stack],
    *,
    segmentation: Source | None = None,
    clinical: Mapping[str, str] | None = None,
) -> list[str]:
    """Compare identity, exam, date, words and kind of the phases, and of a DICOM SEG.

    Args:
        clinical: the manifest's texts by variable; gender and age are compared with the phases'.

    Returns:
        Warnings.

    Raises:
        PatientError: a part of another patient; a virtual non-contrast image as a contrast phase.
    """
    exams = {phase: exam for phase in PHASES if (exam := stacks[phase].exam) is not None}
    parts = {phase.upper(): (stacks[phase].source, exam) for phase, exam in exams.items()}
    mask = None
    if segmentation is not None:
        mask = exam_of(elements.open_dataset(segmentation, pixels=False))
        parts["mask"] = (segmentation, mask)
    for (one, (_, first)), (other, (source, second)) in combinations(parts.items(), 2):
        if why := _another_patient(first, second, years_apart=_years_apart(stacks, one, other)):
            raise source.refuse(
                "the files belong to another patient",
                got=f"{why} of {other} differs from that of {one}",
                expected="one patient",
                advice="Correct the paths of the manifest. If it is one patient, export the phases in one go: "
                "some anonymisers number every export anew.",
            )
    for phase, exam in exams.items():
        if phase != "nc" and exam.reconstruction.contrast_removed:
            raise stacks[phase].source.refuse(
                "it is a virtual non-contrast image, named as a contrast phase",
                expected=PHASE_NAMES[phase],
                advice="Name the CT series of the phase.",
            )
    return (
        _dates(stacks)
        + _words(exams)
        + _caveats(exams)
        + _statements(exams, mask=mask)
        + _manifest(exams, clinical=clinical or {})
    )


def _statements(exams: Mapping[str, Exam], *, mask: Exam | None) -> list[str]:
    """What one exam of one patient usually states alike."""
    stated = {
        "the phases have different studies": {exam.study for exam in exams.values()},
        "the phases have different frames of reference, so their positions may not fit": {
            exam.frame for exam in exams.values()
        },
        "the phases state different names of the patient": {exam.name for exam in exams.values()},
        "the phases state different dates of birth": {str(exam.birth or "") for exam in exams.values()},
    }
    warnings = [text for text, values in stated.items() if len(values - {""}) > 1]
    frames = {exam.frame for exam in exams.values()}
    if mask is not None and mask.frame and frames and "" not in frames and mask.frame not in frames:
        warnings.append("the mask was drawn in another frame of reference than the phases")
    return warnings


def _manifest(exams: Mapping[str, Exam], *, clinical: Mapping[str, str]) -> list[str]:
    """Gender and age of a row that were shifted against its images; what cannot be read is refused elsewhere."""
    sexes = {exam.sex for exam in exams.values()} - {""}
    ages = [exam.age for exam in exams.values() if exam.age is not None]
    warnings = []
    with suppress(DataError):
        sex = "M" if read_gender(clinical.get("gender", "")) else "F"
        if sexes and sex not in sexes:
            warnings.append("the manifest's gender is not that of the images")
    with suppress(DataError):
        age = read_age(clinical.get("age", ""))
        if ages and min(abs(age - other) for other in ages) > _MANIFEST_YEARS:
            warnings.append("the manifest's age is not that of the images")
    return warnings


def _another_patient(one: Exam, other: Exam, *, years_apart: float | None) -> str:
    """What tells two parts' patients apart, "" where nothing does."""
    if one.patient and other.patient:
        if one.patient != other.patient:
            return "PatientID"
    elif one.name and other.name and one.name != other.name:
        return "PatientName"
    if one.sex and other.sex and one.sex != other.sex:
        return "PatientSex"
    if one.birth and other.birth and abs((one.birth - other.birth).days) > _SLACK_YEARS * _YEAR_DAYS:
        return "PatientBirthDate"
    if one.age is not None and other.age is not None:
        grown = abs(one.age - other.age)
        if abs(grown - (years_apart or 0.0)) > _SLACK_YEARS and grown > _SLACK_YEARS:
            return "PatientAge"
    return ""


def _years_apart(stacks: Mapping[str, Stack], one: str, other: str) -> float | None:
    times = [stacks[name.lower()].time_s for name in (one, other) if name.lower() in stacks]
    known = [time for time in times if time is not None and elements.is_dated(time)]
    return abs(known[0] - known[1]) / (elements.DAY_S * _YEAR_DAYS) if len(known) == 2 else None


def _dates(stacks: Mapping[str, Stack]) -> list[str]:
    known = {
        phase: time
        for phase in PHASES
        if (time := stacks[phase].time_s) is not None and elements.is_dated(time)
    }
    if len(known) < 2 or max(known.values()) - min(known.values()) <= _SAME_SESSION_S:
        return []
    days = round((max(known.values()) - min(known.values())) / elements.DAY_S, 1)
    return [f"the phases were not acquired in one session: {days:g} days lie between the first and the last"]


def _words(exams: Mapping[str, Exam]) -> list[str]:
    """Phases whose description names another one; one text for all of them says nothing of any."""
    said = {phase: exam.phase for phase, exam in exams.items() if exam.phase}
    if len(said) > 1 and len(set(said.values())) == 1:
        return []
    return [
        f"{phase.upper()}: its description names {PHASE_NAMES[word]}"
        for phase, word in said.items()
        if word != phase
    ]


def _caveats(exams: Mapping[str, Exam]) -> list[str]:
    """Phases that are not the usual kind of CT image."""
    phases: dict[str, list[str]] = defaultdict(list)
    for phase, exam in exams.items():
        for caveat in exam.reconstruction.caveats:
            phases[caveat].append(phase.upper())
    return [f"{', '.join(names)}: {caveat}" for caveat, names in phases.items()]
