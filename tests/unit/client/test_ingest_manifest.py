"""The manifest: every identifier a string, each row judged alone, each fault named."""

from __future__ import annotations

from pathlib import Path

import pytest

from stic_client.ingest.manifest import read_manifest
from stic_core.errors import DataError, PatientError
from support.ingest_files import manifest_row, write_manifest

PATHS = {"nc_path": "n.dcm", "art_path": "a.dcm", "pv_path": "p.dcm"}


def _refused(root: Path, **values: str) -> PatientError:
    manifest = read_manifest(
        write_manifest(root, [manifest_row("good", **PATHS), manifest_row(**{**PATHS, **values})])
    )
    assert [row.subject for row in manifest.rows] == ["good"]
    (error,) = manifest.refused
    return error


def test_values_are_strings(tmp_path: Path) -> None:
    """`007` stays `007`, laboratory texts stay raw, and a byte order mark is no part of a name."""
    path = write_manifest(tmp_path, [manifest_row("007", afp=" >1,210", hbsag="＞", **PATHS)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (row,) = read_manifest(path).rows
    assert row.subject == "007"
    assert row.clinical["afp"] == " >1,210"
    assert row.paths == {"nc": "n.dcm", "art": "a.dcm", "pv": "p.dcm"}
    assert row.mask_phase == "nc"
    assert not row.registered


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"split": "Train"}, "train or val or test"),
        ({"layout": "dicom"}, "dicom_series"),
        ({"label": "not a class!"}, "label"),
        ({"label": ""}, "only test patients"),
        ({"label_source": "biopsy"}, "label_source"),
        ({"art_path": ""}, "a phase is missing"),
        ({"rgb_path": "x.png"}, "does not have"),
        ({"layout": "rgb_png", "rgb_path": "x.png"}, "does not have"),
        ({"registered": "yes"}, "registered"),
        ({"slice_index": "-1"}, "slice_index"),
        ({"slice_z_mm": "high"}, "slice_z_mm"),
        ({"lesion_row": "3"}, "both, or neither"),
        ({"mask_path": "mask.xyz"}, "mask_type"),
        ({"mask_phase": "delay", "mask_path": "m.nii"}, "mask_phase"),
    ],
)
def test_a_bad_row_is_refused_and_the_good_one_kept(
    tmp_path: Path, values: dict[str, str], words: str
) -> None:
    """The error names the subject and what was expected."""
    error = _refused(tmp_path, **values)
    assert error.subject == "A"
    assert words in str(error)


@pytest.mark.parametrize("subject", ["Doe^John", "", "x" * 33, "a b", "../a", "ünal"])
def test_a_name_for_a_pseudonym_is_refused_without_showing_it(tmp_path: Path, subject: str) -> None:
    """What stands there may be the patient's name: the line is named instead."""
    error = _refused(tmp_path, subject_id=subject)
    assert error.subject == "(line 3)"
    assert not subject or subject not in str(error)


def test_subject_in_two_splits_is_refused(tmp_path: Path) -> None:
    """Both rows; a subject with two rows of one split as well."""
    rows = [
        manifest_row("A", **PATHS),
        manifest_row("A", split="test", **PATHS),
        manifest_row("B", **PATHS),
    ] + [manifest_row("C", **PATHS)] * 2
    manifest = read_manifest(write_manifest(tmp_path, [{"split": "train", **row} for row in rows]))
    assert [row.subject for row in manifest.rows] == ["B"]
    assert [error.what for error in manifest.refused] == ["the same subject in two splits"] * 2 + [
        "the subject has several rows"
    ] * 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing"),
        ("subject_id,split\nA,train\n", "lacks columns"),
        ("subject_id,split,label,layout,mask_pth\n", "mask_pth"),
        ("subject_id,split,label,layout,layout\n", "twice"),
        ('subject_id,split,label,layout\n"A,train', "cannot be read"),
        (b"\xff\xfe\x00s", "cannot be read"),
        ("", "lacks columns"),
    ],
)
def test_a_table_that_is_no_manifest_is_refused(
    tmp_path: Path, content: str | bytes | None, words: str
) -> None:
    """The whole table, with what was expected."""
    path = tmp_path / "manifest.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=words):
        read_manifest(path)


def test_more_values_than_columns_are_refused(tmp_path: Path) -> None:
    """An unquoted `1,210` shifts every value after it."""
    path = write_manifest(tmp_path, [manifest_row(**PATHS)])
    path.write_text(path.read_text().rstrip() + ",5\n")
    (error,) = read_manifest(path).refused
    assert "as many values as there are columns" in str(error.expected)
