"""Who takes part in a run: told the plan, described, asked together, told again after a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import count

from stic_core.errors import FederationError
from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import Describe, Instruction, Refusal, RunPlan, SiteDescription, Unprepared
from stic_server.federation.sites import Answer, Exchange, RunLimits, RunObserver, Sites, answers_of

_RESTARTS = 5
"""How often a site is told the plan again within one question."""
_FULL = "its disk is full"

_LONGEST_PAUSE = 12
"""Times `ask_again_s`: the model travels with each question, and each is logged."""


class Participants:
    """The sites of one run.

    Args:
        plan: what they are asked to compute.
        run_id: under which they know it.
        sites: how they are reached.
        limits: how few, and how long.
        observer: receives notes of who is excluded and why.
    """

    def __init__(
        self, plan: RunPlan, *, run_id: str, sites: Sites, limits: RunLimits, observer: RunObserver
    ) -> None:
        self.plan, self.run_id, self.limits, self.observer = plan, run_id, limits, observer
        self.descriptions: dict[str, SiteDescription] = {}
        """By site, of those that take part."""
        self._sites = sites
        self._declined: set[str] = set()
        self._told: set[tuple[str, str]] = set()
        """Sites that are undecided, and what for; each was noted."""

    @property
    def phantom(self) -> bool:
        """At least one site's patients are phantoms."""
        return any(description.phantom for description in self.descriptions.values())

    def gather(self) -> None:
        """Wait for the sites, and take in those that accept the plan.

        Raises:
            FederationError: too few.
        """
        limits = self.limits
        self.observer.stage("waiting for the sites")
        present = self._sites.wait_for(at_least=limits.min_sites, timeout=limits.join_timeout_s)
        self.observer.stage("loading data and computing the backbone's features at the sites")

        def patience(accepted: int) -> float:
            return limits.approval_s if accepted >= limits.min_sites else limits.join_timeout_s

        late = self._take_in(present, timeout=limits.join_timeout_s, patience=patience)
        for site, answer in late.items():
            self.observer.note(
                f"{site} is excluded for now: its disk is full"
                if answer.waits_for_room
                else f"{site} is excluded: its operator did not approve the plan in time"
            )
        self._declined |= {site for site, answer in late.items() if not answer.waits_for_room}
        if len(self.descriptions) < limits.min_sites:
            raise FederationError(
                "too few sites are taking part",
                got=f"{len(self.descriptions)} ({', '.join(self.descriptions) or 'none'})",
                expected=f"at least {limits.min_sites} (min_sites)",
                advice="The lines above say what kept the others out; fix that and start again.",
            )

    def admit_late_sites(self) -> None:
        """Before a round: wait where too few sites are online, and take in those that came since.

        Raises:
            FederationError: too few came in the time for joining.
        """
        if len(self.descriptions.keys() & set(self._sites.present())) < self.limits.min_sites:
            self._sites.wait_for(
                at_least=self.limits.min_sites,
                timeout=self.limits.join_timeout_s,
                apart_from=self._declined,
            )
        before = self.descriptions.keys()
        late = [site for site in self._sites.present() if site not in before | self._declined]
        if late:
            # Who has yet to approve the plan, or has no room, is asked again before the next round.
            self._take_in(late, timeout=self.limits.round_timeout_s, patience=lambda _: 0.0)
            for site in self.descriptions.keys() - before:
                self.observer.note(f"{site} joins the run from here on")

    def _take_in(
        self, sites: Sequence[str], *, timeout: float, patience: Callable[[int], float]
    ) -> dict[str, Answer]:
        """Add to `descriptions` the sites that accept the plan and fit it; who says no is not asked again.

        Returns:
            What sites that are still undecided answered last.
        """
        accepted, answered, undecided = self._ask_until_decided(sites, timeout=timeout, patience=patience)
        joined = self._fitting(accepted)
        self._declined |= answered - joined.keys()
        self.descriptions = dict(sorted({**self.descriptions, **joined}.items()))
        return undecided

    def _ask_until_decided(
        self, sites: Sequence[str], *, timeout: float, patience: Callable[[int], float]
    ) -> tuple[dict[str, SiteDescription], set[str], dict[str, Answer]]:
        """Tell sites the plan; ask those again whose operator has yet to approve it, or whose disk is full.

        Args:
            timeout: seconds for an answer.
            patience: how long to wait for the undecided in all, seconds, given how many accepted.

        Returns:
            What the accepting sites describe; all that decided; the last answer of all that are still undecided.
        """
        began, pauses = time.monotonic(), 0
        accepted: dict[str, SiteDescription] = {}
        decided: set[str] = set()
        undecided: Collection[str] = sites
        while True:
            descriptions, answered, pending = self._describe(sorted(undecided), timeout=timeout)
            accepted |= descriptions
            decided |= answered
            waits = {site: _what_for(answer) for site, answer in sorted(pending.items())}
            for site, why in waits.items():
                report = pending[site].report
                self._note_wait(site, report.reason if isinstance(report, Refusal) else why)
            undecided = pending
            waited = time.monotonic() - began
            if not pending or waited > patience(len(accepted)):
                return accepted, decided, pending
            if set(waits.values()) == {_FULL}:
                left = max(self.limits.ask_again_s, patience(len(accepted)) - waited)
                self._await_room(waits, pauses=pauses, began=began, deadline=time.monotonic() + left)
                pauses += 1
            else:
                self.observer.waiting([f"{site} ({why})" for site, why in waits.items()], waited)
                time.sleep(self.limits.ask_again_s)

    def _note_wait(self, site: str, why: str) -> None:
        """Say once what a site waits for."""
        if (site, why) not in self._told:
            self._told.add((site, why))
            if why == _FULL:
                self.observer.note(f"{site}: its disk is full; it is asked again until there is space")
            else:
                self.observer.note(f"{site}: {why}")

    def _note_room(self, sites: Collection[str]) -> None:
        """Say that sites no longer wait for room, of those that did."""
        for site in sorted(site for site in sites if (site, _FULL) in self._told):
            self._told.discard((site, _FULL))
            self.observer.note(f"{site} has disk space again")

    def _describe(
        self, sites: Sequence[str], *, timeout: float
    ) -> tuple[dict[str, SiteDescription], set[str], dict[str, Answer]]:
        """Tell sites the plan, once.

        Returns:
            Descriptions of those that accept; all that said yes or no; the answers of those that may
            still say yes. Who did not answer is in none of them.
        """
        question = Describe(run_id=self.run_id, plan=self.plan)
        exchange = self._sites.ask(dict.fromkeys(sites, question), weights=None, timeout=timeout)
        pending = {site: answer for site, answer in exchange.answers.items() if _what_for(answer)}
        decided = {site: answer for site, answer in exchange.answers.items() if site not in pending}
        found = answers_of(replace(exchange, answers=decided), SiteDescription, observer=self.observer)
        self._note_room(found)
        return {site: description for site, (description, _) in found.items()}, set(decided), pending

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
        self._note_room(exchange.answers.keys() - full)
        answers = {site: answer for site, answer in exchange.answers.items() if not _is_unprepared(answer)}
        return replace(exchange, answers=answers)

    def _await_room(self, sites: Collection[str], *, pauses: int, began: float, deadline: float) -> bool:
        """Pause before sites whose disk is full are asked again; whether there is time for it."""
        left = deadline - time.monotonic()
        if left < self.limits.ask_again_s:
            return False
        for site in sorted(sites):
            self._note_wait(site, _FULL)
        end = time.monotonic() + min(self.limits.ask_again_s * min(2**pauses, _LONGEST_PAUSE), left / 2)
        while (now := time.monotonic()) < end:
            self.observer.waiting([f"{site} ({_FULL})" for site in sorted(sites)], now - began)
            time.sleep(min(1.0, end - now))
        return True

    def _fitting(self, accepted: Mapping[str, SiteDescription]) -> dict[str, SiteDescription]:
        """Those whose image preparation is the plan's, and whose backbone is the others'.

        The others are those that take part already, or the majority.
        """
        digests = [one.backbone_digest for one in (self.descriptions or accepted).values()]
        common = max(sorted(set(digests)), key=digests.count, default="")
        fitting = {}
        for site, description in sorted(accepted.items()):
            if why := self._misfit(site, description, common=common):
                self.observer.note(why)
            else:
                fitting[site] = description
        return fitting

    def _misfit(self, site: str, description: SiteDescription, *, common: str) -> str:
        """Why a site cannot take part; "" where it can."""
        if self.plan.sites and site not in self.plan.sites:
            return f"{site} is excluded: it was admitted after the run began, and its plan does not name it"
        if description.backbone_digest != common:
            return (
                f"{site} is excluded: its backbone has digest {description.backbone_digest[:12]}, "
                f"the others' {common[:12]}; install the same weights file there"
            )
        if description.image != self.plan.image:
            return (
                f"{site} is excluded: its images were prepared with {description.image}, "
                f"the plan asks for {self.plan.image}; set dataset.image in site.yaml and prepare again"
            )
        if (most := max(split.n for split in description.patients.values())) > self.limits.max_patients:
            return (
                f"{site} is excluded: it claims {most} patients in one split, "
                f"more than {self.limits.max_patients} (max_patients)"
            )
        classes = set(self.plan.task.classes)
        if any(
            isinstance(s.classes, dict) and set(s.classes) != classes for s in description.patients.values()
        ):
            return f"{site} is excluded: it counts its patients in other classes than the plan's"
        return ""

    def _describe_again(self, site: str, *, deadline: float) -> bool:
        """Tell a restarted site the plan; it must come back with the data that it began with."""
        timeout = deadline - time.monotonic()
        if timeout <= 0:
            return False
        self.observer.note(f"{site} was restarted; the plan is sent again")
        began, pauses = time.monotonic(), 0
        found, _, pending = self._describe([site], timeout=timeout)
        while site in pending and pending[site].waits_for_room:
            if not self._await_room([site], pauses=pauses, began=began, deadline=deadline):
                break
            pauses += 1
            found, _, pending = self._describe([site], timeout=max(0.0, deadline - time.monotonic()))
        answers_of(Exchange(pending), SiteDescription, observer=self.observer)
        if site not in found:
            return False
        before, now = self.descriptions[site], found[site]
        same = {"versions": before.versions, "lacks_models": before.lacks_models}  # may differ
        if now.model_copy(update=same) != before:
            self.observer.note(
                f"{site} is excluded: it came back with different data or weights than it started with"
            )
            return False
        return True


def _what_for(answer: Answer) -> str:
    """What a site waits for before it decides; "" where it said yes or no."""
    if answer.waits_for_room:
        return _FULL
    waits = isinstance(answer.report, Refusal) and answer.report.pending
    return "has to approve the plan" if waits else ""


def _is_unprepared(answer: Answer | None) -> bool:
    return answer is not None and isinstance(answer.report, Unprepared)
