"""The client's Prometheus metrics: an observer that counts what the link and the participant tell.

Nothing here is of a patient: no counts of patients, no losses, no scores. A test holds every name and label.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from stic_core.monitoring.families import build_info, counts, gauge
from stic_core.system.observer import Observer, Relay


class ClientMetrics(Relay, Collector):
    """Counts what happens, and passes it on.

    Args:
        observer: receives every event as well.
        silent_s: seconds since the last sign of life.
    """

    def __init__(self, observer: Observer, *, silent_s: Callable[[], float]) -> None:
        super().__init__(observer)
        self._silent_s = silent_s
        self._lock = threading.Lock()
        self._began, self._reached = time.time(), 0.0
        self._bytes = Counter[tuple[str, ...]]()
        self._answers = Counter[tuple[str, ...]]()

    def reached(self) -> None:
        """See `Observer`."""
        self._reached = time.time()
        super().reached()

    def traffic(self, *, down: int = 0, up: int = 0) -> None:
        """See `Observer`."""
        with self._lock:
            self._bytes["down",] += down
            self._bytes["up",] += up
        super().traffic(down=down, up=up)

    def answered(self, question: str, decision: str) -> None:
        """See `Observer`."""
        with self._lock:
            self._answers[question, decision] += 1
        super().answered(question, decision)

    def collect(self) -> Iterator[Metric]:
        """All of them as they are now."""
        with self._lock:
            traffic, answers = self._bytes.copy(), self._answers.copy()
        yield build_info("stic_client")
        yield gauge("stic_client_start_timestamp_seconds", "When the client started", self._began)
        yield gauge(
            "stic_client_alive_timestamp_seconds",
            "Last sign of life of its work",
            time.time() - self._silent_s(),
        )
        yield gauge(
            "stic_client_server_timestamp_seconds",
            "Last answer of the server; 0 before its first",
            self._reached,
        )
        yield counts("stic_client_bytes", "Contents of messages", ("direction",), traffic)
        yield counts(
            "stic_client_answers",
            "The server's questions, by kind and by what became of them",
            ("question", "decision"),
            answers,
        )
