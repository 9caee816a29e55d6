"""Ctrl-C and worker processes: the terminal sends it to all of them, and only the parent acts on it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_back() -> Iterator[None]:
    """Processes that are started in here never see SIGINT; this one sees it at the end.

    A process that is still importing has no handler yet, and would print a traceback. What is
    blocked is inherited, from the first instruction on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
