"""`manifest.csv`: one row a patient, every value read as a string and judged row by row.

A row that cannot be used becomes a `PatientError` in the list beside the good ones: one bad
row never stops the others. A table that cannot be read at all is a `DataError`.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from stic_core.data.clinical import VARIABLES
from stic_core.data.ct import PHASES
from stic_core.data.dataset import SPLITS, Split
from stic_core.errors import DataError, PatientError

Layout = Literal["dicom_series", "dicom_enhanced", "dicom_slices", "nifti", "png_gray", "rgb_png"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

PICTURES: tuple[Layout, ...] = ("png_gray", "rgb_png")
"""Layouts whose values are grey, and which carry no position."""

Phase = Literal["nc", "art", "pv"]
MaskType = Literal["seg", "nifti", "nrrd"]

PATHS = tuple(f"{phase}_path" for phase in PHASES)
REQUIRED = ("subject_id", "split", "label", "layout")
OPTIONAL = (
    "label_source",
    *PATHS,
    "rgb_path",
    "mask_path",
    "mask_phase",
    "mask_type",
    "mask_label",
    "liver_mask_path",
    "slice_index",
    "slice_z_mm",
    "lesion_row",
    "lesion_col",
    "registered",
    *VARIABLES,
)

_SUBJECT = re.compile(r"[A-Za-z0-9_-]{1,32}")
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,16}")
_LABEL_SOURCES = ("pathology", "other", "")


@dataclass(frozen=True, slots=True)
class PatientRow:
    """One patient as the manifest describes it.

    Args:
        paths: by phase, or `{"rgb": ...}`; relative to the root, not yet judged.
        mask_phase: the phase that masks, slice and lesion position refer to.
        slice_index: counted from 0 at the feet (ascending patient z).
        lesion: row and column, pixels.
        registered: the three phases lie on each other already.
        clinical: raw texts by variable.
    """

    subject: str
    split: Split
    label: str
    label_source: str
    layout: Layout
    paths: Mapping[str, str]
    mask_path: str
    mask_phase: Phase
    mask_type: MaskType | None
    mask_label: str
    liver_mask_path: str
    slice_index: int | None
    slice_z_mm: float | None
    lesion: tuple[float, float] | None
    registered: bool
    clinical: Mapping[str, str]

    @property
    def is_volume(self) -> bool:
        """Whether the layout holds more than one slice a phase."""
        return self.layout in {"dicom_series", "dicom_enhanced", "nifti"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says: the rows that can be used, and why the others can not."""

    rows: tuple[PatientRow, ...]
    refused: tuple[PatientError, ...]


