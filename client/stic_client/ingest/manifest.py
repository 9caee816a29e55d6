"""`manifest.csv`: one row a patient, every value read as a string and judged row by row.

A row that cannot be used becomes a `PatientError` in the list beside the good ones: one bad
row never stops the others. A table that cannot be read at all is a `DataError`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from stic_core.data.clinical import VARIABLES
from stic_core.data.ct import PHASES
from stic_core.data.dataset import SPLITS, Split
from stic_core.errors import DataError, PatientError
from stic_core.system.csv_tables import Cells, read_table
from stic_core.tasks import KNOWN_LABELS, meant

Layout = Literal["dicom_series", "dicom_enhanced", "dicom_slices", "nifti", "png_gray", "rgb_png"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

PICTURES: tuple[Layout, ...] = ("png_gray", "rgb_png")
"""Layouts whose values are grey, and which carry no position."""

Phase = Literal["nc", "art", "pv"]
MaskType = Literal["seg", "nifti", "nrrd"]

PATHS = tuple(f"{phase}_path" for phase in PHASES)
REQUIRED = ("subject_id", "split", "label", "layout")
LABELS = ("split", "label")
"""Of these, what only training and evaluation need."""

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

_ALL_PATHS = (*PATHS, "rgb_path", "mask_path", "liver_mask_path")
_WINDOWS = re.compile(r"[A-Za-z]:|//|[a-z]+://")
"""How a path begins that names a drive, a share or a scheme; backslashes are slashes by then."""
_SUBJECT = re.compile(r"[A-Za-z0-9_-]{1,32}")
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,16}")
_LABEL_SOURCES = ("pathology", "other", "")
_UNLABELLED = {"split": "test", "label": "", "label_source": ""}


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


def read_manifest(path: Path, *, labelled: bool = True, labels: Sequence[str] = KNOWN_LABELS) -> Manifest:
    """Read `manifest.csv`; see `read_table` for how it may be written.

    Args:
        labelled: False for patients to be scored: split and label may be empty or missing, and are not looked at.
        labels: that are known; one that is close to one of them is taken for a slip, and refused.

    Raises:
        DataError: there is no such table, or its columns are not those of a manifest.
    """
    try:
        table = read_table(path, what="the manifest", known=(*REQUIRED, *OPTIONAL))
    except FileNotFoundError:
        propose = (
            " Write one, or let stic-client --site S prepare --scan DIR propose one." if labelled else ""
        )
        raise DataError(
            "the manifest is missing",
            got=f"no file {path}",
            expected="a table with one row per patient",
            advice=f"Correct the path.{propose}",
        ) from None
    _check_columns(table.columns, labelled=labelled)
    lines = [(number, row if labelled else {**row, **_UNLABELLED}) for number, row in table.rows]
    splits_of: dict[str, list[str]] = {}
    for _, row in lines:
        splits_of.setdefault(row["subject_id"].strip(), []).append(row["split"].strip())
    rows, refused = [], []
    for number, raw in lines:
        try:
            row = _parse(raw, line=number, labels=labels)
            splits = splits_of[row.subject]
            if len(splits) > 1:
                raise PatientError(
                    "the same subject in two splits"
                    if len(set(splits)) > 1
                    else "the subject has several rows",
                    subject=row.subject,
                    got=f"{len(splits)} rows",
                    expected="1 row",
                    advice="Keep the correct row.",
                )
            rows.append(row)
        except PatientError as error:
            refused.append(error)
    return Manifest(tuple(rows), tuple(refused))


def _check_columns(columns: tuple[str, ...], *, labelled: bool) -> None:
    required = REQUIRED if labelled else tuple(name for name in REQUIRED if name not in LABELS)
    missing = [name for name in required if name not in columns]
    strange = sorted(set(columns) - {*REQUIRED, *OPTIONAL})
    if missing:
        raise DataError(
            "the manifest lacks columns", got=f"no {', no '.join(missing)}", expected=", ".join(required)
        )
    if strange:
        # Their names are the operator's, not a patient's; a misspelt column must not be passed over.
        raise DataError(
            "the manifest has unknown columns",
            got=", ".join(strange)[:200],
            expected=", ".join((*REQUIRED, *OPTIONAL)),
            advice="Correct the spelling, or remove them.",
        )


def _parse(  # noqa: C901 - a branch a column
    raw: Cells, *, line: int, labels: Sequence[str]
) -> PatientRow:
    """One row.

    Raises:
        PatientError: anything in it that is not as it should be.
    """
    texts = {key: value.strip() for key, value in raw.items() if key}
    texts |= {column: texts[column].replace("\\", "/") for column in _ALL_PATHS if column in texts}
    subject = texts["subject_id"]
    if not _SUBJECT.fullmatch(subject):
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
            raise refuse(column, "a number with a decimal point, or empty")
        return float(value)

    if None in raw:
        raise refuse("the row", "as many values as there are columns; quote values that contain commas")
    split = one_of("split", SPLITS)
    label = texts.get("label", "")
    if label not in labels and (right := meant(label, classes=labels)):
        raise PatientError(
            f"manifest, line {line}: label cannot be used",
            subject=subject,
            got=repr(label[:16]),
            expected=right,
            advice=f"Did you mean {right}? A class of its own is named under dataset.labels in site.yaml.",
        )
    if label and not _LABEL.fullmatch(label):
        raise refuse("label", f"a class, such as {' or '.join(labels)}")
    if not label and split != "test":
        raise refuse("label", "a class of the task; only test patients may have none")
    layout = cast("Layout", one_of("layout", LAYOUTS))
    if wrong := next((column for column in _ALL_PATHS if _WINDOWS.match(texts.get(column, ""))), None):
        raise refuse(
            wrong, "a path relative to dataset.root, such as P1/nc, without a drive, share or scheme"
        )
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
        clinical={name: raw.get(name, "") for name in VARIABLES},
    )


def _mask_type_of(path: str) -> str:
    """The type that a file's name tells, "" where it tells none."""
    endings = {".dcm": "seg", ".nii": "nifti", ".nii.gz": "nifti", ".nrrd": "nrrd"}
    return next((kind for ending, kind in endings.items() if path.lower().endswith(ending)), "")
