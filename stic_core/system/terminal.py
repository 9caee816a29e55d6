"""How long work shows itself on a terminal: a live line with a bar; plain lines elsewhere; JSON where asked for.

stderr is the conversation, stdout the product. Every line says when it was written. Where stderr is no
terminal (a log file, CI) a line is written at most every few seconds, so that nothing is silent and nothing floods.
"""

from __future__ import annotations

import logging
import sys
import time
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from stic_core.system.log_lines import AS_JSON, LogFile, plain, record_of, stderr_lines
from stic_core.system.notifier import Notifier
from stic_core.system.observer import Observer
from stic_core.system.service_manager import ServiceManager

_PLAIN_EVERY_S = 5.0

_LATEST: ContextVar[Terminal | None] = ContextVar("_LATEST", default=None)
"""The terminal of the work that began last: how the program ended is said there too."""


class Terminal(Observer):
    """Notes that stay, and one live line that says what is going on.

    Args:
        prefix: begins every line, such as the site's name.
        quiet: show nothing at all.
        log: a file that takes every line as well.
        notifier: is told of events.
        manager: is told that the program lives, and what it does.
    """

    def __init__(
        self,
        *,
        prefix: str = "",
        quiet: bool = False,
        log: LogFile | None = None,
        notifier: Notifier | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        self._manager = manager or ServiceManager("")
        self._prefix, self._quiet, self._log, self._notifier = prefix, quiet, log, notifier
        self._console = Console(
            file=sys.stderr, highlight=False, quiet=quiet, soft_wrap=True, emoji=False, markup=False
        )
        self._live = self._console.is_terminal and not AS_JSON.get()
        self._lines = stderr_lines()
        self._last_plain = 0.0
        self._what = ""
        self._pace = Pace()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[count]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, visible=False, count="")

    def __enter__(self) -> Self:
        _LATEST.set(self)
        if self._log is not None:
            logging.getLogger().addHandler(self._log)
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.stopping()
        if self._live:
            self._progress.stop()
        if self._notifier is not None:
            self._notifier.close()

    # ---- what stays ---------------------------------------------------------------------

    def note(self, text: str) -> None:
        """A line that stays."""
        self._write(text, level=logging.WARNING if text.startswith("warning: ") else logging.INFO)

    def error(self, text: str, *, program: str, exit_code: int) -> None:
        """How the program ends, said by the program itself."""
        self._write(text, source=program, level=logging.ERROR, exit_code=exit_code)

    def ready(self) -> None:
        """See `Observer`."""
        self._manager.ready()

    def alive(self) -> None:
        """See `Observer`."""
        self._manager.alive()

    @property
    def silent_s(self) -> float:
        """Seconds since work last showed that it goes on."""
        return self._manager.silent_s

    def event(self, what: str, text: str, **facts: object) -> None:
        """See `Observer`: the notifier is told; a line of its own is said by whoever saw it."""
        if self._notifier is not None:
            self._notifier.tell(what, text, facts=facts, failed=self.note)

    def _write(self, text: str, *, source: str | None = None, level: int, **facts: Any) -> None:
        record = record_of(text, source=self._prefix if source is None else source, level=level, **facts)
        if self._log is not None:
            self._log.handle(record)
        self._progress.console.print(self._lines.format(record))

    # ---- what goes on -------------------------------------------------------------------

    def stage(self, text: str) -> None:
        """What is being done from now on; a bar appears once `progress` says how much there is."""
        self._what, self._pace = text, Pace()
        self._manager.alive(text)
        self._last_plain = time.monotonic()
        if self._live:
            self._show(text)
        else:
            self.note(f"{text} ...")

    def doing(self, text: str) -> None:
        """What is being done for the moment, on the live line; where there is none, no line is written for it."""
        if text != self._what:
            self._what, self._pace = text, Pace()
            self._manager.alive(text)
            if self._live:
                self._show(text)

    def progress(self, what: str, done: int, total: int) -> None:
        """How far a piece of work is."""
        if what != self._what:
            self.stage(what)
        count = self._pace.counted(done, total, now=time.monotonic())
        self._manager.alive(f"{what}: {done} of {total}")
        if self._live:
            self._progress.update(self._task, completed=done, total=total, count=count)
        elif done == total or time.monotonic() - self._last_plain > _PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self._write(f"{what}: {count}", level=logging.INFO, done=done, total=total)

    def detail(self, text: str) -> None:
        """More about the current stage, such as whom it waits for."""
        self._manager.alive()
        if self._live:
            self._progress.update(self._task, description=self._described(f"{self._what}: {text}"))
        elif time.monotonic() - self._last_plain > _PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self.note(f"{self._what}: {text}")

    def _show(self, text: str) -> None:
        self._progress.reset(
            self._task, description=self._described(text), total=None, visible=True, count=""
        )

    def _described(self, text: str) -> str:
        return escape(plain(f"{self._prefix}: {text}" if self._prefix else text))


class Pace:
    """How far a piece of work is in words, and how long the rest will take at the pace so far."""

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None

    def counted(self, done: int, total: int, *, now: float) -> str:
        """Such as `12 of 20, 0:01:30 so far, about 0:01:00 left`.

        What was done before the first call does not count: a run that is resumed begins in the middle.

        Args:
            now: seconds of any clock.

        Example:
            >>> pace = Pace()
            >>> pace.counted(100, 150, now=7.0)
            '100 of 150'
            >>> pace.counted(120, 150, now=27.0)
            '120 of 150, 0:00:20 for the last 20, about 0:00:30 left'
        """
        if self._began is None:
            self._began = now, done
        began, first = self._began
        text = f"{done} of {total}"
        if done == first or now - began < 1.0:
            return text
        left = (now - began) / (done - first) * (total - done)
        rest = f", about {_clock(left)} left" if done < total else ""
        return f"{text}, {_clock(now - began)} for the last {done - first}{rest}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def begin() -> None:
    """A program begins: no work of its own was shown yet."""
    _LATEST.set(None)


def say_error(text: str, *, program: str, exit_code: int) -> None:
    """How a program ends: after work that was shown, as one of its lines; else as an answer to what was typed."""
    latest = _LATEST.get()
    if latest is not None:
        latest.error(text, program=program, exit_code=exit_code)
    elif AS_JSON.get():
        record = record_of(text, source=program, level=logging.ERROR, exit_code=exit_code)
        print(stderr_lines().format(record), file=sys.stderr)
    else:
        print(f"{program}: {plain(text)}", file=sys.stderr)
