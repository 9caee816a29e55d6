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

    def reached(self) -> None:
        """The other side answered a request, whatever it said."""

    def traffic(self, *, down: int = 0, up: int = 0) -> None:
        """A message came from the server, or went to it: bytes of its contents."""

    def answered(self, question: str, decision: str) -> None:
        """A question of the server's was answered.

        Args:
            question: its kind, such as `train-round`.
            decision: `answered`, `refused`, `pending` or `failed`.
        """

    def event(self, what: str, text: str, **facts: object) -> None:
        """Something that somebody who does not look at a screen wants to know; see `notifier`.

        Args:
            what: one of `notifier.EVENTS`.
            text: a sentence, with nothing of a patient.
            facts: likewise, such as the run's id.
        """


class Relay(Observer):
    """Passes on every event; a subclass looks at some on the way.

    Args:
        observer: receives them.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def note(self, text: str) -> None:
        """See `Observer`."""
        self._observer.note(text)

    def stage(self, text: str) -> None:
        """See `Observer`."""
        self._observer.stage(text)

    def doing(self, text: str) -> None:
        """See `Observer`."""
        self._observer.doing(text)

    def progress(self, what: str, done: int, total: int) -> None:
        """See `Observer`."""
        self._observer.progress(what, done, total)

    def ready(self) -> None:
        """See `Observer`."""
        self._observer.ready()

    def alive(self) -> None:
        """See `Observer`."""
        self._observer.alive()

    def reached(self) -> None:
        """See `Observer`."""
        self._observer.reached()

    def traffic(self, *, down: int = 0, up: int = 0) -> None:
        """See `Observer`."""
        self._observer.traffic(down=down, up=up)

    def answered(self, question: str, decision: str) -> None:
        """See `Observer`."""
        self._observer.answered(question, decision)

    def event(self, what: str, text: str, **facts: object) -> None:
        """See `Observer`."""
        self._observer.event(what, text, **facts)
