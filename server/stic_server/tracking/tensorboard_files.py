"""A run as TensorBoard's event files, in a folder of the run's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stic_server.tracking.figures import RunFigures

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter


class TensorBoardFiles:
    """The event files of one run.

    Whoever takes up a run writes all of it anew and deletes the files that were there: the run's folder has every
    round, and no round is there twice.

    Args:
        folder: of the event files; nothing else is touched in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: EventFileWriter | None = None
        self._last = 0
        self._evaluated = False

    def send(self, run: RunFigures, *, over: bool) -> None:
        """Write what the files lack.

        Raises:
            OSError: the disk is full, for example.
        """
        del over
        writer = self._writer or self._begin(run)
        for one in run.rounds:
            if one.number > self._last:
                self._write(writer, one.figures, step=one.number, time=one.time)
                self._last = one.number
        if run.complete and not self._evaluated:
            self._write(writer, run.held_out, step=self._last, time=run.ended or run.began)
            self._evaluated = True
        writer.flush()

    def _begin(self, run: RunFigures) -> EventFileWriter:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        for path in self._folder.glob("events.out.tfevents.*"):
            path.unlink()
        self._writer = EventFileWriter(str(self._folder))
        # A TensorBoard that is open drops what it has read of this run so far.
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=run.began, step=1, session_log=start))
        self._writer.flush()
        return self._writer

    @staticmethod
    def _write(writer: EventFileWriter, figures: Mapping[str, float], *, step: int, time: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        writer.add_event(Event(wall_time=time, step=step, summary=Summary(value=values)))
