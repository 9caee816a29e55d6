"""An admitted site that is malicious, and requests that somebody captured: the others are not harmed."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import add_header_to_object_body, get_object_tree

from stic_client.flower_link import FleetLink
from stic_core.errors import ProtocolError
from stic_core.protocol.fields import MESSAGE_KEY, WEIGHTS_KEY
from stic_core.protocol.messages import Acknowledged, Failure, Finish, encode
from stic_core.system.keys import load_private, make_key_pair
from stic_server import flower_sites
from stic_server.admission.certificates import make_certificates
from stic_server.admission.registry import admit
from stic_server.federation.sites import Exchange
from stic_server.flower_link import FleetServer, Listen, LocalGrid
from stic_server.flower_sites import FlowerSites
from stic_server.reply_store import ReplyStore
from support.federation_kit import Recorder, free_port
from support.waiting import PATIENCE_S

Send = Callable[[FleetLink, Message], None]


def _content(text: str = encode(Acknowledged()), **records: Any) -> RecordDict:
    return RecordDict({MESSAGE_KEY: ConfigRecord({MESSAGE_KEY: text}), **records})


class _Evil(FleetLink):
    """A link whose site sends what it likes; the rest of the protocol is the product's."""

    do: Send

    def _send(self, reply: Message, *, seconds: float) -> None:
        self.do(self, reply)

    def announce(self, reply: Message, *, tree: ObjectTree | None = None, src: int | None = None) -> Any:
        """Push a reply's head, and whatever tree."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        head = message_to_proto(remove_content_from_message(reply))
        if src is not None:
            head.metadata.src_node_id = src
        if tree is not None:
            head.metadata.message_id = tree.object_id
        return self._call(
            self._client.PushMessages,
            PushMessagesRequest(
                node=self._signed_on(),
                messages_list=[head],
                message_object_trees=[tree or get_object_tree(reply)],
            ),
        )

    def push(self, name: str, content: bytes, *, run: int, session: str) -> None:
        """Push one object."""
        self._call(
            self._client.PushObject,
            PushObjectRequest(
                node=self._signed_on(), run_id=run, object_id=name, object_content=content, session_id=session
            ),
        )

    def reply_with(self, reply: Message, content: RecordDict) -> None:
        """An honest push of another content."""
        FleetLink._send(self, Message(content, reply_to=_question_of(reply)), seconds=0.1)


def _question_of(reply: Message) -> Message:
    """What a reply needs to know of its question."""
    metadata = reply.metadata
    question = Message(RecordDict(), metadata.src_node_id, metadata.message_type)
    values = question.metadata.__dict__
    values["_run_id"], values["_message_id"] = metadata.run_id, metadata.reply_to_message_id
    values["_src_node_id"], values["_dst_node_id"] = metadata.dst_node_id, metadata.src_node_id
    values["_created_at"], values["_ttl"] = metadata.created_at - 1, 3600.0
    return question


@dataclass
class Federation:
    """A server in this process, and two links in threads: one honest, one not."""

    folder: Path
    port: int = field(default_factory=free_port)
    notes: list[str] = field(default_factory=list)

    def ask(self, do: Send, *, timeout: float = PATIENCE_S) -> tuple[Exchange, list[str]]:
        """Ask both sites one question; what came, and what was noted."""
        make_certificates(self.folder, names=["127.0.0.1"])
        for name in ("evil", "honest"):
            public = make_key_pair(self.folder / f"{name}.key")
            admit(self.folder / "sites", name=name, public_key=public)
        crt = self.folder / "server.crt"
        listen = Listen("127.0.0.1", self.port, crt, crt.with_suffix(".key"), self.folder / "ca.crt")
        server = FleetServer(listen, note=self.notes.append)
        server.watch(self.folder / "sites")
        server.start()
        over = threading.Event()
        links = [self._serve(_Evil, "evil", over, do), self._serve(FleetLink, "honest", over, None)]
        recorder = Recorder()

        def work(grid: Grid) -> Exchange:
            sites = FlowerSites(grid, expected=["evil", "honest"], grace_s=PATIENCE_S, observer=recorder)
            sites.wait_for(at_least=2, timeout=PATIENCE_S)
            question = Finish(run_id="r", status="complete")
            return sites.ask({"evil": question, "honest": question}, weights=None, timeout=timeout)

        try:
            exchange = server.execute(work)
        finally:
            over.set()
            for thread, link in links:
                thread.join(PATIENCE_S)
                link._client._client.close()
            server.stop()
        return exchange, recorder.notes

    def _serve(
        self, kind: type[FleetLink], name: str, over: threading.Event, do: Send | None
    ) -> tuple[threading.Thread, FleetLink]:
        app = ClientApp()

        @app.query()
        def query(message: Message, context: Context) -> Message:
            return Message(_content(), reply_to=message)

        link = kind(
            f"127.0.0.1:{self.port}",
            ca=self.folder / "ca.crt",
            key=load_private(self.folder / f"{name}.key"),
            state=self.folder / f"{name}.json",
            observer=Recorder(),
        )
        if isinstance(link, _Evil):
            link.do = do  # pyright: ignore[reportAttributeAccessIssue]
        thread = threading.Thread(
            target=link.serve, args=(app,), kwargs={"node_config": {}, "until": over.is_set}, daemon=True
        )
        thread.start()
        return thread, link


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Not started yet: each test has an evil of its own."""
    return Federation(tmp_path)


