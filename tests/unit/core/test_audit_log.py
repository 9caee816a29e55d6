"""The audit log: complete, chained, and any tampering shows."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stic_core.errors import DataError, UsageError
from stic_core.protocol import audit_log
from stic_core.protocol.audit_log import AuditLog, Entry, describe, summarise
from stic_core.system.room import Reserve
from support.small_disk import SmallDisk


def _entry(number: int, *, direction: str = "out", kind: str = "round-report") -> Entry:
    return Entry(
        direction=direction,
        peer="server",
        kind=kind,
        run="run-1",
        round=number,
        tensors=("a", "b"),
        bytes=1_000_000,
        sha256="0" * 64,
        content={"train_loss": 0.5},
        decision="sent",
    )


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    """Five messages."""
    made = AuditLog(tmp_path / "audit.jsonl")
    for number in range(1, 6):
        made.append(_entry(number))
    return made


def test_what_is_logged_is_read(log: AuditLog) -> None:
    """Each line with its number, time and content."""
    lines = list(log.read())
    assert [line["number"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[2]["content"] == {"train_loss": 0.5}
    assert lines[2]["previous"] == lines[1]["hash"]


def test_an_empty_log_is_whole(tmp_path: Path) -> None:
    """Nothing sent yet is no tampering."""
    assert list(AuditLog(tmp_path / "audit.jsonl").read()) == []


def _edit(line: str) -> str:
    return line.replace("0.5", "0.4")


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda lines: [*lines[:2], _edit(lines[2]), *lines[3:]], "line 3: its content was changed"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3: it does not follow"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1: it does not follow"),
        (lambda lines: lines[:-1], "line 5: lines were removed"),
        (lambda _: [], "line 1: lines were removed"),
        (lambda lines: [*lines, lines[-1]], "line 6: it does not follow"),
        (lambda lines: [*lines[:4], lines[4][:40]], "line 5: it is not a line"),
        (lambda lines: ["[]\n", *lines], "line 1: it is not a line"),
        (lambda lines: [*lines, '["hash"]\n'], "line 6: it is not a line"),
        (lambda lines: [*lines, "\n"], "line 6: it is not a line"),
    ],
)
def test_tampering_is_found(tmp_path: Path, log: AuditLog, tamper: Callable, message: str) -> None:
    """A line changed, removed, moved, cut off, repeated or torn; the message names the first one."""
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(tamper(path.read_text().splitlines(keepends=True))))
    with pytest.raises(DataError, match=message):
        list(log.read())


@pytest.mark.parametrize("written", [0, 1, 40, 700, -1, None])
def test_a_kill_in_the_middle_of_a_line_is_no_tampering(
    tmp_path: Path, log: AuditLog, monkeypatch: pytest.MonkeyPatch, written: int | None
) -> None:
    """Two lines announced, and nothing, a part or all of them written: read as whole, and goes on."""
    path, head = tmp_path / "audit.jsonl", tmp_path / "audit.head"
    before = path.read_bytes()
    heads = []
    write_head = AuditLog._write_head
    monkeypatch.setattr(
        AuditLog,
        "_write_head",
        lambda self, value: (write_head(self, value), heads.append(head.read_bytes())),
    )
    log.append(_entry(6), _entry(7))
    lines = path.read_bytes()[len(before) :]
    announced, _ = heads
    head.write_bytes(announced)
    path.write_bytes(before + lines[:written])
    expected = 7 if written is None else 5
    assert len(list(log.read())) == expected
    again = AuditLog(path)
    again.append(_entry(8))
    assert [entry["round"] for entry in again.read()] == [*range(1, expected + 1), 8]


def test_an_announced_line_excuses_no_other(tmp_path: Path, log: AuditLog) -> None:
    """After a kill the log may lack what was announced and nothing else."""
    path, head = tmp_path / "audit.jsonl", tmp_path / "audit.head"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"coming": "a" * 64, "lines": 1}))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="line 5: "):
        list(log.read())
    path.write_text("".join([*lines[:2], *lines[3:], lines[2]]))
    with pytest.raises(DataError, match="line 3: it does not follow"):
        list(log.read())


def test_a_head_that_says_nothing_is_one_line(tmp_path: Path, log: AuditLog) -> None:
    """An emptied head is named, by a reader and by a writer."""
    (tmp_path / "audit.head").write_text("")
    for act in (lambda: list(log.read()), lambda: log.append(_entry(6))):
        with pytest.raises(DataError, match=r"audit\.head does not record the end of audit\.jsonl"):
            act()


def test_a_run_is_summed_up(log: AuditLog) -> None:
    """Megabytes and messages by kind, each way."""
    log.append(_entry(5, direction="in", kind="train-round"))
    run = summarise(log.read())["run-1"]
    assert str(run.sent) == "5.0 MB in 5 messages: 5 round-report (2 tensors each)"
    assert str(run.received) == "1.0 MB in 1 messages: 1 train-round (2 tensors each)"
    assert "the chain of hashes is whole" in describe(log, run=None, as_json=False)
    for as_json in (True, False):
        with pytest.raises(UsageError, match="the log has no run run-9") as error:
            describe(log, run="run-9", as_json=as_json)
        assert "run-1" in str(error.value.expected)
    assert len(describe(log, run="run-1", as_json=True).splitlines()) == 6
    assert json.loads(describe(log, run="run-1", as_json=True).splitlines()[0])["number"] == 1


def _appended(log: AuditLog, number: int) -> bool:
    try:
        log.append(replace(_entry(number), content={"reason": "x" * 8000}))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def test_a_full_disk_uses_up_the_reserve_and_leaves_the_chain_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are written into room that is given up bit by bit; with none left nothing of a message is in the log."""
    disk = SmallDisk(tmp_path, monkeypatch)
    reserve = Reserve(tmp_path / "audit.reserve", size=3 << 16, what="the audit log")
    log = AuditLog(tmp_path / "audit.jsonl", reserve=reserve)
    log.append(_entry(1))
    reserve.fill()
    disk.fill()
    written = 1
    while _appended(log, written + 1):
        written += 1
    assert written > 20
    assert not reserve.left
    assert not _appended(log, written + 1)
    assert [line["round"] for line in log.read()] == list(range(1, written + 1))
    disk.clear()
    log.append(_entry(written + 1))
    assert [line["round"] for line in log.read()] == list(range(1, written + 2))


def test_a_head_that_has_no_room_does_not_take_lines_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines are on the disk and announced: they count, once, for this program and the next."""
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append(_entry(1))
    heads = 0
    write = audit_log.write_atomically

    def second_has_no_room(*args: object) -> None:
        nonlocal heads
        heads += 1
        if heads == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*args)

    monkeypatch.setattr(audit_log, "write_atomically", second_has_no_room)
    log.append(_entry(2))
    assert [line["round"] for line in log.read()] == [1, 2]
    AuditLog(tmp_path / "audit.jsonl").append(_entry(3))
    assert [line["round"] for line in log.read()] == [1, 2, 3]
