"""An append-only log of messages whose lines are chained by hashes, so that tampering shows.

Each line is JSON and holds the SHA-256 of the line before it and its own. A line that was
changed, removed or moved breaks the chain; lines cut off at the end are found by the count
and hash in a second small file, the head. Before lines are written, the head announces them: a
process that is killed anywhere in between leaves a log that is known to be whole. Whoever can
write both files can make a new chain: for that, keep a copy of the last hash elsewhere.

A third file may hold room for lines that must be written although the disk is full.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stic_core.errors import DataError, UsageError
from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import Instruction, Report, encode
from stic_core.system.files import write_atomically
from stic_core.system.room import Reserve, is_full

_START = "0" * 64

_STEP = 1 << 16
"""Bytes of the reserve that are given up at a time; the log and the head's next version fit in."""

_NAMED = 5
"""Of the runs in a log, the latest so many are named to one who asks for another."""

Direction = Literal["in", "out"]


@dataclass(frozen=True, slots=True)
class _Head:
    """Where the chain ends.

    Args:
        size: bytes of the log up to there.
        coming: hash of the last of the lines that are being written; "" while none are.
        lines: how many those are.
    """

    number: int = 0
    hash: str = _START
    size: int = 0
    coming: str = ""
    lines: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One message, as it is logged.

    Args:
        peer: the site, or `server`.
        run: run id, "" where a message has none.
        round: 0 where a message has none.
        tensors: names of the tensors that went along.
        bytes: of the JSON text and the weights together.
        sha256: of the JSON text followed by the weights' bytes.
        content: what the JSON text says, in clear.
        decision: what was done about it, such as `answered`, `refused` or `sent`.
    """

    direction: Direction
    peer: str
    kind: str
    run: str
    round: int
    tensors: tuple[str, ...]
    bytes: int
    sha256: str
    content: Mapping[str, Any]
    decision: str


class AuditLog:
    """The log of one site, or of the server.

    Args:
        path: of the log; beside it lies a file with the suffix `.head`.
        reserve: room on the same disk that is used up once it is full; None without.
    """

    def __init__(self, path: Path, *, reserve: Reserve | None = None) -> None:
        self._path, self._head, self._reserve = path, path.with_suffix(".head"), reserve

    def append(self, *entries: Entry) -> None:
        """Write a line each, and have them on the disk before returning.

        Raises:
            DataError: the head is damaged.
            OSError: nothing of them is in the log; the disk is full and the reserve used up, for example.
        """
        while entries:
            try:
                self._append(entries)
            except OSError as error:
                if not is_full(error) or self._reserve is None or not self._reserve.give(_STEP):
                    raise
            else:
                return

    def _append(self, entries: tuple[Entry, ...]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: on a full disk nothing is left over that closing would try to write.
        with self._path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            head = self._mended(file)
            lines, previous = [], head.hash
            for number, entry in enumerate(entries, start=head.number + 1):
                line = _line(entry, number=number, previous=previous)
                previous = line["hash"]
                lines.append(json.dumps(line, sort_keys=True).encode() + b"\n")
            self._write_head(replace(head, coming=previous, lines=len(lines)))
            content = b"".join(lines)
            try:
                _write_all(file, content)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(head.size)  # half a line would take the room of the next try
                raise
            try:
                self._write_head(_Head(head.number + len(lines), previous, head.size + len(content)))
            except OSError as error:
                # The lines are on the disk and announced: `_mended` counts them in next time.
                if not is_full(error):
                    raise

    def _mended(self, file: FileIO) -> _Head:
        """The head, after lines that were being written when the process was killed: all there, or none."""
        head = self._read_head()
        size = file.seek(0, os.SEEK_END)
        if not head.coming:
            return replace(head, size=size)
        file.seek(head.size)
        if _last_hash(file.read()) == head.coming:
            head = _Head(head.number + head.lines, head.coming, size)
        else:
            file.truncate(head.size)
            head = _Head(head.number, head.hash, head.size)
        self._write_head(head)
        return head

    def _read_head(self) -> _Head:
        try:
            return _Head(**json.loads(self._head.read_text()))
        except FileNotFoundError:
            return _Head()
        except (ValueError, TypeError):
            raise DataError(
                f"{self._head.name} does not record the end of {self._path.name}",
                advice="Keep both files as they are, and ask who had access to them.",
            ) from None

    def _write_head(self, head: _Head) -> None:
        """Replace the file whole: a torn head would look like tampering."""
        write_atomically(self._head, json.dumps(asdict(head)))

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines, each checked against the one before.

        Raises:
            DataError: a line was changed, removed, moved or cut off; says which.
        """
        number, previous, at = 0, _START, 0
        if not self._path.exists():
            head = self._read_head()
        else:
            with self._path.open("rb") as file:
                # Both as of one moment: a running process may add lines meanwhile.
                fcntl.flock(file, fcntl.LOCK_SH)
                head, size = self._read_head(), os.fstat(file.fileno()).st_size
                fcntl.flock(file, fcntl.LOCK_UN)
                if head.coming and size > head.size:
                    file.seek(head.size)
                    whole = _last_hash(file.read(size - head.size)) == head.coming
                    # Else what follows was being written when the process was killed.
                    size = size if whole else head.size
                    head = _Head(head.number + head.lines, head.coming) if whole else head
                    file.seek(0)
                while at < size:
                    text = file.readline()
                    at += len(text)
                    line = self._checked(text, number=number + 1, previous=previous)
                    number, previous = line["number"], line["hash"]
                    yield line
        if (number, previous) != (head.number, head.hash):
            raise self._tampered(number + 1, "lines were removed from the end, or appended by something else")

    def _checked(self, text: bytes, *, number: int, previous: str) -> dict[str, Any]:
        try:
            line = json.loads(text)
            stated = line.pop("hash")
        except (ValueError, KeyError, AttributeError, TypeError):
            raise self._tampered(number, "it is not a line of this log") from None
        if line.get("number") != number or line.get("previous") != previous:
            raise self._tampered(number, "it does not follow the line before it")
        if _hash(line) != stated:
            raise self._tampered(number, "its content was changed")
        return line | {"hash": stated}

    def _tampered(self, number: int, why: str) -> DataError:
        return DataError(
            f"{self._path.name}, line {number}: {why}",
            advice="Keep the file as it is, and ask who had access to it.",
        )


