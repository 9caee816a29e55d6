"""The seam between a run and its sites: sites are asked, and they answer, however they are reached.

The Flower link implements `Sites` for hospitals; a test can implement it with participants
in its own process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from stic_core.audit import AuditLog, Direction, entry_of
from stic_core.protocol import Failure, Instruction, Refusal, Report
from stic_core.tensors import FlatArray


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from one site."""

    report: Report
    weights: FlatArray | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question to several sites.

    Args:
        answers: by site, of those that answered in time.
        bytes_down, bytes_up: what the messages held, all sites together.
    """

    answers: Mapping[str, Answer]
    bytes_down: int
    bytes_up: int


class Sites(Protocol):
    """The sites of a federation, however they are reached."""

    def wait_for(self, *, at_least: int, timeout: float) -> list[str]:
        """Wait until enough sites are online, for all admitted ones if they come in time.

        Raises:
            FederationError: too few came.
        """
        ...

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: FlatArray | None, timeout: float
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
        tensors: names of what weights hold.
    """

    def __init__(self, sites: Sites, log: AuditLog, *, tensors: tuple[str, ...]) -> None:
        self._sites, self._log, self._tensors = sites, log, tensors

    def wait_for(self, *, at_least: int, timeout: float) -> list[str]:
        """See `Sites`."""
        return self._sites.wait_for(at_least=at_least, timeout=timeout)

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: FlatArray | None, timeout: float
    ) -> Exchange:
        """See `Sites`."""
        for site, question in sorted(questions.items()):
            self._append("out", site, question, weights, question=question, decision="sent")
        exchange = self._sites.ask(questions, weights=weights, timeout=timeout)
        for site, answer in sorted(exchange.answers.items()):
            decision = "refused" if isinstance(answer.report, Refusal) else "received"
            self._append(
                "in", site, answer.report, answer.weights, question=questions[site], decision=decision
            )
        return exchange

    def _append(
        self,
        direction: Direction,
        site: str,
        message: Instruction | Report,
        weights: FlatArray | None,
        *,
        question: Instruction,
        decision: str,
    ) -> None:
        self._log.append(
            entry_of(
                direction,
                site,
                message,
                weights,
                run=question.run_id,
                round_number=getattr(question, "round", 0),
                tensors=self._tensors if weights is not None else (),
                decision=decision,
            )
        )


class Observer(Protocol):
    """Is told what goes on; shows it or not."""

    def note(self, text: str) -> None:
        """Something that is worth a line."""
        ...

    def stage(self, text: str) -> None:
        """What is being done from now on."""
        ...

    def waiting(self, sites: Sequence[str], seconds: float) -> None:
        """Whom we wait for, and how long so far."""
        ...

    def round_done(self, row: Mapping[str, Any], *, rounds: int) -> None:
        """A round with its scores, as `rounds.jsonl` has it."""
        ...


class Silent:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def waiting(self, sites: Sequence[str], seconds: float) -> None:
        """Nothing."""

    def round_done(self, row: Mapping[str, Any], *, rounds: int) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How few sites, and how long.

    Args:
        min_sites: fewer usable answers than this and the run cannot go on.
        join_timeout_s, round_timeout_s: seconds.
    """

    min_sites: int
    join_timeout_s: float
    round_timeout_s: float


ReportT = TypeVar("ReportT")


def answers_of(
    exchange: Exchange, kind: type[ReportT], *, observer: Observer
) -> dict[str, tuple[ReportT, FlatArray | None]]:
    """The answers of one kind; a refusal, a failure or another kind is noted and left out."""
    out: dict[str, tuple[ReportT, FlatArray | None]] = {}
    for site, answer in sorted(exchange.answers.items()):
        report = answer.report
        if isinstance(report, kind):
            out[site] = (report, answer.weights)
        elif isinstance(report, Refusal):
            observer.note(f"{site} refused: {report.reason}")
        elif isinstance(report, Failure):
            observer.note(f"{site} failed with {report.code}; its own log says more")
        else:
            observer.note(f"{site} answered with {type(report).__name__} instead of {kind.__name__}")
    return out
