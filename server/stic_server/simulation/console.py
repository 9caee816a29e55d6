"""What a simulation shows: one live line for each seed, and what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stic_core.system.terminal import Terminal
from stic_server.federation.sites import RunObserver


class SeedObserver(RunObserver):
    """A session's observer that shows a seed's rounds as one bar.

    Args:
        terminal: where it goes.
        which: names the seed, and how many there are.
    """

    def __init__(self, terminal: Terminal, *, which: str) -> None:
        self._terminal, self._which = terminal, which

    def note(self, text: str) -> None:
        """A line that stays."""
        self._terminal.note(f"{self._which}: {text}")

    def stage(self, text: str) -> None:
        """What is being done from now on."""
        self._terminal.stage(f"{self._which}: {text}")

    def progress(self, what: str, done: int, total: int) -> None:
        """How far a piece of work is."""
        self._terminal.progress(f"{self._which}: {what}", done, total)

    def round_done(self, row: Mapping[str, Any], *, rounds: int) -> None:
        """The bar goes on."""
        self.progress("rounds of the federation", row["round"], rounds)
