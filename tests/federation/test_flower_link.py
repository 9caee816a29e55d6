"""The link between server and site, over TLS in one process: what becomes of questions, answers and sign-ons."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from stic_client.connection.waiting_times import Intervals
from stic_client.flower_link import FleetLink
from stic_core.errors import NoRoomError, NotAdmittedError, RefusedError
from stic_core.system.keys import load_private, make_key_pair
from stic_server.admission.certificates import make_certificates
from stic_server.admission.registry import admit
from stic_server.flower_link import FleetServer, Listen, LocalGrid
from support.federation_kit import Recorder, free_port
from support.waiting import PATIENCE_S, until


class Line:
    """A server with a run, and links of the one site that it admits."""

    def __init__(self, folder: Path) -> None:
        make_certificates(folder, names=["127.0.0.1"])
        admit(folder / "sites", name="center1", public_key=make_key_pair(folder / "site.key"))
        self.folder, self.port = folder, free_port()
        self.server = FleetServer(
            Listen("127.0.0.1", self.port, folder / "server.crt", folder / "server.key", folder / "ca.crt"),
            interval_scale=0.01,  # takes heartbeats of any interval
        )
        self.server.watch(folder / "sites")
        self.server.start()
        self._over = threading.Event()
        self._grids: list[LocalGrid] = []
        self._links: list[FleetLink] = []

        def work(grid: Grid) -> None:
            self._grids.append(grid)
            self._over.wait()

        self._run = threading.Thread(target=self.server.execute, args=(work,))
        self._run.start()
        while not self._grids:
            time.sleep(0.01)

    @property
    def grid(self) -> LocalGrid:
        """The server's end."""
        return self._grids[0]

    def link(
        self, *, state: str = "node.json", key: str = "site.key", intervals: Intervals | None = None
    ) -> FleetLink:
        """A client's end.

        Args:
            intervals: None is such that a site is never missed while a test runs.
            state: file of the node id; another file is a client that never was on this machine.
        """
        made = FleetLink(
            f"127.0.0.1:{self.port}",
            ca=self.folder / "ca.crt",
            key=load_private(self.folder / key),
            state=self.folder / state,
            observer=Recorder(),
            intervals=intervals or Intervals(heartbeat=1800, sign_on=0.05),
        )
        self._links.append(made)
        return made

    def ask(self, text: str) -> str:
        """Send a question; its id."""
        (node,) = self.grid.get_nodes()
        content = RecordDict({"question": ConfigRecord({"text": text})})
        (message_id,) = self.grid.push_messages([Message(content, node.node_id, "query")])
        return message_id

    def close(self) -> None:
        """End the run, and the server."""
        for link in self._links:
            link._client.close()
        self._over.set()
        self._run.join()
        self.server.stop()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """One, with the site signed on."""
    made = Line(tmp_path)
    yield made
    made.close()


def _text(message: Message | None) -> str:
    assert message is not None
    return str(message.content.config_records["question"]["text"])


def _answer(link: FleetLink, question: Message) -> None:
    link._send(Message(question.content, reply_to=question), seconds=0.0)


def test_a_question_whose_delivery_was_lost_is_given_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pulled, and the answer to the pull lost on the line: the next pull brings it; once confirmed, none does."""
    link = line.link()
    link._sign_on()
    line.ask("first")

    def lost(*_: object) -> bytes:
        raise ConnectionError("the line was cut")

    with monkeypatch.context() as cut:
        cut.setattr(link, "_pull", lost)
        with pytest.raises(ConnectionError):
            link._receive()
    question = link._receive()
    assert _text(question) == "first"
    assert link._receive() is None


def test_a_withdrawn_question_is_not_given_and_not_answered(line: Line) -> None:
    """A slow site skips what is over; its late answer is stored nowhere, and it gets the next question."""
    link = line.link()
    link._sign_on()
    state = line.grid._state
    late_id = line.ask("slow")
    late = link._receive()
    assert late is not None
    line.grid.forget([late_id, line.ask("never seen")])
    line.ask("now")
    _answer(link, late)
    assert state.message_res_store == {}
    assert line.grid.pull_messages([late_id]) == []
    now = link._receive()
    assert _text(now) == "now"
    assert len(state.object_store) == 0


def test_a_site_that_was_cut_off_may_still_answer(line: Line) -> None:
    """Offline for the server while it works, and back with the answer: it counts."""
    link = line.link()
    link._sign_on()
    message_id = line.ask("long work")
    question = link._receive()
    assert question is not None
    (node,) = line.grid._state.nodes.values()
    node.online_until = time.time() - 1
    assert line.grid.get_nodes() == []
    assert line.grid.pull_messages([message_id]) == []
    _answer(link, question)
    (reply,) = line.grid.pull_messages([message_id])
    assert _text(reply) == "long work"
    assert line.grid.bytes_up[node.node_id] > 0


def test_half_an_answer_holds_nobody_up(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that dies while it sends: the server's look for answers returns at once, and the rest may come."""
    link = line.link()
    link._sign_on()
    message_id = line.ask("first")
    question = link._receive()
    assert question is not None
    push = link._client.PushObject
    held: list[object] = []
    monkeypatch.setattr(link._client, "PushObject", held.append)
    _answer(link, question)
    assert line.grid.pull_messages([message_id]) == []
    for request in held:
        push(request)
    assert len(line.grid.pull_messages([message_id])) == 1


