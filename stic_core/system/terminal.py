"""How long work shows itself on a terminal: a live line with a bar; plain lines elsewhere.

stderr is the conversation, stdout the product. Where stderr is no terminal (a log file, CI)
a line is written at most every few seconds, so that nothing is silent and nothing floods.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from stic_core.system.observer import Observer

_PLAIN_EVERY_S = 5.0


class Terminal(Observer):
    """Notes that stay, and one live line that says what is going on.

    Args:
        prefix: begins every line, such as the site's name.
        quiet: show nothing at all.
    """

    def __init__(self, *, prefix: str = "", quiet: bool = False) -> None:
        self._prefix = f"{prefix}: " if prefix else ""
        self._console = Console(file=sys.stderr, highlight=False, quiet=quiet, soft_wrap=True, emoji=False)
        self._live = self._console.is_terminal
        self._last_plain = 0.0
        self._what = ""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._progress.console.print(escape(self._prefix + text))

    def stage(self, text: str) -> None:
        """What is being done from now on; a bar appears once `progress` says how much there is."""
        self._what = text
        self._last_plain = time.monotonic()
        if self._live:
            self._progress.reset(
                self._task, description=escape(self._prefix + text), total=None, visible=True
            )
        else:
            self.note(f"{text} ...")

    def progress(self, what: str, done: int, total: int) -> None:
        """How far a piece of work is."""
        if what != self._what:
            self.stage(what)
        if self._live:
            self._progress.update(self._task, completed=done, total=total)
        elif done == total or time.monotonic() - self._last_plain > _PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self.note(f"{what}: {done} of {total}")

    def detail(self, text: str) -> None:
        """More about the current stage, such as whom it waits for."""
        if self._live:
            self._progress.update(self._task, description=escape(f"{self._prefix}{self._what}: {text}"))
        elif time.monotonic() - self._last_plain > _PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self.note(f"{self._what}: {text}")