def _garbage(kind: str, body: bytes) -> tuple[str, bytes]:
    """An object that says of itself what it is not."""
    content = add_header_to_object_body(body, type(kind, (), {"children": None})())
    return hashlib.sha256(content).hexdigest(), content


def _unreadable(link: _Evil, reply: Message, *, kind: str) -> None:
    name, content = _garbage(kind, b"\xff" * 50)
    pushed = link.announce(reply, tree=ObjectTree(object_id=name))
    link.push(name, content, run=reply.metadata.run_id, session=pushed.session_id)


def _another_inside(link: _Evil, reply: Message) -> None:
    """The announced head is the site's own, the content says that another site sent it."""
    reply.metadata.__dict__["_src_node_id"] += 1
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with_tree = get_object_tree(reply)
    contents = {with_tree.object_id: reply.deflate()} | {
        name: part.deflate() for name, part in _nested(reply).items()
    }
    head = link._signed_on().node_id
    pushed = link.announce(reply, tree=with_tree, src=head)
    for name in pushed.objects_to_push:
        link.push(name, contents[name], run=reply.metadata.run_id, session=pushed.session_id)


def _nested(reply: Message) -> dict[str, Any]:
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    return get_all_nested_objects(reply)


def _weights(link: _Evil, reply: Message, array: Array) -> None:
    link.reply_with(reply, _content(**{WEIGHTS_KEY: ArrayRecord({WEIGHTS_KEY: array})}))


def _huge() -> Array:
    array = Array(np.zeros(2, np.float32))
    array.data = array.data.replace(b"(2,)", b"(90000000000,)").replace(b"          \n", b"\n")
    return array


def _pickled() -> Array:
    array = Array(np.zeros(2, np.float32))
    array.data = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
    return array


