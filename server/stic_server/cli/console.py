"""What `stic-server start` shows of a run: one line per round, and whom it is waiting for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stic_core.system.terminal import Terminal
from stic_server.federation.sites import RunObserver


class ConsoleObserver(RunObserver):
    """A session's observer on a terminal.

    Args:
        terminal: where it goes.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def note(self, text: str) -> None:
        """A line that stays."""
        self._terminal.note(text)

    def stage(self, text: str) -> None:
        """What is being done from now on."""
        self._terminal.stage(text)

    def doing(self, text: str) -> None:
        """What is being done for the moment."""
        self._terminal.doing(text)

    def alive(self) -> None:
        """The work goes on."""
        self._terminal.alive()

    def event(self, what: str, text: str, **facts: object) -> None:
        """Somebody may want to be told."""
        self._terminal.event(what, text, **facts)

    def waiting(self, sites: Sequence[str], seconds: float) -> None:
        """Whom we wait for."""
        self._terminal.alive()
        if sites:
            self._terminal.detail(f"waiting for {', '.join(sites)}, {seconds:.0f} s")

    def round_done(self, row: Mapping[str, Any], *, rounds: int) -> None:
        """One line a round."""
        pooled = row["val"].get("pooled")
        seen = f"  validation loss {pooled['loss']:.3f}" if pooled else ""
        seen += f", accuracy {pooled['accuracy']:.2f}" if pooled and "accuracy" in pooled else ""
        losses = [loss for loss in row["train_loss"].values() if loss is not None]
        trained = f"  training loss {sum(losses) / len(losses):.3f}" if losses else ""
        self._terminal.note(
            f"round {row['round']:>3} of {rounds}  {len(row['sites'])} sites{trained}{seen}"
            f"  {row['seconds']:.1f} s, overhead {row['overhead_seconds']:.1f} s"
        )
        self._terminal.progress("training", row["round"], rounds)
