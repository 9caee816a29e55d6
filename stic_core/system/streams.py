"""The standard streams, however a program is started: closed, full, or with nobody at the other end.

A shell may close them (`>&-`, as some schedulers do). Then Python has no `sys.stdout`, and the next file that is
opened gets the number of one, so that what a library prints would be written into it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast


class _Unfailing:
    """A stream whose lines are lost where they cannot be written: the conversation never ends the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """See `TextIO`; a disk that is full, or a reader that is gone, is no error."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """See `TextIO`."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def secure() -> None:
    """See that all three streams exist, and that stderr never fails; at the very beginning of a program."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the program ends
    if not isinstance(sys.stderr, _Unfailing):
        sys.stderr = cast("TextIO", _Unfailing(sys.stderr))


def flush_stdout() -> None:
    """Write what is left of the product.

    Raises:
        OSError: it cannot be written. The rest is dropped: Python would try again at its end, and complain.
    """
    try:
        sys.stdout.flush()
    except OSError:
        _to_nowhere(1)
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        raise


def _to_nowhere(number: int) -> None:
    descriptor = os.open(os.devnull, os.O_RDWR)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.set_inheritable(number, True)
