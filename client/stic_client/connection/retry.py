"""A request that is repeated until the server is reached, with growing waits that are said."""

from __future__ import annotations

import threading
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
        observer: receives a note of each failed try and of the wait that follows.
        stop: once it is set, every wait ends.
    """

    def say(state: RetryCallState) -> None:
        reason = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0.0
        observer.note(f"server {address} not reached ({reason}); next try in {wait:g} s")

    retrying = Retrying(
        retry=retry_if_exception_type(NotReachedError),
        wait=wait_exponential(multiplier=intervals.first_wait, max=intervals.longest_wait),
        sleep=sleep_using_event(stop),
        before_sleep=say,
    )
    return retrying(attempt)
