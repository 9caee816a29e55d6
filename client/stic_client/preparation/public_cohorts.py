"""Public cohorts as a site's dataset: manifests for MCT-LTDiag.

Wu et al., Scientific Data 2025 (doi 10.7910/DVN/S3RW15): 517 patients, `<id>/NIFTI/` with the
phases `nc`, `art`, `pvp`, `delay` and masks drawn on `pvp`, and a patient table. Its lesion
reading table is never opened: it holds what the label was made from.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from stic_client.ingest.manifest import OPTIONAL, REQUIRED
from stic_core.data.clinical_texts import read_age, read_gender
from stic_core.errors import DataError, UsageError
from stic_core.system.files import write_csv
from stic_core.tasks import TASKS, Task

TABLE = "meta_info_patient.csv"
_COLUMNS = ("ID", "type", "patient_sex", "patient_age")
_MALIGNANT = MappingProxyType({"HCC": "HCC", "ICC": "ICC", "CRLM": "META", "BCLM": "META"})
_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")

_FILES = MappingProxyType(
    {
        "nc_path": "nc.nii.gz",
        "art_path": "art.nii.gz",
        "pv_path": "pvp.nii.gz",
        "mask_path": "mask_pvp.nii.gz",
    }
)
_LIVER = "liver_mask_pvp.nii.gz"
MANIFEST_COLUMNS = (
    *REQUIRED,
    *(name for name in OPTIONAL if name not in {"rgb_path", "lesion_row", "lesion_col"}),
)


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import wrote.

    Args:
        root: what `dataset.root` must be.
        manifests: by centre; "" where there is one for all.
        counts: patients by centre and label.
        left_out: patients by reason.
    """

    root: Path
    manifests: Mapping[str, Path]
    counts: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, int]


def import_mct_ltdiag(
    directory: Path,
    *,
    out: Path,
    centres: Sequence[str] | None = None,
    task: Task = TASKS["malignant"],
    test_share: float = 0.2,
    seed: int = 0,
) -> ImportSummary:
    """Write a manifest for the cohort, or one for each centre of a simulated federation.

    Who goes to which centre and who is held out is a hash of seed and ID within each label,
    so it does not depend on which patients were downloaded first.

    Args:
        directory: holds the patients' folders and the patient table.
        out: folder for `manifest.csv`, or `<centre>.csv` for each centre.
        centres: names; the cohort is dealt out evenly, stratified by label.
        task: HH (hemangioma) is BENIGN where the task has that class and left out elsewhere;
            the cohort's metastases (CRLM, BCLM) are META.
        test_share: share of each centre's patients of each label that is held out, at least one.
        seed: of both draws.

    Raises:
        DataError: no patient table, other columns, or no patient that can be used.
        UsageError: names of centres that are not different names.
    """
    if centres is not None and (
        not centres or len(set(centres)) != len(centres) or not all(_ID.fullmatch(name) for name in centres)
    ):
        raise UsageError(
            "unsuitable names of centres", got=", ".join(centres) or "none", expected="distinct plain names"
        )
    directory = directory.resolve()
    left_out: Counter[str] = Counter()
    by_label: dict[str, list[dict[str, str]]] = defaultdict(list)
    for record in _table(directory):
        row = _row(record, directory=directory, task=task, left_out=left_out)
        if row is not None:
            by_label[row["label"]].append(row)
    if not by_label:
        raise DataError(
            "no patient of MCT-LTDiag can be used",
            got=", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
            or "an empty table",
            expected="folders <id>/NIFTI beside the patient table",
            advice="Unpack the images beside meta_info_patient.csv.",
        )
    names = tuple(centres or ("",))
    dealt: dict[str, list[dict[str, str]]] = {name: [] for name in names}
    for label, rows in sorted(by_label.items()):
        rows.sort(key=lambda row: _place(seed, "centre", row["subject_id"]))
        for number, name in enumerate(names):
            mine = sorted(rows[number :: len(names)], key=lambda row: _place(seed, "test", row["subject_id"]))
            held_out = min(max(1, round(test_share * len(mine))), max(len(mine) - 1, 0))
            dealt[name] += [
                {**row, "split": "test" if place < held_out else "train", "label": label}
                for place, row in enumerate(mine)
            ]
    manifests = {name: out / f"{name or 'manifest'}.csv" for name in names}
    for name, path in manifests.items():
        rows = sorted(dealt[name], key=lambda row: row["subject_id"])
        write_csv(path, MANIFEST_COLUMNS, ([row.get(name, "") for name in MANIFEST_COLUMNS] for row in rows))
    return ImportSummary(
        root=directory,
        manifests=manifests,
        counts={
            name: dict(sorted(Counter(row["label"] for row in rows).items())) for name, rows in dealt.items()
        },
        left_out=dict(left_out),
    )


def label_of(kind: str, *, task: Task) -> str | None:
    """The task's class for the table's `type`, None where it has none.

    Example:
        >>> label_of("CRLM", task=TASKS["malignant"])
        'META'
    """
    malignant = _MALIGNANT.get(kind)
    if "BENIGN" in task.classes:
        label = "BENIGN" if kind == "HH" else "MALIGNANT" if malignant else None
    else:
        label = malignant
    return label if label in task.classes else None


def _place(seed: int, draw: str, subject: str) -> bytes:
    return hashlib.sha256(f"{seed}|{draw}|{subject}".encode()).digest()


def _table(directory: Path) -> list[dict[str, str]]:
    """The patient table, each value as the text that it is: an ID of 007 or NA stays so.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    import pandas as pd  # a third of a second, and only this command needs it

    try:
        table = pd.read_csv(
            directory / TABLE,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            usecols=lambda name: name in _COLUMNS,
            index_col=False,  # else a comma at the ends of lines makes an index of the IDs
        )
    except (OSError, ValueError) as error:
        raise DataError(
            "the patient table of MCT-LTDiag cannot be read",
            got=type(error).__name__,
            expected=TABLE,
            advice="Name the folder that holds it.",
        ) from None
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise DataError(
            "the patient table lacks columns",
            got=f"no {', no '.join(missing)}",
            expected=", ".join(_COLUMNS),
        )
    return table.to_dict("records")


def _row(
    record: Mapping[str, str], *, directory: Path, task: Task, left_out: Counter[str]
) -> dict[str, str] | None:
    """One patient's row of the manifest; None, and a reason counted, where there is none."""
    subject = record["ID"].strip()
    label = label_of(record["type"].strip(), task=task)
    if not _ID.fullmatch(subject):
        left_out["with an ID that is not a pseudonym"] += 1
        return None
    if label is None:
        left_out["of a type that the task does not have"] += 1
        return None
    folder = directory / subject / "NIFTI"
    if not folder.is_dir():
        left_out["without images"] += 1
        return None
    if not all((folder / name).is_file() for name in _FILES.values()):
        left_out["without all phases and the lesion mask"] += 1
        return None
    try:
        age, male = read_age(record["patient_age"]), read_gender(record["patient_sex"])
    except DataError:
        left_out["without a readable age or sex"] += 1
        return None
    return {
        "subject_id": subject,
        "label": label,
        "label_source": "other",
        "layout": "nifti",
        **{column: f"{subject}/NIFTI/{name}" for column, name in _FILES.items()},
        "mask_phase": "pv",
        "mask_type": "nifti",
        "liver_mask_path": f"{subject}/NIFTI/{_LIVER}" if (folder / _LIVER).is_file() else "",
        "registered": "0",
        "age": str(age),
        "gender": "male" if male else "female",
        # The table's hepatitis column is a history, no HBsAg; it has no tumour markers at all.
    }
