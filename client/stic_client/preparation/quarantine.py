"""Who cannot be used, and why: the rows of `quarantine.csv`, and when there are too many of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from stic_client.ingest.manifest import PatientRow
from stic_client.ingest.patient import PreparedPatient
from stic_client.preparation import worker_pool
from stic_core.config import DatasetConfig
from stic_core.errors import DataError, PatientError
from stic_core.tasks import Task

QUARANTINE_FILE = "quarantine.csv"


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """A patient who was quarantined.

    Args:
        subject: the pseudonym.
        file: the manifest's path, "" where no file is at fault.
        reason: the kind, without figures: refusals are counted by it.
        message: all of it: got, expected, what to do.
    """

    subject: str
    file: str
    reason: str
    message: str


def refusal_of(error: PatientError) -> QuarantineEntry:
    """A patient's error as a row of `quarantine.csv`."""
    return QuarantineEntry(error.subject, error.file or "", error.what, str(error))


def lost_refusal(subject: str, lost: worker_pool.Lost) -> QuarantineEntry:
    """A patient whose worker did not answer."""
    what = f"reading its files {lost.reason}"
    return QuarantineEntry(
        subject,
        "",
        what,
        f"{subject}: {what}. A file is broken: export it again, or convert it to uncompressed DICOM.",
    )


def duplicates(rows: list[PatientRow], *, patients: Mapping[str, PreparedPatient]) -> list[QuarantineEntry]:
    """Patients who are the same: all of them where they span splits, else all but the first."""
    holders: dict[str, list[PatientRow]] = defaultdict(list)
    for row in rows:
        if row.subject in patients:
            for digest in set(patients[row.subject].digests):
                holders[digest].append(row)
    refused: dict[str, QuarantineEntry] = {}
    for same in holders.values():
        if len(same) < 2:
            continue
        across = len({row.split for row in same}) > 1
        what = "the same images in two splits" if across else "the same images as another patient"
        for row in same if across else same[1:]:
            others = ", ".join(other.subject for other in same if other is not row)
            error = PatientError(
                what, subject=row.subject, got=f"those of {others}", advice="Keep one of them, in one split."
            )
            refused.setdefault(row.subject, refusal_of(error))
    return list(refused.values())


def check_enough(
    left: list[PatientRow],
    *,
    refused: list[QuarantineEntry],
    settings: DatasetConfig,
    total: int,
    task: Task | None,
) -> None:
    """Refuse to go on where too much is missing; `quarantine.csv` is written by then."""
    reasons = Counter(refusal.reason for refusal in refused).most_common(3)
    most = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    where = settings.prepared / QUARANTINE_FILE
    if not left:
        raise DataError(
            "no patient can be used", got=f"{total} rows, {most or 'all empty'}", advice=f"See {where}."
        )
    if len(refused) > settings.max_quarantined:
        raise DataError(
            "too many patients cannot be used",
            got=f"{len(refused)} of {total} ({most})",
            expected=f"at most {settings.max_quarantined} (dataset.max_quarantined)",
            advice=f"See {where}; correct the files, or raise the limit.",
        )
    if task is not None:
        empty = [
            name for name in task.classes if not any(r.label == name and r.split == "test" for r in left)
        ]
        if empty:
            raise DataError(
                "a class has no patients in test",
                got=f"no {', no '.join(empty)}",
                expected=f"patients of {', '.join(task.classes)}",
                advice="Hold out patients of every class, or choose a task without that class.",
            )
