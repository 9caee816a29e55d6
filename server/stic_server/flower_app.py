"""The coordinator's Flower ServerApp: a session's questions as Flower messages over any Grid.

The same object runs inside `stic-server start` and on a stock SuperLink. The run's
configuration names the federation's file under `federation`.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp

from stic_core import config
from stic_core.audit import AuditLog
from stic_core.errors import FederationError, ProtocolError
from stic_core.model import initial_module
from stic_core.model_files import read_model, warm_start
from stic_core.protocol import (
    MESSAGE_KEY,
    WEIGHTS_KEY,
    Describe,
    Failure,
    Finish,
    Instruction,
    RunPlan,
    TrainLocal,
    TrainRound,
    decode_report,
    encode,
)
from stic_core.tensors import FlatArray
from stic_core.weights import get_flat, trainable_specs
from stic_server.asking import Answer, AuditedSites, Exchange, Limits, Observer, Silent
from stic_server.run_folder import RunFolder
from stic_server.session import execute
from stic_server.sites import admitted

POLL_S = 0.05
_LOOK_S = 1.0  # between looks at who is online

# Flower's ErrorCode: the message or its reply is gone, because the site restarted or went away.
_SITE_AWAY = frozenset({3, 4, 5})


@dataclass(slots=True)
class Surroundings:
    """What the command line and the app have to tell each other; Flower calls the app with strings.

    Args:
        observer: set before the app runs.
        run: the folder of the run that the app did last.
    """

    observer: Observer = field(default_factory=Silent)
    run: RunFolder | None = None


surroundings = Surroundings()

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run, from the configuration to its evaluation."""
    path = Path(str(context.run_config["federation"]))
    surroundings.run = run_federation(grid, path, observer=surroundings.observer)


def run_federation(grid: Grid, path: Path, *, observer: Observer) -> RunFolder:
    """Run a federation over a Grid, or go on with the run that was interrupted.

    Args:
        path: of federation.yaml.

    Returns:
        The run's folder, with its evaluation.

    Raises:
        FederationError: too few sites, or too long a wait.
    """
    federation = config.load(path, config.FederationConfig)
    module = initial_module(
        federation.model,
        classes=len(federation.task.classes),
        seed=federation.seed,
        weights=federation.backbone_weights.get(federation.model.backbone),
    )
    plan = RunPlan.of(federation, trainable_specs(module))
    initial = get_flat(module)
    if federation.warm_start is not None:
        initial, fresh = warm_start(
            read_model(federation.warm_start), initial=initial, tensors=plan.tensors, model=plan.model
        )
        observer.note(f"warm start from {federation.warm_start}; fresh: {', '.join(fresh) or 'nothing'}")
    run = RunFolder.begin(federation, plan)
    expected = [site.name for site in admitted(path.resolve().parent / "sites")]
    sites = FlowerSites(grid, expected=expected, grace_s=federation.join_grace_s, observer=observer)
    limits = Limits(
        min_sites=federation.min_sites,
        join_timeout_s=federation.join_timeout_s,
        round_timeout_s=federation.round_timeout_s,
    )
    audited = AuditedSites(
        sites,
        AuditLog(path.resolve().parent / "audit.jsonl"),
        tensors=tuple(spec.name for spec in plan.tensors),
    )
    execute(plan, initial, run=run, sites=audited, limits=limits, observer=observer)
    return run


@dataclass(slots=True)
class _Sent:
    """A question that waits for its answer."""

    site: str
    content: RecordDict
    message_type: str
    at: float


