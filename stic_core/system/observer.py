"""Where long work reports to, whoever watches it."""

from __future__ import annotations


class Observer:
    """Receives progress events. This one shows nothing; a subclass shows what it overrides."""

    def note(self, text: str) -> None:
        """Something that is worth a line."""

    def stage(self, text: str) -> None:
        """What is being done from now on."""

    def doing(self, text: str) -> None:
        """What is being done for the moment; not worth a line of its own."""

    def progress(self, what: str, done: int, total: int) -> None:
        """How far a piece of work is."""

    def ready(self) -> None:
        """The program serves from now on."""

    def alive(self) -> None:
        """The work goes on; called where it is done, at least every few minutes."""

    def event(self, what: str, text: str, **facts: object) -> None:
        """Something that somebody who does not look at a screen wants to know; see `notifier`.

        Args:
            what: one of `notifier.EVENTS`.
            text: a sentence, with nothing of a patient.
            facts: likewise, such as the run's id.
        """
