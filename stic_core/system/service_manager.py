"""What a service manager is told: systemd's notification protocol (sd_notify(3)), and nothing where there is none."""

from __future__ import annotations

import math
import os
import socket
import time
from contextlib import suppress

_EVERY_S = 5.0
"""Between signs of life; where the manager waits for less than twice as long, half of that."""
_LONGEST = 200  # characters of a status


class ServiceManager:
    """The service manager that started this process, if one did that wants to be told.

    A sign of life is sent where work is done (a round, a patient, a look for messages), never by a thread of
    its own: a process that hangs must fall silent, or nobody starts it again.

    Args:
        address: of its socket; by default `NOTIFY_SOCKET`, as systemd sets it.
    """

    def __init__(self, address: str | None = None) -> None:
        address = os.environ.get("NOTIFY_SOCKET") if address is None else address
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self._every = min(_EVERY_S, _patience_s() / 2)
        self._sent = -self._every
        self._status = ""
        self._alive_at = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of life, whether anybody is told of it or not."""
        return time.monotonic() - self._alive_at

    def ready(self) -> None:
        """It serves from now on."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """It is about to end."""
        self._tell("STOPPING=1")

    def alive(self, status: str = "") -> None:
        """A sign of life, with what is being done; few are sent unless that changes.

        Args:
            status: one line without anything about a patient; `systemctl status` shows it.
        """
        status = " ".join(status.split())[:_LONGEST]
        new = bool(status) and status != self._status
        now = self._alive_at = time.monotonic()
        if new or now - self._sent >= self._every:
            self._sent = now
            self._status = status or self._status
            self._tell("WATCHDOG=1", *([f"STATUS={status}"] if new else []))

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # Whether anybody listens is the manager's affair: it must not stop a run.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
            one.setblocking(False)
            one.sendto("\n".join(lines).encode(), self._address)


def _patience_s() -> float:
    """How long the manager waits for a sign of life (sd_watchdog_enabled(3)); for ever where it says nothing."""
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdecimal() and int(text) > 0 else math.inf
