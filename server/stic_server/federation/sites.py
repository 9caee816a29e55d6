"""The seam between a run and its sites: sites are asked, and they answer, however they are reached.

The Flower link implements `Sites` for hospitals; a test can implement it with participants
in its own process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args

from stic_core.errors import NoRoomError, ProtocolError, SiteReportError
from stic_core.protocol.audit_log import AuditLog, Direction, Entry, entry_of
from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import Failure, Instruction, Refusal, Report, decode_report
from stic_core.system.observer import Observer, Relay


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from one site.

    Args:
        fault: why what came cannot be read, where it cannot; the report is then a failure, and ours.
    """

    report: Report
    weights: WireArray | None = None
    fault: str = ""

    @property
    def waits_for_room(self) -> bool:
        """The site's disk is full: it answers as it would have once it is asked again and has room."""
        return isinstance(self.report, Failure) and self.report.code == NoRoomError.__name__


def unreadable(fault: str) -> Answer:
    """Instead of an answer that breaks the protocol: that site's failure, and no other's."""
    return Answer(Failure(code="ProtocolError"), fault=fault)


def read_answer(text: str, weights: WireArray | None) -> Answer:
    """What a site sent, checked; never raises for what a site could send.

    Args:
        text: JSON.
        weights: that came along.
    """
    try:
        return Answer(decode_report(text), weights)
    except ProtocolError as error:
        return unreadable(str(error))


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of messages to a site and from it."""

    down: int
    up: int

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.down + other.down, self.up + other.up)

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(self.down - other.down, self.up - other.up)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question to several sites.

    Args:
        answers: by site, of those that answered in time.
        traffic: what the messages held, by site.
    """

    answers: Mapping[str, Answer]
    traffic: Mapping[str, Traffic] = field(default_factory=dict)

    @property
    def bytes_down(self) -> int:
        """To all sites together."""
        return sum(one.down for one in self.traffic.values())

    @property
    def bytes_up(self) -> int:
        """From all sites together."""
        return sum(one.up for one in self.traffic.values())

    def followed_by(self, second: Exchange) -> Exchange:
        """Both as one: later answers count, bytes add up."""
        sites = sorted({*self.traffic, *second.traffic})
        none = Traffic(0, 0)
        return Exchange(
            {**self.answers, **second.answers},
            {site: self.traffic.get(site, none) + second.traffic.get(site, none) for site in sites},
        )


class Sites(Protocol):
    """The sites of a federation, however they are reached."""

    def present(self) -> list[str]:
        """Those that are online now."""
        ...

    def wait_for(self, *, at_least: int, timeout: float, apart_from: Collection[str] = ()) -> list[str]:
        """Wait until enough sites are online, for all admitted ones if they come in time.

        Args:
            apart_from: sites that do not count, since they said no.

        Raises:
            FederationError: too few came.
        """
        ...

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: WireArray | None, timeout: float
    ) -> Exchange:
        """Ask each site its question, the same weights with each, and wait until the timeout.

        Raises:
            ProtocolError: an answer that is none of the protocol's.
        """
        ...


class AuditedSites:
    """Sites whose every question and answer goes into the audit log.

    Args:
        sites: how they are reached.
        log: where it goes.
        tensors: names of what a run's weights hold, given its id.
    """

    def __init__(self, sites: Sites, log: AuditLog, *, tensors: Callable[[str], tuple[str, ...]]) -> None:
        self._sites, self._log, self._tensors = sites, log, tensors

    def present(self) -> list[str]:
        """See `Sites`."""
        return self._sites.present()

    def wait_for(self, *, at_least: int, timeout: float, apart_from: Collection[str] = ()) -> list[str]:
        """See `Sites`."""
        return self._sites.wait_for(at_least=at_least, timeout=timeout, apart_from=apart_from)

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: WireArray | None, timeout: float
    ) -> Exchange:
        """See `Sites`."""
        self._log.append(
            *(
                self._entry("out", site, question, weights, question=question, decision="sent")
                for site, question in sorted(questions.items())
            )
        )
        exchange = self._sites.ask(questions, weights=weights, timeout=timeout)
        self._log.append(
            *(
                self._entry(
                    "in",
                    site,
                    answer.report,
                    answer.weights,
                    question=questions[site],
                    decision="unreadable"
                    if answer.fault
                    else "refused"
                    if isinstance(answer.report, Refusal)
                    else "received",
                )
                for site, answer in sorted(exchange.answers.items())
            )
        )
        return exchange

    def _entry(
        self,
        direction: Direction,
        site: str,
        message: Instruction | Report,
        weights: WireArray | None,
        *,
        question: Instruction,
        decision: str,
    ) -> Entry:
        return entry_of(
            direction,
            site,
            message,
            weights,
            run=question.run_id,
            round_number=getattr(question, "round", 0),
            tensors=self._tensors(question.run_id) if weights is not None else (),
            decision=decision,
        )


PartState = Literal["takes-part", "approval", "preparing", "disk", "silent", "declined"]
"""What a site has to do with a run: it takes part, waits for one of four things, or does not take part."""

