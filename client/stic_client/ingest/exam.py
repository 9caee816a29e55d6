"""Whose images a phase shows, when and of what: what its header says, for comparing and never for showing."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from dataclasses import dataclass

from pydicom.dataset import Dataset

from stic_client.ingest import elements
from stic_client.ingest.kinds import Reconstruction, reconstruction_of
from stic_client.ingest.words import guess_phase
from stic_core.data.clinical_texts import read_age
from stic_core.errors import DataError

_DUMMY_BIRTH_YEARS = range(1, 1901)
"""Anonymisers write 19000101 and the like where a date of birth must stand."""


@dataclass(frozen=True, slots=True)
class Exam:
    """What a header says of the patient and the exam; "" or None where it says nothing.

    Args:
        patient: PatientID without spaces, case and leading zeros, which systems add and drop.
        name: letters and digits of PatientName.
        sex: "M", "F" or "".
        birth: date of birth.
        age: years.
        study, series, frame: UIDs of study, series and frame of reference.
        phase: which phase the description names, see `guess_phase`.
        reconstruction: what the slices are beyond the original kind.
    """

    patient: str
    name: str
    sex: str
    birth: dt.date | None
    age: int | None
    study: str
    series: str
    frame: str
    phase: str
    reconstruction: Reconstruction


def exam_of(dataset: Dataset) -> Exam:
    """What a header says; what cannot be read counts as missing."""
    text = elements.text
    try:
        age = read_age(text(dataset, "PatientAge"))
    except DataError:
        age = None
    sex = text(dataset, "PatientSex")
    return Exam(
        patient=re.sub(r"\s", "", text(dataset, "PatientID")).lstrip("0"),
        name=re.sub(r"[\W_]", "", text(dataset, "PatientName")),
        sex=sex if sex in {"M", "F"} else "",
        birth=_date(text(dataset, "PatientBirthDate")),
        age=None if age is None else int(age),
        study=text(dataset, "StudyInstanceUID"),
        series=text(dataset, "SeriesInstanceUID"),
        frame=text(dataset, "FrameOfReferenceUID"),
        phase=guess_phase(text(dataset, "SeriesDescription")),
        reconstruction=reconstruction_of(dataset),
    )


def exam_digest(exam: Exam) -> str:
    """What two pseudonyms share only if they stand for one exam; "" where the files say too little.

    Anonymisers write one study UID or one patient into every file, so neither is enough; all of
    it and the series together are. Times are left out: each slice of a series may have its own.
    """
    if not exam.study or not exam.series:
        return ""
    facts = (exam.study, exam.series, exam.patient, exam.name, exam.sex, exam.birth, exam.frame)
    return hashlib.sha256("\0".join(map(str, facts)).encode()).hexdigest()


def _date(text: str) -> dt.date | None:
    try:
        day = dt.datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007 - a day
    except ValueError:
        return None
    return None if day.year in _DUMMY_BIRTH_YEARS else day
