"""A table as spreadsheet programs write it: encoding, separator, and what the file is if it is no table."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from stic_core.errors import DataError

Cells = Mapping[str | None, str]
"""A row's texts by column; under None what stands behind the last column, where something does."""

_BEGINNINGS = (
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (.xls)"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "a gzip file"),
    (b"{\\rtf", "an RTF document"),
    (b"SQLite format 3", "an SQLite database"),
    (b"PAR1", "a Parquet file"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
_SEPARATORS = (",", ";", "\t", "|")
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
"""Byte order marks; the longer one first."""


@dataclass(frozen=True, slots=True)
class Table:
    """What a file holds.

    Args:
        columns: without those that have neither a name nor a value.
        rows: number of the line that a row ends in, and its cells; rows of empty cells are passed over.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, Cells], ...]


def read_table(path: Path, *, what: str, known: Collection[str]) -> Table:
    """Read a CSV file: UTF-8 or UTF-16, separated by commas, semicolons, tabs or bars, with or without `sep=`.

    Args:
        what: how messages call it.
        known: names of columns, in any case; the separator is the one that gives most of them.

    Raises:
        FileNotFoundError: it is not there.
        DataError: it is no such table; the message says what it is, as far as that shows.
    """
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise _refused(what, got="a folder") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{what} cannot be read", got=error.strerror) from None
    text = _decoded(content, what=what)
    lines = io.StringIO(text, newline="")
    first = lines.readline()
    named = re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE | re.DOTALL)
    if named is None:
        lines.seek(0)
    separator = named[1] if named else _separator(text, known=known)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        records = [
            (reader.line_num + bool(named), record) for record in reader if any(map(str.strip, record))
        ]
    except csv.Error:
        raise DataError(
            f"{what} cannot be read",
            got=f"quotes that do not close, or a line that is too long, near line {reader.line_num + bool(named)}",
            expected="CSV: a text that holds separators or quotes stands in quotes, its own quotes doubled",
            advice="Save it again as CSV UTF-8.",
        ) from None
    for number, record in records:
        if any(_holds_rows(cell, separator=separator) for cell in record):
            raise DataError(
                f"a cell of {what} holds whole rows",
                got=f"a quotation mark that closes in line {number} and opens in a line before it",
                expected="quotes around single texts",
                advice="Remove the quotation mark, or save it again as CSV UTF-8.",
            )
    spelled = {name.lower(): name for name in known}
    columns = [spelled.get(name.strip().lower(), name.strip()) for name in records[0][1]] if records else []
    while columns and not columns[-1]:
        columns.pop()
    _check_names(columns, records=records, what=what)
    return Table(
        tuple(name for name in columns if name),
        tuple((number, _cells(columns, record)) for number, record in records[1:]),
    )


def _holds_rows(cell: str, *, separator: str) -> bool:
    """Whether a quoted cell swallowed what follows it: a line break alone may be a text's own."""
    return any(line.count(separator) > 1 for line in cell.splitlines()[1:])


def _refused(what: str, *, got: str) -> DataError:
    return DataError(
        f"{what} is not a CSV table",
        got=got,
        expected="CSV in UTF-8",
        advice="Save the sheet as CSV UTF-8, and look whether the program has turned values into dates.",
    )


def _decoded(content: bytes, *, what: str) -> str:
    """The text, whichever Unicode encoding it is in.

    Raises:
        DataError: what it is instead.
    """
    if content.startswith(b"PK\x03\x04"):
        raise _refused(what, got=_archive(content))
    for beginning, kind in _BEGINNINGS:
        if content.lstrip()[:20].startswith(beginning):
            raise _refused(what, got=kind)
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    zeros = Counter(place % 2 for place, byte in enumerate(content[:400]) if byte == 0)
    if encoding is None and zeros:  # UTF-16 has a zero beside each Latin letter
        encoding = "utf-16-le" if not zeros[0] else "utf-16-be" if not zeros[1] else "utf-8"
    try:
        text = content.decode(encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{what} is not Unicode text",
            got=f"bytes of another encoding in line {line}",
            expected="UTF-8 or UTF-16",
            advice="Save it as CSV UTF-8, or convert it from the encoding that it is in, such as Windows-1252 or GBK.",
        ) from None
    if "\0" in text:
        raise _refused(what, got="binary data")
    return text


def _archive(content: bytes) -> str:
    try:
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    except zipfile.BadZipFile:
        names = []
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook (.xlsx)"
    return "an OpenDocument sheet (.ods)" if "content.xml" in names else "a ZIP archive"


def _separator(text: str, *, known: Collection[str]) -> str:
    header = next((line for line in text.splitlines() if line.strip()), "")

    lower = {name.lower() for name in known}

    def recognised(separator: str) -> int:
        return sum(name.strip(' "').lower() in lower for name in header.split(separator))

    return max(_SEPARATORS, key=recognised)  # of equals the first


def _check_names(columns: list[str], *, records: list[tuple[int, list[str]]], what: str) -> None:
    twice = sorted(name for name, count in Counter(columns).items() if name and count > 1)
    if twice:
        raise DataError(f"{what} has a column twice", got=", ".join(twice), advice="Remove one of them.")
    for place, name in enumerate(columns):
        if not name and any(record[place : place + 1] and record[place].strip() for _, record in records[1:]):
            raise DataError(
                f"{what} has a column without a name",
                got=f"column {place + 1}, with values",
                advice="Name it, or remove it.",
            )


def _cells(columns: list[str], record: list[str]) -> Cells:
    cells: dict[str | None, str] = dict.fromkeys((name for name in columns if name), "")
    cells |= {name: text for name, text in zip(columns, record, strict=False) if name}
    behind = [text for text in record[len(columns) :] if text.strip()]
    return cells | ({None: " ".join(behind)} if behind else {})