PART_STATES: tuple[PartState, ...] = get_args(PartState)

LeftOut = Literal["refusal", "failure", "unreadable", "disk", "unexpected", "contradiction", "update"]
"""Why an answer is not used: the site refused or failed, its disk is full, what it sent cannot be read, is of
another kind or contradicts what it was asked or described, or its update was refused before averaging."""

LEFT_OUT: tuple[LeftOut, ...] = get_args(LeftOut)


class RunObserver(Observer):
    """Receives a run's progress events. This one shows nothing."""

    def waiting(self, sites: Sequence[str], seconds: float) -> None:
        """Whom we wait for, and how long so far."""

    def parts(self, parts: Mapping[str, str]) -> None:
        """What each site that is or was online has to do with the run, in words, such as `takes part`."""

    def states(self, states: Mapping[str, PartState]) -> None:
        """The same in one word each."""

    def left_out(self, site: str, kind: LeftOut) -> None:
        """A site's answer was not used; a line says why."""

    def round_begins(self, number: int, *, rounds: int) -> None:
        """The sites are asked to train the round."""

    def round_done(self, row: Mapping[str, Any], *, rounds: int) -> None:
        """A round with its scores, as `rounds.jsonl` has it."""


class RunRelay(Relay, RunObserver):
    """Passes on every event of a run; a subclass looks at some on the way.

    Args:
        observer: receives them.
    """

    def __init__(self, observer: RunObserver) -> None:
        super().__init__(observer)
        self._run_observer = observer

    def waiting(self, sites: Sequence[str], seconds: float) -> None:
        """See `RunObserver`."""
        self._run_observer.waiting(sites, seconds)

    def parts(self, parts: Mapping[str, str]) -> None:
        """See `RunObserver`."""
        self._run_observer.parts(parts)

    def states(self, states: Mapping[str, PartState]) -> None:
        """See `RunObserver`."""
        self._run_observer.states(states)

    def left_out(self, site: str, kind: LeftOut) -> None:
        """See `RunObserver`."""
        self._run_observer.left_out(site, kind)

    def round_begins(self, number: int, *, rounds: int) -> None:
        """See `RunObserver`."""
        self._run_observer.round_begins(number, rounds=rounds)

    def round_done(self, row: Mapping[str, Any], *, rounds: int) -> None:
        """See `RunObserver`."""
        self._run_observer.round_done(row, rounds=rounds)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """How few sites, and how long.

    Args:
        min_sites: fewer usable answers than this and the run cannot go on.
        join_timeout_s, round_timeout_s: seconds.
        grace_s: how long to wait for sites that are not ready, once enough others are.
        describe_s: for an answer to the plan: a site that is not ready says so at once, one that says nothing
            is asked again later.
        ask_again_s: between questions to a site whose operator has to approve the plan, and before the second
            question to one that is not ready for another reason.
        finish_room_s: for which a run that is over waits for sites whose disk is full to take its model.
        max_patients: a site that claims more patients in a split is excluded.
        max_update_ratio: how many times the others' norm a site's update may be; None does not look.
    """

    min_sites: int
    join_timeout_s: float
    round_timeout_s: float
    grace_s: float = 60.0
    describe_s: float = 30.0
    ask_again_s: float = 5.0
    finish_room_s: float = 120.0
    max_patients: int = 100_000
    max_update_ratio: float | None = 100.0


ReportT = TypeVar("ReportT")


def leave_out(error: SiteReportError, *, observer: RunObserver, kind: LeftOut = "contradiction") -> None:
    """Say why a site's answer is not used."""
    observer.note(str(error))
    observer.left_out(error.site, kind)


def answers_of(
    exchange: Exchange,
    kind: type[ReportT],
    *,
    observer: RunObserver,
    check: Callable[[str, ReportT], None] | None = None,
) -> dict[str, tuple[ReportT, WireArray | None]]:
    """The answers of one kind; a refusal, a failure or another kind is noted and left out.

    Args:
        check: of a site's report; where it raises a SiteReportError, that is noted and the answer left out.
    """
    out: dict[str, tuple[ReportT, WireArray | None]] = {}
    for site, answer in sorted(exchange.answers.items()):
        report = answer.report
        why: LeftOut
        if isinstance(report, kind):
            try:
                if check is not None:
                    check(site, report)
            except SiteReportError as error:
                leave_out(error, observer=observer)
            else:
                out[site] = (report, answer.weights)
            continue
        if answer.fault:
            observer.note(f"{site}: its answer cannot be read ({answer.fault})")
            why = "unreadable"
        elif isinstance(report, Refusal):
            observer.note(f"{site} refused: {report.reason}")
            why = "refusal"
        elif answer.waits_for_room:
            observer.note(f"{site}: its disk is still full; continuing without it")
            why = "disk"
        elif isinstance(report, Failure):
            observer.note(f"{site} failed with {report.code}; its own log has the details")
            why = "failure"
        else:
            observer.note(f"{site} answered with {type(report).__name__} instead of {kind.__name__}")
            why = "unexpected"
        observer.left_out(site, why)
    return out
