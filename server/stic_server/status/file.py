"""`status.json` beside federation.yaml: what a running server does, for `stic-server status`.

A thread writes it, at most once a second, and every few seconds where nothing changes: so a
file that is old, or whose process is gone, is known as what a killed server left behind.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from stic_core.system.files import write_atomically
from stic_server.admission.registry import Presence
from stic_server.federation.sites import RunObserver, RunRelay

LOG = logging.getLogger(__name__)

WRITE_S = 1.0
STILL_HERE_S = 5.0
SILENT_S = 20.0
"""A server whose file is older than this hangs, or its machine does."""

_WAITING_S = 5.0  # the one who waits says so every second

FILE = "status.json"

State = Literal["running", "silent", "ended", "killed"]


@dataclass(frozen=True, slots=True)
class Activity:
    """What a server does, or did last.

    Args:
        pid, process_began: tell the process from a later one with the same number.
        host: the machine, or the container.
        written: of this file. All times are seconds since the epoch.
        ended: when the server stopped by itself.
        stage: what is being done, in words.
        round: that the sites are asked to train; None before the first.
        waiting: for whom, in words, with when they were last seen.
        sites: by name.
        parts: what each site has to do with the run, in words.
    """

    pid: int
    process_began: int | None
    host: str
    began: float
    written: float
    ended: float | None = None
    stage: str = "starting"
    round: int | None = None
    rounds: int | None = None
    waiting: Sequence[str] = ()
    waiting_s: float = 0.0
    sites: Mapping[str, Presence] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)


_ACTIVITY = TypeAdapter(Activity)


def read_activity(folder: Path) -> Activity | None:
    """What the last server left in a folder; None where none ever ran, or the file is none of ours."""
    try:
        return _ACTIVITY.validate_json((folder / FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def state_of(activity: Activity, *, now: float) -> State:
    """Whether the server is there.

    Only this machine's processes can be looked at; of another's (a container's) the file's age says it.
    """
    if activity.ended is not None:
        return "ended"
    if activity.host == socket.gethostname():
        began = _process_began(activity.pid)
        if began is None or began != activity.process_began:
            return "killed"
    return "running" if now - activity.written < SILENT_S else "silent"


def _process_began(pid: int) -> int | None:
    """In the kernel's ticks since boot; None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return None if fields[0] == "Z" else int(fields[19])


class StatusFile(RunRelay):
    """An observer that keeps `status.json`, and passes on what it is told.

    Args:
        folder: where the file goes.
        observer: receives every event as well.
        presence: asks which sites are online.
    """

    def __init__(
        self, folder: Path, observer: RunObserver, *, presence: Callable[[], Mapping[str, Presence]]
    ) -> None:
        super().__init__(observer)
        self._path, self._presence = folder / FILE, presence
        now = time.time()
        self._activity = Activity(os.getpid(), _process_began(os.getpid()), socket.gethostname(), now, now)
        self._waiting_since = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="status-file")

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(5.0)
        self._change(ended=time.time(), waiting=(), waiting_s=0.0)
        self._write()

    # ---- what the run tells -------------------------------------------------------------

    def stage(self, text: str) -> None:
        """See `RunObserver`."""
        self._change(stage=text, waiting=(), waiting_s=0.0)
        super().stage(text)

    def waiting(self, sites: Sequence[str], seconds: float) -> None:
        """See `RunObserver`."""
        self._waiting_since = time.monotonic()
        self._change(waiting=tuple(sites), waiting_s=round(seconds, 1))
        super().waiting(sites, seconds)

    def parts(self, parts: Mapping[str, str]) -> None:
        """See `RunObserver`."""
        self._change(parts=dict(parts))
        super().parts(parts)

    def round_begins(self, number: int, *, rounds: int) -> None:
        """See `RunObserver`."""
        self._change(round=number, rounds=rounds, waiting=(), waiting_s=0.0)
        super().round_begins(number, rounds=rounds)

    # ---- the file -----------------------------------------------------------------------

    def _change(self, **facts: Any) -> None:
        with self._lock:
            self._activity = replace(self._activity, **facts)

    def _keep(self) -> None:
        shown, written = self._activity, 0.0
        while not self._stop.wait(WRITE_S):
            if self._activity.waiting and time.monotonic() - self._waiting_since > _WAITING_S:
                self._change(waiting=(), waiting_s=0.0)
            self._change(sites=dict(self._presence()))
            if self._activity != shown or time.monotonic() - written > STILL_HERE_S:
                shown, written = self._activity, time.monotonic()
                self._write()

    def _write(self) -> None:
        """Whole or not at all; a power cut may take it, as it takes the server."""
        text = json.dumps(asdict(replace(self._activity, written=time.time())), indent=1)
        try:
            write_atomically(self._path, text + "\n", durable=False)
        except OSError:
            LOG.exception("%s cannot be written", self._path)
