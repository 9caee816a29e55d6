"""The sites that take part in a run: gathered, joined by late ones, asked together, told the plan after a restart.

The run waits for as many sites as it needs, a little longer for the others (`grace_s`), and never for one
that is not ready beyond that: it joins when it is.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import count
from types import MappingProxyType

from stic_core.errors import FederationError
from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import Instruction, RunPlan, SiteDescription, Unprepared
from stic_server.federation.joining import FULL, LONGEST_PAUSE, Joining, Undecided
from stic_server.federation.sites import Answer, Exchange, RunLimits, RunObserver, Sites

_RESTARTS = 5
"""How often a site is told the plan again within one question."""


class Participants:
    """The sites of one run.

    Args:
        plan: what they are asked to compute.
        run_id: under which they know it.
        sites: how they are reached.
        limits: how few, and how long.
        observer: receives notes of who is excluded and why.
        known: what sites of this run described before this server started.
    """

    def __init__(
        self,
        plan: RunPlan,
        *,
        run_id: str,
        sites: Sites,
        limits: RunLimits,
        observer: RunObserver,
        known: Mapping[str, SiteDescription] = MappingProxyType({}),
    ) -> None:
        self.plan, self.run_id, self.limits, self.observer = plan, run_id, limits, observer
        self._sites = sites
        self._joining = Joining(
            plan, run_id=run_id, sites=sites, limits=limits, observer=observer, known=known
        )

    @property
    def descriptions(self) -> Mapping[str, SiteDescription]:
        """By site, of those that take part now."""
        return self._joining.ready

    @property
    def online(self) -> list[str]:
        """Those that take part and are online now."""
        return sorted(self.descriptions.keys() & set(self._sites.present()))

    @property
    def known(self) -> Mapping[str, SiteDescription]:
        """By site, of all that ever took part in this run."""
        return self._joining.known

    @property
    def phantom(self) -> bool:
        """The patients of at least one site of this run are phantoms."""
        return any(description.phantom for description in self.known.values())

    def gather(self) -> None:
        """Wait for the sites, and take in those that accept the plan.

        Raises:
            FederationError: too few.
        """
        limits, joining = self.limits, self._joining
        self.observer.stage("waiting for the sites")
        self._sites.wait_for(at_least=limits.min_sites, timeout=limits.join_timeout_s)
        self.observer.stage("waiting until the sites are ready")
        began, enough_since = time.monotonic(), None
        while True:
            present = self._sites.present()
            joining.ask_newcomers(present)
            now, waits = time.monotonic(), joining.waiting(among=present)
            if len(joining.ready) >= limits.min_sites:
                enough_since = now if enough_since is None else enough_since
            if enough_since is not None and (not waits or now - enough_since > limits.grace_s):
                break
            if not waits and not joining.undecided:
                break
            if not waits:  # who was getting ready is offline for the moment
                self._sites.wait_for(
                    at_least=limits.min_sites, timeout=limits.join_timeout_s, apart_from=joining.declined
                )
                continue
            moved_at = max([began, *(one.moved_at for one in waits.values() if one.why == "preparing")])
            if enough_since is None and now - moved_at > limits.join_timeout_s:
                break
            self._pause(waits, since=began)
        for site, one in joining.waiting(among=self._sites.present()).items():
            self.observer.note(f"the run begins without {site}, which {one.words}; it joins when it is ready")
        if len(joining.ready) < limits.min_sites:
            raise self._too_few()
        joining.begin()

    def admit_late_sites(self) -> None:
        """Before a round: wait where too few sites are there, and take in those that have become ready.

        Raises:
            FederationError: too few came in the time for joining.
        """
        joining, began = self._joining, time.monotonic()
        while True:
            present = self._sites.present()
            for site in sorted(joining.ask_newcomers(present)):
                self.observer.note(f"{site} joins the run from here on")
            if len(joining.ready.keys() & set(present)) >= self.limits.min_sites:
                return
            if waits := joining.waiting(among=present):
                moved_at = max(began, *(one.moved_at for one in waits.values()))
                if time.monotonic() - moved_at > self.limits.join_timeout_s:
                    raise self._too_few()
                self._pause(waits, since=began)
            else:
                self._sites.wait_for(
                    at_least=self.limits.min_sites,
                    timeout=self.limits.join_timeout_s,
                    apart_from=joining.declined,
                )
                if not self._newcomers():
                    return

    def _newcomers(self) -> list[str]:
        """Who is online and does not take part, nor said no."""
        joining = self._joining
        return [
            site
            for site in self._sites.present()
            if site not in joining.ready and site not in joining.declined
        ]

    def _pause(self, waits: Mapping[str, Undecided], *, since: float) -> None:
        """Until somebody is asked again, a second at most."""
        now = time.monotonic()
        self.observer.waiting([f"{site} ({one.words})" for site, one in waits.items()], now - since)
        next_at = min(one.next_at for one in waits.values())
        time.sleep(min(1.0, max(self.limits.ask_again_s / 10, next_at - now, 0.001)))

    def _too_few(self) -> FederationError:
        ready = self._joining.ready
        return FederationError(
            "too few sites are taking part",
            got=f"{len(ready)} ({', '.join(ready) or 'none'})",
            expected=f"at least {self.limits.min_sites} (min_sites)",
            advice="The lines above say what kept the others out; fix that and start again.",
        )

    def ask(
        self,
        instruction: Instruction,
        *,
        weights: WireArray | None = None,
        timeout: float | None = None,
        room_s: float | None = None,
    ) -> Exchange:
        """The same question to every site that takes part; see `ask_each`."""
        questions = dict.fromkeys(sorted(self.descriptions), instruction)
        return self.ask_each(questions, weights=weights, timeout=timeout, room_s=room_s)

    def ask_each(
        self,
        questions: Mapping[str, Instruction],
        *,
        weights: WireArray | None,
        timeout: float | None = None,
        room_s: float | None = None,
    ) -> Exchange:
        """Ask each site its question; again where one was restarted and had to be told the plan first.

        Again as well where a disk is full, less and less often, until there is room.

        Args:
            weights: go with every question.
            timeout: seconds; None is a round's.
            room_s: for which a full disk is waited for; None is as long.
        """
        timeout = timeout or self.limits.round_timeout_s
        began, pauses, full = time.monotonic(), 0, set[str]()
        exchange = self._sites.ask(questions, weights=weights, timeout=timeout)
        asked = dict(questions)
        for tries in count():
            full = {
                site for site in asked if site in exchange.answers and exchange.answers[site].waits_for_room
            }
            deadline = began + (room_s if full and room_s is not None else timeout)
            restarted = [site for site in asked if _is_unprepared(exchange.answers.get(site))]
            if tries - pauses >= _RESTARTS:
                for site in restarted:
                    self.observer.note(
                        f"{site} forgets the run as often as it is told; continuing without it"
                    )
                restarted = []
            again = {site for site in restarted if self._describe_again(site, deadline=deadline)}
            if full and self._await_room(full, pauses=pauses, began=began, deadline=deadline):
                again, pauses = again | full, pauses + 1
            left = min(timeout, deadline - time.monotonic())
            if not again or left <= 0:
                break
            asked = {site: questions[site] for site in sorted(again)}
            exchange = exchange.followed_by(self._sites.ask(asked, weights=weights, timeout=left))
        self._joining.note_room(exchange.answers.keys() - full)
        answers = {site: answer for site, answer in exchange.answers.items() if not _is_unprepared(answer)}
        return replace(exchange, answers=answers)

    def _await_room(self, sites: Collection[str], *, pauses: int, began: float, deadline: float) -> bool:
        """Pause before sites whose disk is full are asked again; whether there is time for it."""
        left = deadline - time.monotonic()
        if left < self.limits.ask_again_s:
            return False
        self._joining.note_full(sites)
        end = time.monotonic() + min(self.limits.ask_again_s * min(2**pauses, LONGEST_PAUSE), left / 2)
        while (now := time.monotonic()) < end:
            self.observer.waiting([f"{site} ({FULL})" for site in sorted(sites)], now - began)
            time.sleep(min(1.0, end - now))
        return True

    def _describe_again(self, site: str, *, deadline: float) -> bool:
        """Tell a restarted site the plan; it must come back with the data that it began with.

        One that is not ready soon is asked again before the next rounds, as a newcomer is.
        """
        joining, began = self._joining, time.monotonic()
        if deadline <= began:
            return False
        self.observer.note(f"{site} was restarted; the plan is sent again")
        until = min(deadline, began + self.limits.grace_s)
        while site not in joining.describe([site]):
            waits = joining.waiting(among=[site])
            limit = deadline if waits and waits[site].why == "disk" else until
            if not waits or time.monotonic() > limit:
                joining.suspend(site)
                return False
            while time.monotonic() < waits[site].next_at:
                self._pause(waits, since=began)
        return True


def _is_unprepared(answer: Answer | None) -> bool:
    return answer is not None and isinstance(answer.report, Unprepared)