class FlowerSites:
    """`asking.Sites` over a Flower Grid.

    Args:
        expected: admitted sites; once enough are online, these are waited for a little longer.
        grace_s: how much longer.
        observer: is told whom we wait for.
    """

    def __init__(self, grid: Grid, *, expected: Sequence[str], grace_s: float, observer: Observer) -> None:
        self._grid, self._expected, self._grace_s, self._observer = grid, set(expected), grace_s, observer
        self._last_seen: dict[str, float] = {}

    def _online(self) -> dict[str, NodeInfo]:
        here = {node.name or f"node-{node.node_id}": node for node in self._grid.get_nodes()}
        for site, node in here.items():
            # Flower sets `online_until` at each sign of life, that many heartbeats ahead.
            self._last_seen[site] = node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval
        return here

    def _seen(self, site: str) -> str:
        """A site with the time since its last sign of life, where there was one."""
        last = self._last_seen.get(site)
        return site if last is None else f"{site} (last seen {max(0.0, time.time() - last):.0f} s ago)"

    def wait_for(self, *, at_least: int, timeout: float) -> list[str]:
        """See `asking.Sites`."""
        began = time.monotonic()
        enough_since: float | None = None
        while True:
            here = self._online()
            waited = time.monotonic() - began
            missing = sorted(self._expected - here.keys())
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
        self, questions: Mapping[str, Instruction], *, weights: FlatArray | None, timeout: float
    ) -> Exchange:
        """See `asking.Sites`; a question is sent again to a site that was restarted meanwhile."""
        began = time.monotonic()
        down, up = self._bytes()
        array = ArrayRecord({WEIGHTS_KEY: Array(weights)}) if weights is not None else None
        waiting = self._first(questions, array)
        lost: dict[str, _Sent] = {}
        answers: dict[str, Answer] = {}
        looked = time.monotonic()
        while (waiting or lost) and time.monotonic() - began < timeout:
            for reply in self._grid.pull_messages(list(waiting)):
                sent = waiting.pop(reply.metadata.reply_to_message_id, None)
                if sent is None:
                    continue
                if reply.has_error() and reply.error.code in _SITE_AWAY:
                    # The site went away with the question; it may come back. Flower also drops the
                    # answer of a site that answered and then left, as one does when a run is over.
                    if not isinstance(questions[sent.site], Finish):
                        lost[sent.site] = sent
                else:
                    answers[sent.site] = _answer(reply)
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                self._send_again(waiting, lost)
                silent = sorted({sent.site for sent in waiting.values()} | lost.keys())
                self._observer.waiting([self._seen(site) for site in silent], time.monotonic() - began)
            if waiting or lost:
                time.sleep(POLL_S)
        for sent in [*waiting.values(), *lost.values()]:
            self._observer.note(f"{sent.site} did not answer within {timeout:g} s; it is left out here")
        after_down, after_up = self._bytes()
        return Exchange(answers, after_down - down, after_up - up)

    def _first(self, questions: Mapping[str, Instruction], array: ArrayRecord | None) -> dict[str, _Sent]:
        here = self._online()
        waiting: dict[str, _Sent] = {}
        for site in sorted(questions):
            if site not in here:
                self._observer.note(f"{site} is not online; it is left out here")
                continue
            instruction = questions[site]
            content = RecordDict({MESSAGE_KEY: ConfigRecord({MESSAGE_KEY: encode(instruction)})})
            if array is not None:
                content[WEIGHTS_KEY] = array
            sent = _Sent(site, content, _message_type(instruction), 0.0)
            waiting[self._push(sent, here[site])] = sent
        return waiting

    def _push(self, sent: _Sent, node: NodeInfo) -> str:
        message = Message(sent.content, node.node_id, sent.message_type)
        (message_id,) = self._grid.push_messages([message])
        sent.at = time.time()
        return message_id

    def _send_again(self, waiting: dict[str, _Sent], lost: dict[str, _Sent]) -> None:
        here = self._online()
        for message_id, sent in list(waiting.items()):
            node = here.get(sent.site)
            if node is not None and _activated(node) > sent.at:
                del waiting[message_id]
                self._observer.note(f"{sent.site} was restarted; its question is sent again")
                waiting[self._push(sent, node)] = sent
        for site, sent in list(lost.items()):
            if site in here:
                self._observer.note(f"{site} is back; its question is sent again")
                waiting[self._push(sent, here[site])] = lost.pop(site)

    def _bytes(self) -> tuple[int, int]:
        """What messages held so far; a stock Grid does not count."""
        return getattr(self._grid, "bytes_down", 0), getattr(self._grid, "bytes_up", 0)


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
        return Answer(Failure(code="ClientAppFailed"))
    try:
        report = decode_report(str(reply.content.config_records[MESSAGE_KEY][MESSAGE_KEY]))
        record = reply.content.array_records.get(WEIGHTS_KEY)
        weights = np.asarray(record[WEIGHTS_KEY].numpy()) if record is not None else None
    except (ProtocolError, KeyError, ValueError, TypeError):
        return Answer(Failure(code="ProtocolError"))
    return Answer(report, weights)
