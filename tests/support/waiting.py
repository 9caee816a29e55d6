"""Waiting for a condition, never for a time: the bound is far beyond what any load makes of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from support.programs import Process

PATIENCE_S = 900.0
"""Thirty times what anything takes on a quiet machine; who waits so long waits for nothing."""


def until(
    condition: Callable[[], object], *, what: str | Callable[[], str], alive: Process | None = None
) -> None:
    """Wait until something is so.

    Args:
        what: is said if it never is; a function is called only then.
        alive: without this process it never will be.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        ended = alive is not None and alive.poll() is not None
        if ended or time.monotonic() > deadline:
            why = "its process has ended" if ended else f"not within {PATIENCE_S:g} s"
            pytest.fail(f"{why}: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)


def await_line(process: Process, text: str) -> list[str]:
    """Read a process's lines up to the one that holds a text."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        if text in line:
            return lines
    pytest.fail(f"no line with {text!r} in:\n" + "\n".join(lines))
