"""A site's disks: room set aside for its log and for a run, and a full one, of which the operator is told once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from stic_client.participation.final_models import weights_bytes
from stic_core.config import SiteConfig
from stic_core.errors import NoRoomError
from stic_core.protocol.messages import Describe, Failure, Report
from stic_core.system.observer import Observer
from stic_core.system.room import FREE_SOME, Reserve, free_in
from stic_core.training.site_arrays import KEPT_COPIES

_LOG_RESERVE = 4 << 20
"""Bytes: hundreds of times "my disk is full", each with its question."""


class SiteDisk:
    """The disks that a site writes to.

    Args:
        config: of the site.
        observer: is told when one is full, and when there is room again.
    """

    def __init__(self, config: SiteConfig, observer: Observer) -> None:
        self._config, self._observer = config, observer
        self._waiting = False
        path = config.audit.with_suffix(".reserve")
        self.log_reserve = Reserve(path, size=_LOG_RESERVE, what="the audit log")

    def can_log(self) -> bool:
        """Whether a further question and its answer can be logged; if not, none is to be taken in."""
        try:
            self.log_reserve.fill()
        except NoRoomError as error:
            if not self.log_reserve.left:
                self.full(error)
                return False
        except OSError:
            pass  # who writes into the log meets the same fault, and says what it is
        return True

    @contextmanager
    def room_for_run(self, question: Describe) -> Iterator[None]:
        """Before a run: fill the log's reserve, and hold the room that its rounds will take while it is loaded.

        The latter is given back, since a round can wait; until then cached features cannot take it.

        Raises:
            NoRoomError: there is not enough.
        """
        self.log_reserve.fill()
        folder, plan = self._config.between_rounds, question.plan
        needed = KEPT_COPIES * weights_bytes(plan) if plan.transport == "int8" else 0
        needed -= sum(path.stat().st_size for path in (folder / question.run_id).glob("*"))
        reserve = Reserve(folder / ".reserve", size=needed, what="what int8 keeps between rounds")
        try:
            if needed > 0:
                reserve.fill()
            yield
        finally:
            reserve.drop()

    def full(self, error: NoRoomError | None = None) -> Failure:
        """What to answer when something cannot be written; the server asks again.

        Args:
            error: None where the system did not say which disk it is: the one with the least room.
        """
        if not self._waiting:
            self._observer.note(f"waiting for disk space: {error or self.no_room()}")
        self._waiting = True
        return Failure(code=NoRoomError.__name__)

    def no_room(self) -> NoRoomError:
        """The error for a disk that is full to the last byte."""
        config = self._config
        folders = {
            config.audit.parent,
            config.models,
            config.between_rounds,
            config.plans,
            config.held_out,
            config.privacy,
        }
        there = [folder for folder in sorted({*folders, config.dataset.prepared}) if folder.is_dir()]
        least = min(there, key=lambda folder: shutil.disk_usage(folder).free)
        return NoRoomError("no space left on the disk", got=free_in(least), advice=FREE_SOME)

    def answered(self, report: Report) -> None:
        """Something was answered and logged: if it was real work, there is room again."""
        if self._waiting and report.kind not in {"failure", "refusal", "unprepared", "preparing"}:
            self._waiting = False
            self._observer.note("there is disk space again; this site continues")
