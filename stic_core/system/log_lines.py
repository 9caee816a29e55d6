"""What a program says, line by line: when, who, what. As text, as JSON, and in a file that never grows without bound.

No line holds anything of a patient but a pseudonym. A traceback may quote data: the file has only its kind and place.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import re
import sys
import traceback
from contextlib import suppress
from contextvars import ContextVar
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from stic_core.system.files import PRIVATE

AS_JSON: ContextVar[bool] = ContextVar("AS_JSON", default=False)
"""Whether lines on stderr are JSON objects, as `--log json` asks."""

_LONGEST = 8_000
"""Characters of a line; what is longer is cut, so that the file stays within its bound."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls, line ends, marks that turn the direction of writing round, and what stands for bytes of no text."""

_LEVELS = {logging.INFO: "info", logging.WARNING: "warning"}


def plain(text: str) -> str:
    r"""A text as one line: what another side sent can't begin a line, move a cursor or turn text round.

    Example:
        >>> plain("refused\n2026-01-01 all is well")
        'refused\\n2026-01-01 all is well'
    """
    shown = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return shown if len(shown) <= _LONGEST else shown[:_LONGEST] + " ..."


def record_of(text: str, *, source: str, level: int = logging.INFO, **facts: Any) -> logging.LogRecord:
    """A line.

    Args:
        source: who says it, such as a site's name; may be empty.
        facts: what a program that reads JSON wants apart from the text.
    """
    record = logging.LogRecord(source, level, "", 0, text, None, None)
    record.facts = facts
    return record


def _time(record: logging.LogRecord) -> str:
    """ISO 8601 in local time, with its offset from UTC."""
    return dt.datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="seconds")


def _place(error: BaseException) -> str:
    """Where an error was raised, and its kind; never what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


class TextLines(logging.Formatter):
    """TIME SOURCE: TEXT.

    Args:
        tracebacks: below a line where there is one; else only the error's kind and place.
    """

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback."""
        source = f"{record.name}: " if record.name else ""
        line = f"{_time(record)} {source}{plain(record.getMessage())}"
        if not record.exc_info or record.exc_info[1] is None:
            return line
        if self._tracebacks:
            return f"{line}\n{self.formatException(record.exc_info)}"
        return f"{line} ({_place(record.exc_info[1])})"


class JsonLines(logging.Formatter):
    """One JSON object per line: `time`, `level`, `source`, `text`, and facts such as `done` and `total`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        document = {
            "time": _time(record),
            "level": _LEVELS.get(record.levelno, "error"),
            "source": record.name,
            "text": plain(record.getMessage()),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)


def stderr_lines() -> logging.Formatter:
    """How a line on stderr is written in this process."""
    return JsonLines() if AS_JSON.get() else TextLines(tracebacks=True)


class StderrHandler(logging.StreamHandler[TextIO]):
    """What libraries log, beside our own lines. It looks for stderr at each line: a live line takes its place."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(stderr_lines())

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self.stream = sys.stderr
        super().emit(record)


class LogFile(RotatingFileHandler):
    """A program's lines in a file of mode 0600, replaced by a new one when it is full.

    Whatever goes wrong with it is said once and stops nothing.

    Args:
        path: of the newest file; older ones have `.1`, `.2` ... behind their names.
        max_bytes: of one file.
        keep: older files.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=keep, encoding="utf-8", delay=True)
        self.setFormatter(TextLines(tracebacks=False))
        self._said = False

    def _open(self) -> TextIOWrapper:
        def opener(path: str, flags: int) -> int:
            descriptor = os.open(path, flags, PRIVATE)
            os.fchmod(descriptor, PRIVATE)
            return descriptor

        return open(self.baseFilename, "a", encoding="utf-8", opener=opener)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A full disk, or no permission: the program goes on."""
        del record
        error = sys.exc_info()[1]
        with suppress(OSError, ValueError):
            if self.stream is not None:
                self.stream.close()
        self.stream = None  # type: ignore[assignment] - opened again at the next line
        if not self._said:
            self._said = True
            why = error.strerror if isinstance(error, OSError) else type(error).__name__
            line = record_of(
                f"the log file {self.baseFilename} cannot be written ({why}); continuing without it",
                source="",
                level=logging.WARNING,
            )
            print(stderr_lines().format(line), file=sys.stderr)
