"""Who may take part in a run: told the plan, asked again while undecided, and judged by what they describe.

Nobody waits here for a single site: a site that is not ready says so and is asked again at its time. How long
that is worth waiting for is decided in `participants`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from stic_core.protocol.messages import (
    Describe,
    Failure,
    Preparing,
    Refusal,
    RunPlan,
    SiteDescription,
)
from stic_server.federation.sites import Answer, PartState, RunLimits, RunObserver, Sites, answers_of

FULL = "its disk is full"
TAKES_PART = "takes part"

LONGEST_PAUSE = 12
"""Times `ask_again_s`: each question is logged, and a model may travel with it."""

Why = Literal["approval", "preparing", "disk", "silent"]


@dataclass(frozen=True, slots=True)
class Undecided:
    """A site that may still take part.

    Args:
        why: what it waits for.
        words: the same for people.
        pauses: how often it was asked.
        next_at: when it is asked again, on the monotonic clock.
        moved_at: when it last got further with what it computes.
    """

    why: Why
    words: str
    pauses: int
    next_at: float
    moved_at: float


class Joining:
    """Takes sites into one run.

    Args:
        plan: what they are asked to compute.
        run_id: under which they know it.
        sites: how they are reached.
        limits: how long.
        observer: receives notes of who is excluded and why, and every site's part.
        known: what sites of this run described before; they must come back with the same data.
    """

    def __init__(
        self,
        plan: RunPlan,
        *,
        run_id: str,
        sites: Sites,
        limits: RunLimits,
        observer: RunObserver,
        known: Mapping[str, SiteDescription],
    ) -> None:
        self._plan, self._run_id, self._sites = plan, run_id, sites
        self._limits, self._observer = limits, observer
        self.known = dict(known)
        """By site, of all that ever took part."""
        self.ready: dict[str, SiteDescription] = {}
        """By site, of those that take part now."""
        self.undecided: dict[str, Undecided] = {}
        self.declined: dict[str, str] = {}
        """Why, by site; these are not asked again."""
        self._told: set[tuple[str, str]] = set()
        self._heard: set[tuple[str, str]] = set()
        """What undecided sites waited for, in words."""
        self._backbones = {site: description.backbone_digest for site, description in known.items()}
        """Digests by site, of all that described themselves."""
        self._outvoted: set[str] = set()
        """Sites that were declined for their backbone."""
        self._begun = bool(known)

    def begin(self) -> None:
        """The run begins: from now on its backbone is settled."""
        self._begun = True

    def waiting(self, *, among: Collection[str]) -> dict[str, Undecided]:
        """The undecided of some sites."""
        return {site: self.undecided[site] for site in sorted(self.undecided) if site in among}

    def ask_newcomers(self, present: Sequence[str]) -> set[str]:
        """Tell the plan to those that do not take part yet, and whose time it is.

        Returns:
            Who takes part from now on.
        """
        now = time.monotonic()
        due = [
            site
            for site in present
            if site not in self.ready
            and site not in self.declined
            and (site not in self.undecided or self.undecided[site].next_at <= now)
        ]
        joined = self.describe(due) if due else {}
        self.show()
        return set(joined)

    def describe(self, sites: Sequence[str]) -> dict[str, SiteDescription]:
        """Tell sites the plan, once; who accepts it and fits takes part.

        Returns:
            What those described.
        """
        question = Describe(run_id=self._run_id, plan=self._plan)
        exchange = self._sites.ask(
            dict.fromkeys(sites, question), weights=None, timeout=self._limits.describe_s
        )
        for site in sites:
            self._decide(site, exchange.answers.get(site))
        decided = {site: one for site, one in exchange.answers.items() if site not in self.undecided}
        found = answers_of(replace(exchange, answers=decided), SiteDescription, observer=self._observer)
        self.declined |= {site: _refusal(one) for site, one in decided.items() if site not in found}
        self.note_room(found)
        joined = self._fitting({site: description for site, (description, _) in found.items()})
        self.ready = dict(sorted({**self.ready, **joined}.items()))
        self.known |= joined
        return joined

    def suspend(self, site: str) -> None:
        """A site that takes part was restarted and is not ready: it is asked again as a newcomer is."""
        self.ready.pop(site, None)
        self.show()

    def show(self) -> None:
        """Tell the observer every site's part."""
        waits = {site: one.words for site, one in self.undecided.items()}
        parts = self.declined | waits | dict.fromkeys(self.ready, TAKES_PART)
        self._observer.parts(dict(sorted(parts.items())))
        states: dict[str, PartState] = {site: one.why for site, one in self.undecided.items()}
        states.update(dict.fromkeys(self.declined.keys() - states.keys(), "declined"))
        states.update(dict.fromkeys(self.ready, "takes-part"))
        self._observer.states(states)

    def note_full(self, sites: Collection[str]) -> None:
        """Say once that sites wait for room."""
        for site in sorted(sites):
            self._say(site, f"{site}: its disk is full; it is asked again until there is space", about=FULL)

    def note_room(self, sites: Collection[str]) -> None:
        """Say that sites no longer wait for room, of those that did."""
        for site in sorted(site for site in sites if (site, FULL) in self._told):
            self._told.discard((site, FULL))
            self._observer.note(f"{site} has disk space again")

    # ---- undecided ----------------------------------------------------------------------

    def _decide(self, site: str, answer: Answer | None) -> None:
        """Note an undecided answer, or that the site decided."""
        before, now = self.undecided.pop(site, None), time.monotonic()
        if (why := _why(answer)) is None:
            return
        words = self._words(why, answer)
        # What was said before is no progress: neither one and the same step, nor going back and forth.
        moved = (site, words) not in self._heard
        self._heard.add((site, words))
        pauses = before.pauses + 1 if before is not None and before.why == why else 0
        # A person is waited for evenly: nobody who approved should wonder why nothing happens.
        factor = 1 if why == "approval" else min(2**pauses, LONGEST_PAUSE)
        # One that says nothing costs the others `describe_s` each time.
        pause = (2 * self._limits.describe_s if why == "silent" else self._limits.ask_again_s) * factor
        self.undecided[site] = Undecided(
            why,
            words,
            pauses,
            now + pause,
            now if moved or before is None else before.moved_at,
        )
        self._note(site, why, answer)

    def _words(self, why: Why, answer: Answer | None) -> str:
        match why:
            case "approval":
                return f"has to approve plan {self._plan.digest[:12]}"
            case "preparing":
                report = answer.report if answer is not None else None
                assert isinstance(report, Preparing)
                return (
                    f"is computing features, {report.done} of {report.total}"
                    if report.total
                    else "is loading its data"
                )
            case "disk":
                return FULL
            case "silent":
                return "has not answered yet"
            case _:
                assert_never(why)

    def _note(self, site: str, why: Why, answer: Answer | None) -> None:
        """Say once what a site waits for."""
        if why == "disk":
            self.note_full([site])
            return
        self.note_room([site])
        if why == "approval" and answer is not None and isinstance(answer.report, Refusal):
            if (site, why) not in self._told:
                self._observer.event("approval-waiting", f"{site} has not approved the plan yet", site=site)
            self._say(site, f"{site}: {answer.report.reason}", about=why)
        elif why == "preparing":
            self._say(
                site,
                f"{site} is loading its data or computing features; it joins when it is ready",
                about=why,
            )

    def _say(self, site: str, text: str, *, about: str) -> None:
        if (site, about) not in self._told:
            self._told.add((site, about))
            self._observer.note(text)

    # ---- who fits -----------------------------------------------------------------------

    def _fitting(self, accepted: Mapping[str, SiteDescription]) -> dict[str, SiteDescription]:
        """Those whose data are their own and as before, and whose image preparation and backbone are the run's.

        The backbone is that of the sites that took part before; until the run begins it is the majority's.
        """
        common = self._common_backbone(accepted)
        fitting: dict[str, SiteDescription] = {}
        for site, description in sorted(accepted.items()):
            why = self._misfit(site, description, common=common) or self._twin(
                site, description, others={**self.known, **fitting}
            )
            if why:
                self.declined[site] = why.removeprefix(f"{site} is ")
                self._observer.note(why)
                self._observer.left_out(site, "contradiction")
            else:
                fitting[site] = description
        return fitting

    def _common_backbone(self, accepted: Mapping[str, SiteDescription]) -> str:
        """The digest that all need; whoever came first with another one must not keep out all that follow."""
        self._backbones |= {site: description.backbone_digest for site, description in accepted.items()}
        here = [one.backbone_digest for one in self.known.values()]
        if self._begun:
            return here[0]
        digests = sorted(self._backbones.values())
        common = max(sorted(set(digests)), key=lambda one: (digests.count(one), one in here), default="")
        for site in [site for site, one in self.ready.items() if one.backbone_digest != common]:
            self.declined[site] = (why := self._other_backbone(site, common=common)).removeprefix(
                f"{site} is "
            )
            self._observer.note(why)
            del self.ready[site], self.known[site]
        for site in [site for site in self.declined if self._backbones.get(site) == common]:
            if site in self._outvoted:
                self._outvoted.discard(site)
                del self.declined[site]  # it is asked again
        return common

    def _other_backbone(self, site: str, *, common: str) -> str:
        self._outvoted.add(site)
        return (
            f"{site} is excluded: its backbone has digest {self._backbones[site][:12]}, "
            f"the others' {common[:12]}; install the same weights file there"
        )

    def _misfit(self, site: str, description: SiteDescription, *, common: str) -> str:
        """Why a site cannot take part; "" where it can."""
        if self._plan.sites and site not in self._plan.sites:
            return f"{site} is excluded: it was admitted after the run began, and its plan does not name it"
        if site in self.known and not _same(self.known[site], description):
            return f"{site} is excluded: it came back with different data or weights than it started with"
        if description.backbone_digest != common:
            self._outvoted.add(site)
            return (
                f"{site} is excluded: its backbone has digest {description.backbone_digest[:12]}, "
                f"the others' {common[:12]}; install the same weights file there"
            )
        if description.image != self._plan.image:
            return (
                f"{site} is excluded: its images were prepared with {description.image}, "
                f"the plan asks for {self._plan.image}; set dataset.image in site.yaml and prepare again"
            )
        if (most := max(split.n for split in description.patients.values())) > self._limits.max_patients:
            return (
                f"{site} is excluded: it claims {most} patients in one split, "
                f"more than {self._limits.max_patients} (max_patients)"
            )
        classes = set(self._plan.task.classes)
        if any(
            isinstance(s.classes, dict) and set(s.classes) != classes for s in description.patients.values()
        ):
            return f"{site} is excluded: it counts its patients in other classes than the plan's"
        return ""

    def _twin(self, site: str, description: SiteDescription, *, others: Mapping[str, SiteDescription]) -> str:
        """Why a site's patients cannot be counted beside another's; "" where they can."""
        for other, theirs in others.items():
            if other == site:
                continue
            if description.fingerprint == theirs.fingerprint:
                return (
                    f"{site} is excluded: its dataset is that of {other}, to the last value "
                    f"(fingerprint {description.fingerprint[:12]}); each patient may be counted once"
                )
            held_out = description.patients["test"].n > 0 and theirs.patients["test"].n > 0
            if held_out and description.test_fingerprint == theirs.test_fingerprint:
                return (
                    f"{site} is excluded: its held-out patients are those of {other}, to the last value "
                    f"(fingerprint {description.test_fingerprint[:12]}); each patient may be counted once"
                )
        return ""


def _same(before: SiteDescription, after: SiteDescription) -> bool:
    """Whether a site came back with the data and the frozen weights that it began with; versions may differ."""
    names = ("fingerprint", "test_fingerprint", "image", "phantom", "backbone_digest")
    counts = [{split: one.n for split, one in about.patients.items()} for about in (before, after)]
    return counts[0] == counts[1] and all(getattr(before, name) == getattr(after, name) for name in names)


def _why(answer: Answer | None) -> Why | None:
    """What a site waits for before it decides; None where it said yes or no."""
    if answer is None:
        return "silent"
    if answer.waits_for_room:
        return "disk"
    if isinstance(answer.report, Preparing):
        return "preparing"
    if isinstance(answer.report, Refusal) and answer.report.pending:
        return "approval"
    return None


def _refusal(answer: Answer) -> str:
    """Why a site that decided does not take part."""
    report = answer.report
    if answer.fault:
        return "excluded: its answer cannot be read"
    if isinstance(report, Refusal):
        return f"refused: {report.reason}"
    if isinstance(report, Failure):
        return f"failed with {report.code}; its own log has the details"
    return f"excluded: it answered with {type(report).__name__}"