def test_a_client_that_was_killed_signs_its_node_off(line: Line) -> None:
    """The id that it left behind is enough: the next client is online at once."""
    line.link()._sign_on()
    again = line.link()
    again._sign_on()
    assert len(line.grid.get_nodes()) == 1
    assert again._observer.notes == []


def test_a_client_that_left_no_id_waits_until_the_server_misses_it(line: Line) -> None:
    """Killed between its sign-on and the note of it: said, waited for, and online."""
    line.link(state="lost.json")._sign_on()
    (node,) = line.grid._state.nodes.values()
    link = line.link()
    waiting = threading.Thread(target=link._sign_on)
    waiting.start()
    until(
        lambda: any("still lists this site as online" in note for note in link._observer.notes),
        what="it says so",
    )
    assert link._node is None
    node.online_until = time.time() - 1
    waiting.join(PATIENCE_S)
    assert link._node is not None


def test_two_clients_of_one_site(line: Line) -> None:
    """The second is told so, after the time in which a dead one would have been missed."""
    line.link(state="elsewhere.json")._sign_on()
    with pytest.raises(RefusedError, match=r"another client of this site is online\. Stop"):
        line.link(intervals=Intervals(sign_on=0.1, missed=0.3))._sign_on()


def test_a_client_that_runs_from_a_copy_is_not_served(line: Line) -> None:
    """Folder and key are copied while the first client runs: the copy is told so, signs nobody off, and ends with 3."""
    first = line.link()
    first._sign_on()
    (line.folder / "copy").mkdir()
    shutil.copy(line.folder / "node.json", line.folder / "copy" / "node.json")
    second = line.link(state="copy/node.json", intervals=Intervals(heartbeat=1800, sign_on=0.1, missed=0.3))
    with pytest.raises(RefusedError, match="another client of this site is online") as refused:
        second._sign_on()
    assert refused.value.exit_code == 3
    message_id = line.ask("for the first")
    question = first._receive()
    assert question is not None
    _answer(first, question)
    assert len(line.grid.pull_messages([message_id])) == 1


def test_the_client_whose_place_was_taken_ends(line: Line) -> None:
    """Missed by the server while a copy of its folder signed on: the one that comes back is refused, the other goes on."""
    first = line.link()
    first._sign_on()
    (node,) = line.grid._state.nodes.values()
    node.online_until = time.time() - 1
    second = line.link(state="elsewhere.json")
    second._sign_on()
    with pytest.raises(RefusedError, match="has taken this one's place"):
        first._receive()
    assert not first.deactivate(node.node_id)
    assert len(line.grid.get_nodes()) == 1
    line.ask("for the second")
    assert _text(second._receive()) == "for the second"


def test_a_stranger_is_told_whom_to_ask(line: Line) -> None:
    """A key that nobody admitted is not mistaken for a twin."""
    make_key_pair(line.folder / "stranger.key")
    with pytest.raises(NotAdmittedError, match="stic-server admit"):
        line.link(key="stranger.key")._sign_on()


def test_a_site_without_room_for_its_log_takes_in_nothing(line: Line) -> None:
    """It comes online once there is room; a question that comes when there is none stays at the server."""
    link, room, asked = line.link(), threading.Event(), list[str]()
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        asked.append(_text(message))
        if len(asked) == 2:
            raise NoRoomError("not even for this answer")  # asked again, and not answered with an error
        return Message(message.content, reply_to=message)

    looks: list[bool] = []

    def ready() -> bool:
        looks.append(room.is_set())
        return looks[-1]

    def looks_again(times: int) -> None:
        """Wait until the site has looked so often whether there is room, beginning now."""
        so_far = len(looks)
        until(lambda: len(looks) >= so_far + times, what="it looks whether there is room")

    served = threading.Thread(
        target=lambda: link.serve(app, node_config={}, until=lambda: len(asked) == 3, ready=ready)
    )
    served.start()
    try:
        until(lambda: link._observer.notes, what="it tries to connect")
        assert line.grid.get_nodes() == []
        room.set()
        until(line.grid.get_nodes, what="it comes online")
        first = line.ask("first")
        until(lambda: line.grid.pull_messages([first]), what="it answers")
        room.clear()
        looks_again(2)  # the first may have begun before
        second = line.ask("second")
        looks_again(5)
        assert asked == ["first"]
    finally:
        room.set()
        served.join(PATIENCE_S)
    (reply,) = line.grid.pull_messages([second])
    assert _text(reply) == "second"
    assert asked == ["first", "second", "second"]
