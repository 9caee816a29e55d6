"""The sites over a Flower Grid: who is online, questions out, answers in, and sent again to whom was away."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.app.constants import DEFAULT_TTL
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from stic_core.errors import FederationError, ProtocolError
from stic_core.protocol.compression import WireArray
from stic_core.protocol.fields import MESSAGE_KEY, WEIGHTS_KEY
from stic_core.protocol.messages import Describe, Failure, Finish, Instruction, TrainLocal, TrainRound, encode
from stic_core.tensors.npy import read_npy
from stic_server.federation.sites import (
    Answer,
    Exchange,
    RunObserver,
    Traffic,
    read_answer,
    unreadable,
)

POLL_S = 0.05
LOOK_S = 1.0
"""Between looks at who is online, seconds."""

_KIND = re.compile(r"[A-Za-z]{1,64}")
_GONE_AFTER_LOOKS = 10

# Flower's ErrorCode: the message or its reply is gone, because the site restarted or went away.
_SITE_AWAY = frozenset({3, 4, 5})


@dataclass(slots=True)
class _Owed:
    """An answer that a site owes.

    Args:
        ids: of the messages that carry its question; a reply to any of them is the answer.
        at: when the last of them was sent, seconds since the epoch.
    """

    content: RecordDict
    message_type: str
    ttl: float
    ids: list[str] = field(default_factory=list)
    at: float = 0.0


class FlowerSites:
    """`sites.Sites` over a Flower Grid.

    Args:
        expected: admitted sites; once enough are online, these are waited for a little longer.
        grace_s: how much longer.
        observer: learns whom we are waiting for.
        admitted_now: whom the operator admits at the moment; None, and it stays as it was.
        look_s: between looks at who is online, while answers are owed.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        expected: Sequence[str],
        grace_s: float,
        observer: RunObserver,
        admitted_now: Callable[[], Collection[str]] | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        self._grid, self._expected, self._grace_s, self._observer = grid, set(expected), grace_s, observer
        self._admitted_now, self._revoked = admitted_now, set[str]()
        self._look_s = look_s
        self._last_seen: dict[str, float] = {}
        self._absent: set[str] = set()
        self._gone_since: dict[str, float] = {}
        self._told_gone: set[str] = set()
        self._site_of: dict[int, str] = {}
        """By Flower's node; a site that was restarted may have another."""

    def _online(self) -> dict[str, NodeInfo]:
        here = {node.name or f"node-{node.node_id}": node for node in self._grid.get_nodes()}
        for site, node in here.items():
            # Flower sets `online_until` at each sign of life, that many heartbeats ahead.
            self._last_seen[site] = node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval
        return here

    def _tell_gone_and_back(self, here: Collection[str]) -> None:
        """Whoever is notified learns of a site that was here and is gone for good; a restart takes seconds."""
        now = time.monotonic()
        for site in self._last_seen:
            if site in here:
                self._gone_since.pop(site, None)
                if site in self._told_gone:
                    self._told_gone.remove(site)
                    self._observer.event("site-back", f"{site} is back", site=site)
            elif (
                now - self._gone_since.setdefault(site, now) > _GONE_AFTER_LOOKS * self._look_s
                and site not in self._told_gone
            ):
                self._told_gone.add(site)
                self._observer.event("site-gone", f"{self._seen(site)} is not online", site=site)

    def _follow_admissions(self) -> None:
        """The operator may admit a site, or take its admission back, while a run goes on."""
        if self._admitted_now is None:
            return
        now = set(self._admitted_now())
        self._revoked = (self._revoked | self._expected) - now
        self._expected = now

    def _seen(self, site: str) -> str:
        """A site with the time since its last sign of life, where there was one."""
        last = self._last_seen.get(site)
        return site if last is None else f"{site} (last seen {max(0.0, time.time() - last):.0f} s ago)"

    def present(self) -> list[str]:
        """See `sites.Sites`."""
        return sorted(self._online())

    def wait_for(self, *, at_least: int, timeout: float, apart_from: Collection[str] = ()) -> list[str]:
        """See `sites.Sites`."""
        began = time.monotonic()
        enough_since: float | None = None
        self._follow_admissions()
        if not self._expected:
            self._observer.note("no site is admitted yet; admit one with stic-server admit SITE SITE.pub")
        while True:
            self._follow_admissions()
            online = self._online().keys()
            self._tell_gone_and_back(online)
            here = online - set(apart_from)
            waited = time.monotonic() - began
            missing = sorted(self._expected - here - set(apart_from))
            if len(here) < at_least:
                enough_since = None
                if waited > timeout:
                    raise FederationError(
                        "too few sites came online",
                        got=f"{len(here)} ({', '.join(sorted(here)) or 'none'}) in {timeout:g} s",
                        expected=f"at least {at_least}; missing: {', '.join(missing) or 'none admitted'}",
                    )
            else:
                enough_since = time.monotonic() if enough_since is None else enough_since
                if not missing or time.monotonic() - enough_since > self._grace_s:
                    return sorted(here)
            self._observer.waiting([self._seen(site) for site in missing], waited)
            time.sleep(0.2)

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: WireArray | None, timeout: float
    ) -> Exchange:
        """See `sites.Sites`; a question is sent again to a site that was away meanwhile."""
        began = time.monotonic()
        before = self._traffic()
        array = ArrayRecord({WEIGHTS_KEY: Array(weights)}) if weights is not None else None
        owed = self._first(questions, array, timeout=timeout)
        answers: dict[str, Answer] = {}
        looked = time.monotonic()
        while owed and time.monotonic() - began < timeout:
            self._take(owed, answers)
            if time.monotonic() - looked > self._look_s:
                looked = time.monotonic()
                self._send_again(owed, questions)
                self._observer.waiting([self._seen(site) for site in sorted(owed)], looked - began)
            if owed:
                time.sleep(POLL_S)
        for site, late in owed.items():
            # Its answer would be of no use to anybody, nor is its work once it is back.
            self._forget(late)
            self._observer.note(
                f"{self._seen(site)} did not answer within {timeout:g} s; continuing without it"
            )
        none = Traffic(0, 0)
        return Exchange(
            answers,
            {
                site: total - before.get(site, none)
                for site, total in self._traffic().items()
                if site in questions
            },
        )

    def _first(
        self, questions: Mapping[str, Instruction], array: ArrayRecord | None, *, timeout: float
    ) -> dict[str, _Owed]:
        self._follow_admissions()
        here = self._online()
        owed: dict[str, _Owed] = {}
        for site in sorted(questions):
            if site not in here:
                if site not in self._absent:  # said once, and not in every round
                    self._observer.note(
                        f"{site} is no longer admitted; continuing without it"
                        if site in self._revoked
                        else f"{self._seen(site)} is not online; continuing without it until it is back"
                    )
                self._absent.add(site)
                continue
            if site in self._absent:
                self._absent.remove(site)
                self._observer.note(f"{site} is back")
            instruction = questions[site]
            content = RecordDict({MESSAGE_KEY: ConfigRecord({MESSAGE_KEY: encode(instruction)})})
            if array is not None:
                content[WEIGHTS_KEY] = array
            owed[site] = _Owed(content, _message_type(instruction), max(DEFAULT_TTL, timeout))
            self._push(site, owed[site], here[site])
        return owed

    def _push(self, site: str, question: _Owed, node: NodeInfo) -> None:
        message = Message(question.content, node.node_id, question.message_type, ttl=question.ttl)
        self._site_of[node.node_id] = site
        # No id: the operator took the site's admission back a moment ago.
        question.ids += [message_id for message_id in self._grid.push_messages([message]) if message_id]
        question.at = time.time()

    def _take(self, owed: dict[str, _Owed], answers: dict[str, Answer]) -> None:
        """Move what came from `owed` to `answers`."""
        sites = {message_id: site for site, one in owed.items() for message_id in one.ids}
        for reply in self._grid.pull_messages(list(sites)):
            message_id = reply.metadata.reply_to_message_id
            site = sites[message_id]
            if site not in owed:
                continue  # both copies of a question were answered
            owed[site].ids.remove(message_id)
            # An error of this kind: the site was away, and a stock SuperLink takes no reply any more.
            if not (reply.has_error() and reply.error.code in _SITE_AWAY):
                self._forget(owed.pop(site))
                answers[site] = _answer(reply)

    def _send_again(self, owed: dict[str, _Owed], questions: Mapping[str, Instruction]) -> None:
        """Ask again whom a restart made forget, or may have: the first of the two answers counts."""
        self._follow_admissions()
        here = self._online()
        if not any(isinstance(question, Finish) for question in questions.values()):
            self._tell_gone_and_back(here)  # once a run is over, clients leave
        for site, question in list(owed.items()):
            if site in self._revoked:
                self._forget(owed.pop(site))
                self._absent.add(site)
                self._observer.note(f"{site} is no longer admitted; continuing without it")
            elif site in here and (not question.ids or _activated(here[site]) > question.at):
                self._observer.note(f"{site} is back; its request is sent again")
                self._push(site, question, here[site])
            elif site not in here and isinstance(questions[site], Finish):
                self._forget(owed.pop(site))  # it left, as a client does when a run is over

    def _forget(self, question: _Owed) -> None:
        """Withdraw what is still on its way; a stock Grid cannot."""
        forget = getattr(self._grid, "forget", None)
        if forget is not None:
            forget(question.ids)

    def _traffic(self) -> dict[str, Traffic]:
        """What messages held so far, by site; a stock Grid does not count."""
        down: Mapping[int, int] = getattr(self._grid, "bytes_down", {})
        up: Mapping[int, int] = getattr(self._grid, "bytes_up", {})
        traffic: dict[str, Traffic] = {}
        for node, site in self._site_of.items():
            one = Traffic(down.get(node, 0), up.get(node, 0))
            traffic[site] = traffic[site] + one if site in traffic else one
        return traffic


def _message_type(instruction: Instruction) -> str:
    match instruction:
        case Describe() | Finish():
            return MessageType.QUERY
        case TrainRound() | TrainLocal():
            return MessageType.TRAIN
        case _:
            return MessageType.EVALUATE


def _activated(node: NodeInfo) -> float:
    """When a site came online last, seconds since the epoch."""
    return dt.datetime.fromisoformat(node.last_activated_at).timestamp() if node.last_activated_at else 0.0


def _answer(reply: Message) -> Answer:
    """A reply as an answer; what breaks the protocol is that site's failure, and no other's."""
    if reply.has_error():
        kind = reply.error.reason or ""  # of the exception: our client sends nothing else
        return Answer(Failure(code=kind if _KIND.fullmatch(kind) else "ClientAppFailed"))
    try:
        text = str(reply.content.config_records[MESSAGE_KEY][MESSAGE_KEY])
        record = reply.content.array_records.get(WEIGHTS_KEY)
        weights = read_npy(record[WEIGHTS_KEY].data) if record is not None else None
    except ProtocolError as error:
        return unreadable(str(error))
    except (KeyError, ValueError, TypeError) as error:
        return unreadable(type(error).__name__)
    return read_answer(text, weights)
