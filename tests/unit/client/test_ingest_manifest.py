"""The manifest: every identifier a string, each row judged alone, each fault named."""

from __future__ import annotations

import io
import unicodedata
import zipfile
from pathlib import Path

import pytest

from stic_client.ingest.manifest import read_manifest
from stic_client.ingest.source import locate
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
        (b"\xff\xfes\x00", "lacks columns"),
        ("subject_id;split;label;layout;x\n", "unknown columns"),
        ("subject_id,split,label,layout,,afp\nA,train,HCC,nifti,5,6\n", "without a name"),
        ("", "lacks columns"),
        ("\n , ,\n", "lacks columns"),
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


_CSV = 'subject_id,split,label,layout,nc_path,art_path,pv_path,afp\nA,train,HCC,dicom_slices,n,a,p,"6,5"\n'
_SEMICOLONS = _CSV.replace('"6,5"', "6.5").replace(",", ";").replace("6.5", "6,5")


@pytest.mark.parametrize("content", [
    _CSV.encode("utf-8-sig"), _CSV.encode("utf-16"), _CSV.encode("utf-16-le"), _CSV.encode("utf-16-be"), _CSV.encode("utf-32"),
    _SEMICOLONS.encode(), _SEMICOLONS.replace(";", "\t").encode("utf-16"), _SEMICOLONS.replace(";", "|").encode(),
    b"sep=;\r\n" + _SEMICOLONS.replace("\n", "\r\n").encode(), b'"sep=,"\n' + _CSV.encode(),
    b"\xef\xbb\xbfsep=;\n" + _SEMICOLONS.encode(), _CSV.replace("\n", "\r").encode(), b"\n" + _CSV.encode(),
    _CSV.replace("subject_id", '" Subject_ID "').replace("label", "Label").encode(),
    (_CSV + ",,,,,,,\n , ,\u00a0,,,,,\n\n").encode(), _CSV.replace("\n", ",,,\n").encode(), _CSV.replace("A,train", " A ,train ").encode(),
])  # fmt: skip
def test_a_manifest_is_read_as_spreadsheets_write_it(tmp_path: Path, content: bytes) -> None:
    """Encodings, separators, a line that names the separator, blanks around and behind: one patient, no complaint."""
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    manifest = read_manifest(path)
    assert manifest.refused == ()
    (row,) = manifest.rows
    assert (row.subject, row.split, row.label, row.clinical["afp"]) == ("A", "train", "HCC", "6,5")


def _xlsx(name: str = "xl/workbook.xml") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, "")
    return packed.getvalue()


@pytest.mark.parametrize(("content", "kind"), [
    (_xlsx(), "an Excel workbook (.xlsx)"), (_xlsx("content.xml"), "an OpenDocument sheet (.ods)"), (_xlsx("a.txt"), "a ZIP archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (.xls)"), (b"%PDF-1.7", "a PDF"),
    (b"<html><table>", "HTML or XML"), (b'{"subject_id": 1}', "JSON"), (b"\x1f\x8b\x08", "a gzip file"),
    (_CSV.replace("HCC", "M\u00fcller").encode("cp1252"), "bytes of another encoding in line 2"),
    (_CSV.replace("HCC", "\u809d").encode("gbk"), "bytes of another encoding in line 2"),
    (b"subject_id\x00\x00\x00\x01,split", "binary data"),
    (b'subject_id,split,label,layout\nA,"train\n', "quotes that do not close, or a line that is too long, near line 2"),
])  # fmt: skip
def test_a_file_that_is_no_table_is_called_by_its_kind(tmp_path: Path, content: bytes, kind: str) -> None:
    """So that whoever saved it knows what to save instead."""
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    assert caught.value.got == kind
    assert caught.value.advice


def test_lines_are_counted_as_an_editor_shows_them(tmp_path: Path) -> None:
    """Also behind `sep=` and rows of empty cells."""
    path = tmp_path / "manifest.csv"
    path.write_text("sep=,\n" + _CSV + ",,,,,,,\nB,Train,HCC,dicom_slices,n,a,p,\n")
    (error,) = read_manifest(path).refused
    assert error.what.startswith("manifest, line 5:")


def test_paths_of_windows_are_read_or_refused(tmp_path: Path) -> None:
    """Backslashes are separators; a drive, a share or a scheme is no place under the root."""
    path = write_manifest(
        tmp_path, [manifest_row("A", nc_path=r"P1\nc", art_path=r".\P1\art", pv_path="P1/pv")]
    )
    (row,) = read_manifest(path).rows
    assert row.paths == {"nc": "P1/nc", "art": "./P1/art", "pv": "P1/pv"}
    for absolute in (r"D:\data\nc", "d:nc", r"\\server\share\nc", "file:///data/nc"):
        error = _refused(tmp_path, art_path=absolute)
        assert "art_path" in error.what
        assert "drive" in str(error)
        assert "data" not in str(error.what)


@pytest.mark.parametrize(("label", "right"), [
    ("hcc", "HCC"), ("Hcc", "HCC"), ("HCCC", "HCC"), ("HC", "HCC"), ("icc", "ICC"), ("Metastasis", "META"), ("Mets", "META"),
    ("benign", "BENIGN"), ("Malign", "MALIGNANT"), ("\uff28\uff23\uff23", "HCC"), ("H C C", "HCC"),
])  # fmt: skip
def test_a_slip_in_a_label_is_refused_with_the_class(tmp_path: Path, label: str, right: str) -> None:
    """Else the patient would silently be left out of every study."""
    error = _refused(tmp_path, label=label)
    assert error.expected == right
    assert "Did you mean" in str(error)


@pytest.mark.parametrize("label", ["FNH", "HH", "CRLM", "CCA", "HCA", "OTHER"])
def test_labels_of_other_tasks_are_kept(tmp_path: Path, label: str) -> None:
    """A manifest may have more classes than the known tasks; those of a task of its own are named in site.yaml."""
    (row,) = read_manifest(write_manifest(tmp_path, [manifest_row(**PATHS, label=label)])).rows
    assert row.label == label
    path = write_manifest(tmp_path, [manifest_row(**PATHS, label="HCC2")])
    assert read_manifest(path).refused
    assert not read_manifest(path, labels=("HCC", "HCC2")).refused


def test_patients_to_be_scored_need_no_label(tmp_path: Path) -> None:
    """Whatever stands there is not looked at."""
    path = tmp_path / "manifest.csv"
    path.write_text("subject_id,layout,nc_path,art_path,pv_path\nA,dicom_slices,n,a,p\n")
    assert [row.subject for row in read_manifest(path, labelled=False).rows] == ["A"]
    path.write_text(_CSV.replace("train,HCC", "new,?"))
    assert [row.label for row in read_manifest(path, labelled=False).rows] == [""]
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        read_manifest(tmp_path / "nowhere.csv", labelled=False)


def test_a_name_with_accents_is_found_however_they_are_composed(tmp_path: Path) -> None:
    """A Mac writes `u` and two dots where the manifest has one letter, or the other way round."""
    folder = tmp_path.resolve()
    (folder / unicodedata.normalize("NFD", "M\u00fcnchen")).mkdir()
    (folder / unicodedata.normalize("NFD", "M\u00fcnchen") / "gr\u00fcn.dcm").touch()
    for form in ("NFC", "NFD"):
        found = locate(unicodedata.normalize(form, "M\u00fcnchen/gr\u00fcn.dcm"), subject="A", root=folder)
        assert found.path.is_file()
