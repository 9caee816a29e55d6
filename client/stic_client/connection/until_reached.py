"""A request that is repeated until the server is reached, with growing waits that are said, more rarely in the end."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, sleep_using_event, wait_exponential

from stic_client.connection.waiting_times import Intervals
from stic_core.system.observer import Observer

T = TypeVar("T")


class NotReachedError(ConnectionError):
    """One try did not reach the server; its text says why. The next one may."""


def until_reached(
    attempt: Callable[[], T],
    *,
    address: str,
    intervals: Intervals,
    observer: Observer,
    stop: threading.Event,
) -> T:
    """Repeat `attempt` for as long as it raises `NotReachedError`; any other error is raised at once.

    Args:
        address: of the server, for what is said.
        observer: receives a note of each failed try at first, later of one in some minutes and of every new
            reason; and a note once the server is reached again.
        stop: once it is set, every wait ends.
    """
    outage = _Outage(address, intervals=intervals, observer=observer)
    retrying = Retrying(
        retry=retry_if_exception_type(NotReachedError),
        wait=wait_exponential(multiplier=intervals.first_wait, max=intervals.longest_wait),
        sleep=sleep_using_event(stop),
        before_sleep=outage.failed,
    )
    result = retrying(attempt)
    outage.over()
    return result


class _Outage:
    """What is said of a time without the server."""

    def __init__(self, address: str, *, intervals: Intervals, observer: Observer) -> None:
        self._address, self._intervals, self._observer = address, intervals, observer
        self._began, self._since = time.monotonic(), dt.datetime.now().astimezone()
        self._said_at, self._reason, self._rare = 0.0, "", False

    def failed(self, state: RetryCallState) -> None:
        """One more try failed."""
        self._observer.alive()
        reason = str(state.outcome.exception()) if state.outcome else ""
        wait = state.next_action.sleep if state.next_action else 0.0
        now = time.monotonic()
        if self._rare and reason == self._reason and now - self._said_at < self._intervals.say_again:
            return
        self._said_at, self._reason = now, reason
        if not self._rare:
            self._observer.note(f"server {self._address} not reached ({reason}); next try in {wait:g} s")
        if wait >= self._intervals.longest_wait and not self._rare:
            self._rare = True
            self._observer.note(
                f"server {self._address} still not reached; it is tried every {wait:g} s from now on, and said again "
                f"every {self._intervals.say_again / 60:g} min"
            )
        elif self._rare:
            self._observer.note(
                f"server {self._address} not reached since {self._since:%Y-%m-%d %H:%M:%S} ({reason}), "
                f"{state.attempt_number} tries; next try in {wait:g} s"
            )

    def over(self) -> None:
        """The server is reached."""
        if self._rare:
            away = dt.timedelta(seconds=round(time.monotonic() - self._began))
            self._observer.note(f"server {self._address} is reached again, after {away}")