@dataclass(slots=True)
class MessageTotals:
    """What went one way in a run.

    Args:
        messages: by kind.
        tensors: most tensors in one message of a kind.
    """

    bytes: int = 0
    messages: Counter[str] = field(default_factory=Counter)
    tensors: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Such as `412.3 MB in 41 messages: 40 round-report (8 tensors each), 1 held-out-answer`."""
        parts = [
            f"{count} {kind}" + (f" ({self.tensors[kind]} tensors each)" if self.tensors[kind] else "")
            for kind, count in sorted(self.messages.items())
        ]
        return f"{self.bytes / 1e6:.1f} MB in {self.messages.total()} messages: {', '.join(parts) or 'none'}"


@dataclass(slots=True)
class RunSummary:
    """A run as the log shows it."""

    first: str
    last: str
    rounds: int = 0
    refused: int = 0
    sent: MessageTotals = field(default_factory=MessageTotals)
    received: MessageTotals = field(default_factory=MessageTotals)


def summarise(lines: Iterator[dict[str, Any]]) -> dict[str, RunSummary]:
    """What each run sent and received."""
    runs: dict[str, RunSummary] = {}
    for line in lines:
        run = runs.setdefault(line["run"], RunSummary(line["time"], line["time"]))
        run.last, run.rounds = line["time"], max(run.rounds, line["round"])
        run.refused += line["decision"] == "refused"
        traffic = run.sent if line["direction"] == "out" else run.received
        traffic.bytes += line["bytes"]
        traffic.messages[line["kind"]] += 1
        traffic.tensors[line["kind"]] = max(traffic.tensors.get(line["kind"], 0), len(line["tensors"]))
    return runs


def describe(log: AuditLog, *, run: str | None, as_json: bool) -> str:
    """A verified log in words, or line by line as JSON.

    Args:
        run: one run's id, None for all.

    Raises:
        DataError: the log was tampered with.
        UsageError: it has no such run.
    """
    everything = list(log.read())
    lines = [line for line in everything if run is None or line["run"] == run]
    if run is not None and not lines:
        runs = sorted({line["run"] for line in everything} - {""})
        raise UsageError(
            f"the log has no run {run}",
            got="no message of it",
            expected=f"one of {', '.join(runs[-_NAMED:])}" if runs else "a run; the log has none yet",
            advice="Give the whole id, as in the name of the folder in runs/.",
        )
    if as_json:
        return "\n".join(json.dumps(line, sort_keys=True) for line in lines)
    parts = [f"{len(lines)} messages, the chain of hashes is whole"]
    for name, summary in summarise(iter(lines)).items():
        parts.append(f"\nrun {name}, {summary.first} to {summary.last}")
        parts.append(f"  out  {summary.sent}")
        parts.append(f"  in   {summary.received}")
        if summary.refused:
            parts.append(f"  {summary.refused} refused")
    return "\n".join(parts)


def entry_of(
    direction: Direction,
    peer: str,
    message: Instruction | Report,
    weights: WireArray | None,
    *,
    run: str,
    round_number: int,
    tensors: tuple[str, ...],
    decision: str,
) -> Entry:
    """A message of the protocol as an entry.

    Args:
        weights: what went along, None without.
        tensors: names of what the weights hold.
    """
    text = encode(message)
    sha = hashlib.sha256(text.encode())
    if weights is not None:
        sha.update(np.ascontiguousarray(weights).data)
    return Entry(
        direction=direction,
        peer=peer,
        kind=message.kind,
        run=run,
        round=round_number,
        tensors=tensors,
        bytes=len(text.encode()) + (weights.nbytes if weights is not None else 0),
        sha256=sha.hexdigest(),
        content=json.loads(text),
        decision=decision,
    )


def _line(entry: Entry, *, number: int, previous: str) -> dict[str, Any]:
    line = {
        "number": number,
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
        "direction": entry.direction,
        "peer": entry.peer,
        "kind": entry.kind,
        "run": entry.run,
        "round": entry.round,
        "tensors": list(entry.tensors),
        "bytes": entry.bytes,
        "sha256": entry.sha256,
        "content": entry.content,
        "decision": entry.decision,
        "previous": previous,
    }
    return line | {"hash": _hash(line)}


def _write_all(file: FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _last_hash(tail: bytes) -> str | None:
    """Of the last line, None where it is not whole."""
    if not tail.endswith(b"\n"):
        return None
    try:
        line = json.loads(tail.splitlines()[-1])
        stated = line.pop("hash")
    except (ValueError, KeyError, IndexError, AttributeError):
        return None
    return stated if _hash(line) == stated else None


def _hash(line: Mapping[str, Any]) -> str:
    text = json.dumps(line, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
