"""The runbook is complete: every message that an operator may meet is in it, and none that no longer exists.

Messages are collected from the sources. The constant parts of a text must stand in an entry's
first column, in order; where the text has a value, the entry has a PLACEHOLDER in capitals or
<in angle brackets>.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from stic_core import errors

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "runbook.md"
SOURCES = ("stic_core", "server", "client")

ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.SticError)
}

SAYING = {
    "note": 0,
    "_note": 0,
    "_say": 1,
    "refuse": 0,
    "_refuse": 0,
    "exception": 0,
    "log": 1,
    "failed": 0,
    "record_of": 0,
    "Cue": 0,
}
"""Calls that carry a message, and which of their arguments it is: lines on a terminal or in the log of errors,
patients' refusals, headlines of what to know of a result."""

TOLD_ELSEWHERE = {
    ("server/stic_server/admission/expiry.py", "warning"),
    ("server/stic_server/federation/checkpoints.py", "load_state"),
    ("server/stic_server/federation/joining.py", "_misfit"),
    ("server/stic_server/federation/joining.py", "_twin"),
    ("client/stic_client/connection/faults.py", "why"),
    ("client/stic_client/connection/faults.py", "_no_connection"),
    ("stic_core/protocol/audit_log.py", "read"),
    ("stic_core/protocol/audit_log.py", "_checked"),
    ("stic_core/data/dataset.py", "load_dataset"),
}
"""Functions whose texts become part of a message: what they return, append, or hand to a helper of theirs."""

PROGRAMMERS = {
    "server/stic_server/cli/console.py": "a round's figures",
    "stic_core/system/command_errors.py: where the error came from": "stands over a traceback that was asked for",
    "stic_core/system/terminal.py": "shows what is being done",
    "stic_core/phantom": "the demo's own patients; no command takes these values from anybody",
    "stic_core/evaluation/comparison.py": "a caller's mistake: arrays of one model of one site",
    "stic_core/evaluation/site.py: logits and labels disagree": "a caller's mistake",
    "stic_core/evaluation/site.py: a label is not one": "a caller's mistake: the dataset was checked before",
    "stic_core/prediction.py": "a caller's mistake: the programs prepare images and columns themselves",
    "stic_core/data/dataset.py: rows of a dataset": "a caller's mistake: prepare writes them together",
    "stic_core/data/dataset.py: images of a dataset": "a caller's mistake: prepare writes them together",
    "stic_core/tasks.py: task": "a caller's mistake: labels were checked before",
    "client/stic_client/preflight/data.py": "findings of check, which say themselves how to fix them",
}
"""Where what is said needs no entry, and why: a file, a folder, or a file with the beginning of a text."""

EVENTS = (
    "{} phantom patients, 3 CT slices each",
    "listening on https://",
    "connecting to https://",
    "online; waiting for the server's next run",
    "resuming run",
    "joins the run from here on",
    "the final model is in",
    "run {} is {}",
    "run {}: task",
    "backbone features take",
    "held-out set opened for model",
    "rounds done",
    ": training loss",
    ": no training patients here",
    "of other classes than task",
    "stopped early after round",
)
"""Notes of what goes on as it should: nobody has to do anything."""


@dataclass(frozen=True)
class Message:
    """A text as the sources have it.

    Args:
        text: with `{}` where a value stands.
        exit_code: of the error; None for a line on the terminal.
    """

    where: str
    text: str
    exit_code: int | None = None

    def is_in(self, entry: str) -> bool:
        """The entry has the constant parts in order, and placeholders in between."""
        return _pattern(self.text).fullmatch(entry) is not None

    def is_excused(self) -> bool:
        """It is one of those that need no entry."""
        for place in PROGRAMMERS:
            file, _, beginning = place.partition(": ")
            if self.where.startswith(file) and self.text.startswith(beginning):
                return True
        whole = self.text == "plan {}"  # its hash, at the server; what begins so and goes on is no event
        return self.exit_code is None and (whole or any(event in self.text for event in EVENTS))


@cache
def _pattern(text: str) -> re.Pattern[str]:
    parts = [re.escape(part) for part in text.split("{}")]
    return re.compile(r"(?:[A-Z][A-Z0-9_]*|<[^<>]+>)?".join(parts).strip())


@dataclass(frozen=True)
class Entry:
    """A row of the runbook: one or more messages with one meaning and one thing to do."""

    messages: tuple[str, ...]
    exit_codes: frozenset[str]
    advice: str


