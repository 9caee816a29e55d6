"""The server's Prometheus metrics: an observer that counts what a run tells, and looks at the rest when it is asked.

Nothing here is of a patient: no counts of patients, no losses, no scores. A test holds every name and label.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from stic_core.errors import UsageError
from stic_core.monitoring.families import build_info, counts, gauge, gauges
from stic_server.admission.expiry import expiries
from stic_server.admission.registry import Presence
from stic_server.federation.sites import LEFT_OUT, LeftOut, PartState, RunObserver, RunRelay
from stic_server.http.listener import REFUSED
from stic_server.http.request_guard import REFUSALS


@dataclass(frozen=True, slots=True)
class Looks:
    """What is looked at whenever somebody asks for the metrics.

    Args:
        presence: which admitted sites are online, and when they were last seen.
        serving: whether the server serves, as its health says.
        silent_s: seconds since the run's last sign of life.
        refused_requests: so far, by HTTP status.
        refused_connections: so far, by reason.
    """

    presence: Callable[[], Mapping[str, Presence]]
    serving: Callable[[], bool]
    silent_s: Callable[[], float]
    refused_requests: Callable[[], Mapping[int, int]]
    refused_connections: Callable[[], Mapping[str, int]]


class ServerMetrics(RunRelay, Collector):
    """Counts what a run tells, and passes it on.

    Args:
        observer: receives every event as well.
        folder: of federation.yaml, with the certificates.
        min_sites: that a round needs.
        looks: at the rest.
    """

    def __init__(self, observer: RunObserver, *, folder: Path, min_sites: int, looks: Looks) -> None:
        super().__init__(observer)
        self._folder, self._min_sites, self._look = folder, min_sites, looks
        self._lock = threading.Lock()
        self._began = self._round_ended = time.time()
        self._done = self._planned = 0
        self._seconds = Counter[tuple[str, ...]]()
        self._bytes = Counter[tuple[str, ...]]()
        self._left_out = Counter[tuple[str, ...]]()
        self._states: Mapping[str, PartState] = {}

    # ---- what a run tells ---------------------------------------------------------------

    def states(self, states: Mapping[str, PartState]) -> None:
        """See `RunObserver`."""
        self._states = dict(states)
        super().states(states)

    def left_out(self, site: str, kind: LeftOut) -> None:
        """See `RunObserver`."""
        with self._lock:
            self._left_out[site, kind] += 1
        super().left_out(site, kind)

    def round_begins(self, number: int, *, rounds: int) -> None:
        """See `RunObserver`."""
        with self._lock:
            if number - 1 > self._done:
                self._round_ended = time.time()
            self._done, self._planned = number - 1, rounds
        super().round_begins(number, rounds=rounds)

    def round_done(self, row: Mapping[str, Any], *, rounds: int) -> None:
        """See `RunObserver`; a row comes when the round's model is scored, which is in the next round."""
        with self._lock:
            self._round_ended = time.time()
            self._done, self._planned = max(self._done, row["round"]), rounds
            overhead = row["overhead_seconds"]
            self._seconds["compute",] += row["seconds"] - overhead
            self._seconds["overhead",] += overhead
            for site, traffic in row["bytes_by_site"].items():
                self._bytes[site, "down"] += traffic["down"]
                self._bytes[site, "up"] += traffic["up"]
        super().round_done(row, rounds=rounds)

    # ---- what is asked for --------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """All of them as they are now."""
        presence, states = self._look.presence(), self._states
        now = time.time()
        # What can be counted is there from the start, as 0: an increase from nothing is none to Prometheus.
        requests, connections = self._look.refused_requests(), self._look.refused_connections()
        with self._lock:
            seconds, traffic, left_out = self._seconds.copy(), self._bytes.copy(), self._left_out.copy()
            done, planned, ended = self._done, self._planned, self._round_ended
        yield build_info("stic_server")
        yield gauge(
            "stic_server_serving", "Whether the server serves, as its health says", self._look.serving()
        )
        yield gauge("stic_server_start_timestamp_seconds", "When the server started", self._began)
        yield gauge(
            "stic_server_alive_timestamp_seconds",
            "Last sign of life of the run",
            now - self._look.silent_s(),
        )
        yield gauge("stic_rounds_done", "Rounds of this run that are complete", done)
        yield gauge("stic_rounds_planned", "Rounds of this run at most; 0 before its first", planned)
        yield gauge(
            "stic_round_end_timestamp_seconds",
            "When the last round was complete; before the first, when the server started",
            ended,
        )
        yield counts(
            "stic_round_seconds",
            "Seconds of rounds: the slowest site's computing, and everything else",
            ("part",),
            seconds,
        )
        yield counts("stic_round_bytes", "Contents of the messages of rounds", ("site", "direction"), traffic)
        yield gauge("stic_sites_required", "Sites that a round needs (min_sites)", self._min_sites)
        yield gauge("stic_sites_expected", "Sites that are admitted", len(presence))
        yield gauge(
            "stic_sites_online", "Sites that are online", sum(one.online for one in presence.values())
        )
        yield gauges(
            "stic_site_online",
            "Whether an admitted site is online",
            ("site",),
            {(site,): one.online for site, one in presence.items()},
        )
        yield gauges(
            "stic_site_alive_timestamp_seconds",
            "Last sign of life of a site; absent before its first",
            ("site",),
            {(site,): one.last_seen for site, one in presence.items() if one.last_seen is not None},
        )
        yield gauges(
            "stic_site_state",
            "What a site has to do with the run; 1 for the state it is in",
            ("site", "state"),
            dict.fromkeys(states.items(), 1),
        )
        yield counts(
            "stic_answers_left_out",
            "Answers of sites that were not used",
            ("site", "kind"),
            {(site, kind): left_out[site, kind] for site in {*presence, *states} for kind in LEFT_OUT},
        )
        yield counts(
            "stic_requests_refused",
            "Requests at the sites' port that were refused",
            ("status",),
            {(str(status),): requests.get(status, 0) for status in REFUSALS},
        )
        yield counts(
            "stic_connections_refused",
            "Connections at the sites' port that got no HTTP",
            ("reason",),
            {(reason,): connections.get(reason, 0) for reason in REFUSED},
        )
        yield gauges(
            "stic_certificate_end_timestamp_seconds",
            "Last moment at which a certificate is valid",
            ("certificate",),
            self._certificate_ends(),
        )

    def _certificate_ends(self) -> dict[tuple[str, ...], float]:
        """Nothing while a certificate cannot be read: it is being replaced, and the rest is told all the same."""
        try:
            return {(one.name,): one.until.timestamp() for one in expiries(self._folder)}
        except UsageError:
            return {}
