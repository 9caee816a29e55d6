"""Where long work reports to, whoever watches it."""

from __future__ import annotations


class Observer:
    """Receives progress events. This one shows nothing; a subclass shows what it overrides."""

    def note(self, text: str) -> None:
        """Something that is worth a line."""

    def stage(self, text: str) -> None:
        """What is being done from now on."""

    def progress(self, what: str, done: int, total: int) -> None:
        """How far a piece of work is."""