def _texts(node: ast.expr) -> list[str]:
    """What an expression may say, with `{}` for values; nothing where it is a value alone."""
    match node:
        case ast.Constant(value=str(text)):
            return [text.replace("{}", "{ }").replace("%s", "{}")]
        case ast.JoinedStr(values=parts):
            return ["".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)]
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return [a + b for a in _texts(left) for b in _texts(right)]
        case ast.IfExp(body=one, orelse=other):
            return [*_texts(one), *_texts(other)]
    return []


def _named(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _of_function(function: ast.FunctionDef, where: str) -> Iterator[Message]:
    """What a function of `TOLD_ELSEWHERE` says: texts that it returns, appends or passes to a helper."""
    for node in ast.walk(function):
        found: list[ast.expr] = []
        if isinstance(node, ast.Return) and node.value is not None:
            found = [node.value]
        elif isinstance(node, ast.Call) and _named(node) in {"append", "_tampered", "unusable"}:
            found = node.args
        for text in (text for expression in found for text in _texts(expression)):
            yield Message(where, text)


def _of_file(path: Path) -> Iterator[Message]:
    where = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and (where, node.name) in TOLD_ELSEWHERE:
            yield from _of_function(node, where)
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = _named(node)
        if name in ERRORS:
            for text in _texts(node.args[0]):
                yield Message(where, text, ERRORS[name].exit_code)
        elif name in SAYING and len(node.args) > SAYING[name]:
            for text in _texts(node.args[SAYING[name]]):
                yield Message(where, text)


def _messages() -> list[Message]:
    found = {
        message
        for folder in SOURCES
        for path in sorted((ROOT / folder).rglob("*.py"))
        for message in _of_file(path)
        if message.text.replace("{}", "").strip()  # a value alone is a text from elsewhere
    }
    return sorted(found, key=lambda message: (message.where, message.text))


def _spans(cell: str) -> tuple[str, ...]:
    return tuple(text.strip() for _, text in re.findall(r"(`+)(.+?)\1(?!`)", cell))


def _entries() -> list[Entry]:
    """Rows of tables that begin with `message`."""
    rows: list[Entry] = []
    inside = False
    for line in RUNBOOK.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == "message":
            inside = True
        elif inside and not set(line) <= set("|- "):
            messages, codes, *rest = cells
            rows.append(Entry(_spans(messages), frozenset(codes.split(", ")), rest[-1] if rest else ""))
    return rows


MESSAGES = [message for message in _messages() if not message.is_excused()]
ENTRIES = _entries()


def _name(message: Message) -> str:
    return f"{Path(message.where).stem}: {message.text[:60]}"


@pytest.mark.parametrize("message", MESSAGES, ids=_name)
def test_every_message_has_an_entry(message: Message) -> None:
    """With the exit code of the error where it ends a program, and something to do about it."""
    found = [entry for entry in ENTRIES if any(message.is_in(text) for text in entry.messages)]
    assert found, f"docs/runbook.md lacks: {message.text}"
    if message.exit_code is not None:
        # A wrong usage always ends a program; what else is raised may be noted, and the others go on.
        allowed = {"2"} if message.exit_code == 2 else {str(message.exit_code), "-"}
        assert any(allowed & entry.exit_codes for entry in found), message.text


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.messages[0][:60])
def test_every_entry_is_said_somewhere(entry: Entry) -> None:
    """No program says it any more: then it goes; and each entry says what to do."""
    for text in entry.messages:
        assert any(message.is_in(text) for message in MESSAGES), f"nobody says: {text}"
    assert entry.advice
    assert entry.exit_codes <= {"-", "1", "2", "3"}


def test_what_is_excused_exists() -> None:
    """An excuse for what nobody says any more would hide what comes in its place."""
    everything = _messages()
    for place in PROGRAMMERS:
        file, _, beginning = place.partition(": ")
        assert any(m.where.startswith(file) and m.text.startswith(beginning) for m in everything), place
    for event in EVENTS:
        assert any(m.exit_code is None and event in m.text for m in everything), event


def test_the_collector_finds_what_is_known() -> None:
    """One of each kind: an error, a note, a patient's refusal, a word of a helper, an alternative."""
    texts = {message.text for message in _messages()}
    assert "cannot listen on {}:{}" in texts
    assert "{} is back; its request is sent again" in texts
    assert "the mask is empty" in texts
    assert "{} expires on {}, in {} days; run {}" in texts
    assert {"the same subject in two splits", "the subject has several rows"} <= texts
