"""A run's data and features, loaded in a thread: meanwhile the server hears how far this is."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stic_core.protocol.messages import Describe, Preparing
from stic_core.site_run import LocalRun

Progress = Callable[[int, int], None]
"""Told how many of how many steps are done; raises once the run is given up."""


class _GivenUpError(Exception):
    """Nobody waits for this run any more."""


class Preparation:
    """One run that is being loaded.

    Args:
        question: that asks for it.
        load: loads it; reports its steps, and lets what its `Progress` raises through.
    """

    def __init__(self, question: Describe, load: Callable[[Progress], LocalRun]) -> None:
        self.run_id = question.run_id
        self._of, self._load = (question.run_id, question.plan.digest), load
        self._steps = (0, 0)
        self._given_up = False
        self._run: LocalRun | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="preparation")
        self._thread.start()

    def is_of(self, question: Describe) -> bool:
        """Whether this is what a question asks for, and was not given up."""
        return not self._given_up and self._of == (question.run_id, question.plan.digest)

    def wait(self, seconds: float | None) -> bool:
        """Wait for the end, so long at most if not None; whether it is there."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def report(self) -> Preparing:
        """What the server is told until then."""
        done, total = self._steps
        return Preparing(done=done, total=total)

    def result(self) -> LocalRun:
        """The run, once it is loaded; what loading raised is raised here."""
        if self._error is not None:
            raise self._error
        assert self._run is not None  # `wait` said that it is there
        return self._run

    def give_up(self) -> None:
        """End it at its next step."""
        self._given_up = True

    def _work(self) -> None:
        try:
            self._run = self._load(self._step)
        except Exception as error:  # noqa: BLE001  it is raised again, in the thread that asks
            self._error = error

    def _step(self, done: int, total: int) -> None:
        if self._given_up:
            raise _GivenUpError
        self._steps = (done, total)