def read_manifest(path: Path) -> Manifest:
    """Read `manifest.csv`, UTF-8 with or without a byte order mark.

    Raises:
        DataError: there is no such table, or its columns are not those of a manifest.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or ())
            _check_columns(columns)
            lines = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise DataError(
            "the manifest is missing",
            got=path.name,
            expected="a table with one row per patient, under dataset.root",
            advice="Write one, or let stic-client --site S prepare --scan DIR propose one.",
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "the manifest cannot be read",
            got=type(error).__name__,
            expected="CSV in UTF-8",
            advice="Save it as CSV UTF-8 with commas.",
        ) from None
    seen = Counter(row.get("subject_id") for _, row in lines)
    split_of: dict[str | None, set[str | None]] = {}
    for _, row in lines:
        split_of.setdefault(row.get("subject_id"), set()).add(row.get("split"))
    rows, refused = [], []
    for number, raw in lines:
        try:
            row = _parse(raw, line=number)
            if seen[row.subject] > 1:
                two = len(split_of[row.subject]) > 1
                raise PatientError(
                    "the same subject in two splits" if two else "the subject has several rows",
                    subject=row.subject,
                    got=f"{seen[row.subject]} rows",
                    expected="1 row",
                    advice="Keep the correct row.",
                )
            rows.append(row)
        except PatientError as error:
            refused.append(error)
    return Manifest(tuple(rows), tuple(refused))


def _check_columns(columns: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    strange = sorted(set(columns) - {*REQUIRED, *OPTIONAL})
    if missing:
        raise DataError(
            "the manifest lacks columns", got=f"no {', no '.join(missing)}", expected=", ".join(REQUIRED)
        )
    if twice:
        raise DataError("the manifest has a column twice", got=", ".join(twice), advice="Remove one of them.")
    if strange:
        # Their names are the operator's, not a patient's; a misspelt column must not be passed over.
        raise DataError(
            "the manifest has unknown columns",
            got=", ".join(strange)[:200],
            expected=", ".join((*REQUIRED, *OPTIONAL)),
            advice="Correct the spelling, or remove them.",
        )


def _parse(  # noqa: C901 - a branch a column
    raw: Mapping[str | None, object], *, line: int
) -> PatientRow:
    """One row.

    Raises:
        PatientError: anything in it that is not as it should be.
    """
    texts = {key: value.strip() if isinstance(value, str) else "" for key, value in raw.items() if key}
    subject = raw.get("subject_id")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        # What stands there may be a name or a hospital number: the line says enough.
        raise PatientError(
            "subject_id is not a pseudonym",
            subject=f"(line {line})",
            expected="1 to 32 of A-Z a-z 0-9 _ -",
            advice="Give the patient a pseudonym.",
        )

    def refuse(column: str, expected: str) -> PatientError:
        return PatientError(
            f"manifest, line {line}: {column} cannot be used",
            subject=subject,
            expected=expected,
            advice="Correct the manifest.",
        )

    def one_of(column: str, choices: tuple[str, ...], default: str = "") -> str:
        value = texts.get(column) or default
        if value not in choices:
            raise refuse(column, " or ".join(choice or "empty" for choice in choices))
        return value

    def number(column: str) -> float | None:
        value = texts.get(column, "")
        if not value:
            return None
        if not re.fullmatch(r"[+-]?\d{1,6}(\.\d{1,9})?", value):
            raise refuse(column, "a number, or empty")
        return float(value)

    if None in raw:
        raise refuse("the row", "as many values as there are columns; quote values that contain commas")
    split = one_of("split", SPLITS)
    label = texts.get("label", "")
    if label and not _LABEL.fullmatch(label):
        raise refuse("label", "a class of the task")
    if not label and split != "test":
        raise refuse("label", "a class of the task; only test patients may have none")
    layout = cast("Layout", one_of("layout", LAYOUTS))
    wanted = ("rgb_path",) if layout == "rgb_png" else PATHS
    for column in (*PATHS, "rgb_path"):
        if (column in wanted) != bool(texts.get(column)):
            what = "a phase is missing" if column in wanted else "a path that the layout does not have"
            raise PatientError(
                f"manifest, line {line}: {what}",
                subject=subject,
                got="no path" if column in wanted else "a path",
                expected=f"{column} {'set' if column in wanted else 'empty'} for layout {layout}",
                advice="Name the files of all three phases." if column in wanted else "Remove it.",
            )
    mask_path = texts.get("mask_path", "")
    mask_type = one_of("mask_type", ("seg", "nifti", "nrrd", "")) or _mask_type_of(mask_path)
    if (mask_path or texts.get("liver_mask_path")) and layout in PICTURES:
        raise refuse("mask_path", f"empty for layout {layout}: pictures carry no position")
    if mask_path and not mask_type:
        raise refuse("mask_type", "seg or nifti or nrrd")
    row, col, index = number("lesion_row"), number("lesion_col"), number("slice_index")
    if (row is None) != (col is None):
        raise refuse("lesion_row and lesion_col", "both, or neither")
    if index is not None and (index < 0 or index != int(index)):
        raise refuse("slice_index", "a whole number from 0")
    return PatientRow(
        subject=subject,
        split=cast("Split", split),
        label=label,
        label_source=one_of("label_source", _LABEL_SOURCES),
        layout=layout,
        paths={column.removesuffix("_path"): texts[column] for column in wanted},
        mask_path=mask_path,
        mask_phase=cast("Phase", one_of("mask_phase", PHASES, default="nc")),
        mask_type=cast("MaskType | None", mask_type or None),
        mask_label=texts.get("mask_label", ""),
        liver_mask_path=texts.get("liver_mask_path", ""),
        slice_index=None if index is None else int(index),
        slice_z_mm=number("slice_z_mm"),
        lesion=None if row is None or col is None else (row, col),
        registered=one_of("registered", ("0", "1"), default="0") == "1",
        # Not stripped: how laboratory values are read is stic_core.data.clinical's affair.
        clinical={name: str(raw.get(name) or "") for name in VARIABLES},
    )


def _mask_type_of(path: str) -> str:
    """The type that a file's name tells, "" where it tells none."""
    endings = {".dcm": "seg", ".nii": "nifti", ".nii.gz": "nifti", ".nrrd": "nrrd"}
    return next((kind for ending, kind in endings.items() if path.lower().endswith(ending)), "")