UNREADABLE: dict[str, Send] = {
    "a message of garbage": lambda link, reply: _unreadable(link, reply, kind="Message"),
    "an object of another kind": lambda link, reply: _unreadable(link, reply, kind="ConfigRecord"),
    "a message that says another sent it": _another_inside,
    "no message of ours": lambda link, reply: link.reply_with(reply, RecordDict()),
    "no JSON": lambda link, reply: link.reply_with(reply, _content("{")),
    "another version": lambda link, reply: link.reply_with(
        reply, _content('{"kind": "acknowledged", "version": 99}')
    ),
    "a pickle for weights": lambda link, reply: _weights(link, reply, _pickled()),
    "weights that claim 360 GB": lambda link, reply: _weights(link, reply, _huge()),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_answer_that_cannot_be_read_is_that_sites_failure(federation: Federation, case: str) -> None:
    """It is named as failed, at once; the honest site's answer is there, and nothing ends the run."""
    exchange, notes = federation.ask(UNREADABLE[case])
    assert isinstance(exchange.answers["evil"].report, Failure), notes
    assert isinstance(exchange.answers["honest"].report, Acknowledged)
    assert not any("did not answer" in note for note in notes)


def _in_anothers_name(link: _Evil, reply: Message) -> None:
    link.announce(reply, src=link._signed_on().node_id + 1)


def _never_whole(link: _Evil, reply: Message) -> None:
    link.announce(reply)


def _leaves_rubbish(link: _Evil, reply: Message) -> None:
    """Names without end under an honest announcement, chains over several requests, and content that nobody refers to."""
    run, refused = reply.metadata.run_id, 0
    tree = get_object_tree(reply)
    pushed = link.announce(reply)
    session = pushed.session_id
    before = ObjectTree(object_id=_digest(0))
    for number in range(1, 30):
        chain = ObjectTree(object_id=_digest(number), children=[before])
        before = ObjectTree(object_id=chain.object_id)
        more = [ObjectTree(object_id=_digest(1000 * number + part)) for part in range(500)]
        for root, children in ((tree.object_id, [*more, chain]), (chain.object_id, [chain, *more])):
            with contextlib.suppress(ProtocolError):
                link.announce(reply, tree=ObjectTree(object_id=root, children=children))
                refused -= 1
            refused += 1
        name, content = _garbage("ConfigRecord", bytes([number]) * 100_000)
        link.push(name, content, run=run, session=session)
        link.push(name, content, run=run, session="")
    assert refused >= 29  # those under the honest root; of the others Flower stores none and says nothing
    FleetLink._send(link, reply, seconds=0.1)


def _digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_what_nobody_asked_for_is_not_kept(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """After thousands of names and megabytes the site holds what its one honest reply holds, and then nothing."""
    most, servers = [(0, 0)], []
    put = ReplyStore.put

    def putting(store: ReplyStore, node: int, *arguments: Any, **options: Any) -> bool:
        stored = put(store, node, *arguments, **options)
        most[0] = max(most[0], store.held(node))
        return stored

    execute = FleetServer.execute

    def executed(server: FleetServer, work: Callable[[Grid], Exchange]) -> Exchange:
        servers.append(server)
        return execute(server, work)

    monkeypatch.setattr(ReplyStore, "put", putting)
    monkeypatch.setattr(FleetServer, "execute", executed)
    exchange, _ = federation.ask(_leaves_rubbish)
    assert isinstance(exchange.answers["evil"].report, Acknowledged)
    names, size = most[0]
    assert 0 < names < 10
    assert size < 10_000
    (server,) = servers
    assert server._replies._replies == {}
    assert len(server._state.object_store) == 0
    assert server._state._object_push_sessions == {}
    assert server._state.message_res_store == {}


@pytest.mark.parametrize("do", [_in_anothers_name, _never_whole], ids=["in another's name", "never whole"])
def test_a_site_that_holds_its_answer_back_delays_nobody(
    federation: Federation, do: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left out when its time is over; the honest answer counts."""
    done, pull, late = threading.Event(), LocalGrid.pull_messages, False

    def doing(link: _Evil, reply: Message) -> None:
        try:
            do(link, reply)
        finally:
            done.set()

    def pulled(grid: LocalGrid, ids: Iterable[str]) -> list[Message]:
        """Once the evil was done and the honest answer is here, time is over."""
        nonlocal late
        replies = pull(grid, ids)
        if replies:
            assert done.wait(PATIENCE_S)
            late = True
        return replies

    class Clock:
        """`time`, with what the test makes of it."""

        time, sleep = time.time, time.sleep

        @staticmethod
        def monotonic() -> float:
            """Real, until time is over."""
            return time.monotonic() + 2 * PATIENCE_S * late

    monkeypatch.setattr(LocalGrid, "pull_messages", pulled)
    monkeypatch.setattr(flower_sites, "time", Clock)
    exchange, notes = federation.ask(doing)
    assert list(exchange.answers) == ["honest"]
    assert isinstance(exchange.answers["honest"].report, Acknowledged)
    assert any("evil" in note and "did not answer" in note for note in notes)
