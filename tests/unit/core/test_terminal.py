"""What programs say: the time of every line, JSON, a log file within its bound, and a pace that can be believed."""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from stic_core.config import FederationConfig
from stic_core.errors import UsageError
from stic_core.service import service_terminal
from stic_core.system import command_errors
from stic_core.system.log_lines import AS_JSON, LogFile, StderrHandler, record_of
from stic_core.system.terminal import Pace, Terminal

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"


def _run(words: list[str], work: Any, monkeypatch: pytest.MonkeyPatch) -> object:
    """A program that does some work; its exit code."""
    monkeypatch.setattr("sys.argv", ["stic-client", *words])

    def command(*, standalone_mode: bool) -> None:
        work()

    with pytest.raises(SystemExit) as ended:
        command_errors.run(command, name="stic-client")
    return ended.value.code


def _work() -> None:
    with Terminal(prefix="center1") as terminal:
        terminal.note("online\x1b[2J\n2026-01-01T00:00:00+00:00 center1: forged")
        terminal.stage("training")
        terminal.progress("training", 3, 3)
        raise UsageError("something", got="this", expected="that")


def test_every_line_has_its_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """ISO 8601 with the offset, the last one too; what another side sent begins no line of its own."""
    assert _run([], _work, monkeypatch) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert re.match(rf"{TIME} (center1|stic-client): ", line), line
        shown = dt.datetime.fromisoformat(line.split()[0])
        assert abs((dt.datetime.now(dt.UTC) - shown).total_seconds()) < 3600
    assert "\x1b" not in "".join(lines)


def test_json_is_one_object_per_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notes, progress with its numbers, and the error with its exit code."""
    assert _run(["--log", "json"], _work, monkeypatch) == 2
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["level"], one["source"]) for one in lines] == [
        ("info", "center1"),
        ("info", "center1"),
        ("info", "center1"),
        ("error", "stic-client"),
    ]
    assert (lines[2]["done"], lines[2]["total"]) == (3, 3)
    assert lines[3]["exit_code"] == 2
    assert all(re.fullmatch(TIME, one["time"]) for one in lines)


def test_a_library_says_the_time_too(capsys: pytest.CaptureFixture[str]) -> None:
    """And where a traceback is shown, it is below its line."""
    AS_JSON.set(False)
    handler = StderrHandler()
    try:
        raise KeyError("MRN 4711")
    except KeyError as error:
        record = logging.LogRecord(
            "flower", logging.ERROR, "", 0, "failed", None, (KeyError, error, error.__traceback__)
        )
    handler.handle(record)
    said = capsys.readouterr().err
    assert re.match(rf"{TIME} flower: failed\nTraceback", said)


def test_a_log_file_is_private_bounded_and_names_no_patient(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask, at most so many files of so many bytes, and of an error its place alone."""
    path = tmp_path / "client.log"
    log = LogFile(path, max_bytes=2_000, keep=2)
    try:
        raise KeyError("MRN 4711")
    except KeyError as error:
        record = record_of("failed", source="center1", level=logging.ERROR)
        record.exc_info = (KeyError, error, error.__traceback__)
    log.handle(record)
    assert re.fullmatch(rf"{TIME} center1: failed \(KeyError at test_terminal.py:\d+\)\n", path.read_text())
    for number in range(200):
        log.handle(record_of(f"line {number}", source="center1"))
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["client.log", "client.log.1", "client.log.2"]
    assert all(file.stat().st_size <= 2_000 for file in files)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert path.read_text().endswith("line 199\n")
    log.close()


@pytest.mark.parametrize(
    "sent", ["a\nb", "a\x1b[2Jb", "a\u202egnp.exe", "a\u2066b", "name\udcff.dcm", "a\u2028b"]
)
def test_what_another_side_sent_is_one_plain_line(sent: str, tmp_path: Path) -> None:
    """No line is begun, no cursor moved, no text turned round; and bytes of no text can be written at all."""
    path = tmp_path / "client.log"
    log = LogFile(path, max_bytes=2_000, keep=1)
    log.handle(record_of(sent, source="center1"))
    log.close()
    (line,) = path.read_bytes().decode("ascii").split("\n")[:-1]
    assert line.isprintable()
    assert re.fullmatch(rf"{TIME} center1: (a|name)\\.*", line)


@pytest.mark.parametrize("fault", ["a folder", "no folder"])
def test_a_log_file_that_cannot_be_written_stops_nothing(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said once."""
    path = tmp_path / "absent" / "x.log"
    if fault == "a folder":
        path.mkdir(parents=True)
    with Terminal(log=LogFile(path, max_bytes=1000, keep=1)) as terminal:
        terminal.note("one")
        terminal.note("two")
    said = capsys.readouterr().err
    assert said.count("cannot be written") == 1
    assert "two" in said


def test_a_service_writes_the_log_that_its_configuration_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the configuration; how it ended is in it."""

    def work() -> None:
        with service_terminal(FederationConfig(), folder=tmp_path) as terminal:
            terminal.note("listening")
            raise UsageError("something")

    assert _run([], work, monkeypatch) == 2
    first, last = (tmp_path / "server.log").read_text().splitlines()
    assert first.endswith(" listening")
    assert last.endswith(" stic-client: something")
    assert capsys.readouterr().err.splitlines() == [first, last]


def test_the_pace_is_of_what_was_seen() -> None:
    """A run that resumes at round 100 is not 100 rounds fast, and a new stage begins at nought."""
    pace = Pace()
    assert pace.counted(100, 150, now=1000.0) == "100 of 150"
    assert pace.counted(110, 150, now=1600.0) == "110 of 150, 0:10:00 for the last 10, about 0:40:00 left"
    assert pace.counted(150, 150, now=4600.0) == "150 of 150, 1:00:00 for the last 50"
    assert Pace().counted(1, 2, now=5000.0) == "1 of 2"
