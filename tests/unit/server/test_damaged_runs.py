"""Files of a run that somebody altered, as the server meets them when it starts again."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from stic_core.errors import DataError, SticError
from stic_core.system.os_errors import explained
from stic_server.federation.run_folder import RunFolder

READERS: dict[str, Callable[[RunFolder], object]] = {
    "record.json": RunFolder.read_record,
    "rounds.jsonl": RunFolder.read_rounds,
    "evaluation.json": RunFolder.read_evaluation,
}


@pytest.mark.parametrize(
    "content", [b"[]\n", b"null\n", b"{\n", b"3\n", bytes(range(256)) + b"\n", b"\xff\xfe{\x00\n"]
)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_of_a_run_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    """One line that says which file, and what can be done."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="is damaged") as caught:
        READERS[name](RunFolder(tmp_path))
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["record.json", "evaluation.json"])
def test_an_empty_file_of_a_run_is_damaged(name: str, tmp_path: Path) -> None:
    """As after a power cut; without a round there is no line of rounds.jsonl either."""
    (tmp_path / name).touch()
    with pytest.raises(DataError, match="is damaged"):
        READERS[name](RunFolder(tmp_path))


def test_a_round_whose_line_was_cut_is_not_there(tmp_path: Path) -> None:
    """The server was killed while it wrote it."""
    (tmp_path / "rounds.jsonl").write_bytes(b'{"round": 1, "sites": [], "val": {}}\n{"round": 2, "si')
    assert [row["round"] for row in RunFolder(tmp_path).read_rounds()] == [1]


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENOTDIR, errno.ESTALE, errno.EMFILE])
def test_what_stands_in_a_files_place_is_said(number: int) -> None:
    """In our words, without the file's name, which may be a patient's."""
    known = explained(OSError(number, "system's words", "MRN4711"))
    assert isinstance(known, SticError)
    assert "MRN4711" not in str(known)


def test_a_record_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """After a downgrade the run is neither read wrongly nor written over."""
    (tmp_path / "record.json").write_text('{"schema": 2, "status": "running", "sites": {}}')
    with pytest.raises(DataError, match="was written by a newer version"):
        RunFolder(tmp_path).read_record()
