"""An append-only log of messages whose lines are chained by hashes, so that tampering shows.

Each line is JSON and holds the SHA-256 of the line before it and its own. A line that was
changed, removed or moved breaks the chain; lines cut off at the end are found by the count
and hash in a second small file. Whoever can write both files can make a new chain: for that,
keep a copy of the last hash elsewhere.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stic_core.errors import DataError
from stic_core.protocol import Instruction, Report, encode
from stic_core.tensors import FlatArray

_START = "0" * 64

Direction = Literal["in", "out"]


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
    """

    def __init__(self, path: Path) -> None:
        self._path, self._head = path, path.with_suffix(".head")

    def append(self, entry: Entry) -> None:
        """Write one line, and have it on the disk before returning."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            count, previous = self._read_head()
            line = {
                "number": count + 1,
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
            line["hash"] = _hash(line)
            file.write(json.dumps(line, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
            self._head.write_text(json.dumps({"number": count + 1, "hash": line["hash"]}))

    def _read_head(self) -> tuple[int, str]:
        try:
            head = json.loads(self._head.read_text())
        except FileNotFoundError:
            return 0, _START
        return head["number"], head["hash"]

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines, each checked against the one before.

        Raises:
            DataError: a line was changed, removed, moved or cut off; says which.
        """
        previous, number = _START, 0
        if self._path.exists():
            with self._path.open(encoding="utf-8") as file:
                for number, text in enumerate(file, start=1):
                    line = self._checked(text, number=number, previous=previous)
                    previous = line["hash"]
                    yield line
        if (number, previous) != self._read_head():
            raise self._tampered(
                number + 1, "lines were cut off at the end, or added without the log's knowledge"
            )

    def _checked(self, text: str, *, number: int, previous: str) -> dict[str, Any]:
        try:
            line = json.loads(text)
            stated = line.pop("hash")
        except (ValueError, KeyError, AttributeError):
            raise self._tampered(number, "it is no line of this log") from None
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
class Traffic:
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
    sent: Traffic = field(default_factory=Traffic)
    received: Traffic = field(default_factory=Traffic)


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
    """
    lines = [line for line in log.read() if run is None or line["run"] == run]
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
    weights: FlatArray | None,
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


def _hash(line: Mapping[str, Any]) -> str:
    text = json.dumps(line, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
