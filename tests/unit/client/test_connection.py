"""The link's pieces that know no transport: retrying, signing on and off, the node's file."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import threading
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from stic_client.connection.keys import SiteKeys
from stic_client.connection.node_state import NodeState
from stic_client.connection.sign_on import Admission, SignOn
from stic_client.connection.until_reached import NotReachedError, until_reached
from stic_client.connection.waiting_times import Intervals
from stic_core.errors import NotAdmittedError, ProtocolError, RefusedError, UsageError
from stic_core.system.keys import key_fingerprint, make_key_pair
from support.federation_kit import Recorder
from support.waiting import PATIENCE_S

QUICK = Intervals(sign_on=0.001, missed=0.05)


class Instant(threading.Event):
    """An event whose waits take no time, and are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        """At once."""
        self.waits.append(timeout)
        return False


def _reached_after(failures: int, *, observer: Recorder, stop: Instant) -> int:
    tries = 0

    def attempt() -> int:
        nonlocal tries
        tries += 1
        if tries <= failures:
            raise NotReachedError("HTTP 503")
        return tries

    return until_reached(
        attempt, address="liver.example:8443", intervals=Intervals(), observer=observer, stop=stop
    )


def test_waits_grow_from_half_a_second_to_fifteen_and_are_said() -> None:
    """Doubled each time, with the reason; once they no longer grow, that is said instead of every try for ever."""
    observer, stop = Recorder(), Instant()
    assert _reached_after(300, observer=observer, stop=stop) == 301
    assert stop.waits == [0.5, 1, 2, 4, 8, *[15] * 295]
    assert observer.notes[:6] == [
        f"server liver.example:8443 not reached (HTTP 503); next try in {wait} s"
        for wait in ("0.5", "1", "2", "4", "8", "15")
    ]
    still, reached = observer.notes[6:]
    assert "every 15 s from now on, and said again every 10 min" in still
    assert "is reached again, after 0:00:0" in reached


def test_a_new_reason_is_said_at_once_and_an_old_one_from_time_to_time() -> None:
    """With the time since when, and how many tries there were."""
    observer = Recorder()
    reasons = iter([*["timed out"] * 9, "connection refused"])

    def attempt() -> str:
        if (reason := next(reasons, None)) is not None:
            raise NotReachedError(reason)
        return "here"

    assert (
        until_reached(attempt, address="a", intervals=Intervals(), observer=observer, stop=Instant())
        == "here"
    )
    rare = [note for note in observer.notes if " since " in note]
    assert len(rare) == 1
    assert "(connection refused), 10 tries" in rare[0]


def test_a_server_that_is_reached_is_not_waited_for() -> None:
    """Nothing is said."""
    observer, stop = Recorder(), Instant()
    assert _reached_after(0, observer=observer, stop=stop) == 1
    assert (stop.waits, observer.notes) == ([], [])


@pytest.mark.parametrize("error", [ProtocolError("no"), KeyboardInterrupt(), ConnectionError("another kind")])
def test_what_waiting_does_not_mend_is_raised_at_once(error: BaseException) -> None:
    """An answer, Ctrl-C, and errors that are not of one try."""
    observer = Recorder()

    def attempt() -> None:
        raise error

    with pytest.raises(type(error)):
        until_reached(attempt, address="a", intervals=Intervals(), observer=observer, stop=Instant())
    assert observer.notes == []


# ---- the node's file ----------------------------------------------------------------------


def test_a_node_is_remembered_until_it_signed_off(tmp_path: Path) -> None:
    """What one object writes another reads; None is as if there had been none."""
    path = tmp_path / "node.json"
    assert NodeState(path).left_behind() is None
    NodeState(path).remember(2**63 + 7)
    assert NodeState(path).left_behind() == 2**63 + 7
    NodeState(path).remember(None)
    assert NodeState(path).left_behind() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"node_id": "seven"}', "\xff"])
def test_a_damaged_node_file_is_no_node(tmp_path: Path, text: str) -> None:
    """The client then waits until the server misses the one before it."""
    path = tmp_path / "node.json"
    path.write_bytes(text.encode("latin-1"))
    assert NodeState(path).left_behind() is None


def test_a_copied_folder_signs_nobody_off(tmp_path: Path) -> None:
    """What a backup holds of a client that ran is nobody's where the copy lies; in its own folder it is."""
    (tmp_path / "site").mkdir()
    NodeState(tmp_path / "site" / "node.json").remember(7)
    shutil.copytree(tmp_path / "site", tmp_path / "copy")
    assert NodeState(tmp_path / "copy" / "node.json").left_behind() is None
    assert NodeState(tmp_path / "site" / "node.json").left_behind() == 7


def _hold(path: Path, held: Event, over: Event) -> None:
    with NodeState(path).locked():
        held.set()
        over.wait(30)


def test_one_client_of_a_site_on_a_machine(tmp_path: Path) -> None:
    """The second is refused while the first runs; one that was killed holds nobody up."""
    path = tmp_path / "node.json"
    spawn = multiprocessing.get_context("spawn")
    held, over = spawn.Event(), spawn.Event()
    first = spawn.Process(target=_hold, args=(path, held, over))
    first.start()
    try:
        assert held.wait(PATIENCE_S)
        with pytest.raises(UsageError, match="already running on this machine"), NodeState(path).locked():
            pass
    finally:
        first.kill()
        first.join()
    with NodeState(path).locked():
        pass
    with NodeState(path).locked():  # and the one that ended by itself
        pass


# ---- signing on and off -------------------------------------------------------------------


@dataclass
class FakeDesk:
    """A server that lists one node of the site.

    Args:
        admission: what it says of the key.
        online: the node that it takes for online; None where there is none.
        misses_after: sign-ons that it refuses until it misses that node.
    """

    admission: Admission = "admitted"
    online: int | None = None
    misses_after: int = 10**9
    knows: set[str] = field(default_factory=set)
    signed_off: list[int] = field(default_factory=list)

    def activate(self) -> int | None:
        """A new node, unless one is online."""
        self.misses_after -= 1
        if self.admission != "admitted" or (self.online is not None and self.misses_after >= 0):
            return None
        self.online = 8
        return 8

    def deactivate(self, node_id: int) -> bool:
        """The node that is online goes."""
        self.signed_off.append(node_id)
        if node_id != self.online:
            return False
        self.online = None
        return True

    def take_key(self, key: ec.EllipticCurvePrivateKey) -> bool:
        """Those that it knows."""
        return key_fingerprint(key.public_key()) in self.knows

    def ask_admission(self) -> Admission:
        """As it was made."""
        return self.admission


def _signing(
    desk: FakeDesk, folder: Path, *, keys: SiteKeys | None = None, observer: Recorder | None = None
) -> SignOn:
    return SignOn(
        desk,
        node=NodeState(folder / "node.json"),
        keys=keys,
        observer=observer or Recorder(),
        intervals=QUICK,
        stop=threading.Event(),
    )


def test_a_sign_on_leaves_the_id_for_a_crash(tmp_path: Path) -> None:
    """And a sign-off takes it back."""
    desk = FakeDesk()
    signing = _signing(desk, tmp_path)
    assert signing.sign_on() == 8
    assert json.loads((tmp_path / "node.json").read_text())["node_id"] == 8
    signing.sign_off(8)
    assert desk.online is None
    assert json.loads((tmp_path / "node.json").read_text())["node_id"] is None


def test_a_sign_off_that_the_server_did_not_hear_is_left_to_the_next_client(tmp_path: Path) -> None:
    """The id stays."""
    signing = _signing(FakeDesk(), tmp_path)
    signing.sign_on()
    signing.sign_off(9)
    assert NodeState(tmp_path / "node.json").left_behind() == 8


def test_a_killed_client_is_signed_off_by_the_next(tmp_path: Path) -> None:
    """Under the id that it left, once, without a word."""
    observer, desk = Recorder(), FakeDesk(online=7)
    NodeState(tmp_path / "node.json").remember(7)
    assert _signing(desk, tmp_path, observer=observer).sign_on() == 8
    assert (desk.signed_off, observer.notes) == ([7], [])


def test_a_killed_client_without_an_id_is_waited_for(tmp_path: Path) -> None:
    """Said at each try, until the server misses it."""
    observer = Recorder()
    assert _signing(FakeDesk(online=7, misses_after=3), tmp_path, observer=observer).sign_on() == 8
    assert len(observer.notes) == 3
    assert observer.notes[0].endswith("next try in 0.001 s, for at most 0.05 s")


def test_a_client_elsewhere_is_no_killed_one(tmp_path: Path) -> None:
    """The server does not miss it: this client ends."""
    with pytest.raises(RefusedError, match="another client of this site is online"):
        _signing(FakeDesk(online=7), tmp_path).sign_on()


@pytest.mark.parametrize(("admission", "said"), [("unknown", "does not admit"), ("unsigned", "signature")])
def test_a_site_that_is_not_admitted_does_not_wait(tmp_path: Path, admission: Admission, said: str) -> None:
    """Whom to ask, or what to look at, at once."""
    observer = Recorder()
    with pytest.raises(NotAdmittedError, match=said):
        _signing(FakeDesk(admission=admission), tmp_path, observer=observer).sign_on()
    assert observer.notes == []


@pytest.mark.parametrize("known", [True, False])
def test_a_key_that_follows_is_taken_once_the_server_knows_it(tmp_path: Path, known: bool) -> None:
    """Looked for at each sign-on; the old key stays until then."""
    make_key_pair(tmp_path / "site.key")
    keys = SiteKeys(tmp_path / "site.key")
    old = key_fingerprint(keys.current().public_key())
    following = keys.make_next()
    observer = Recorder()
    desk = FakeDesk(knows={following} if known else set())
    _signing(desk, tmp_path, keys=keys, observer=observer).sign_on()
    assert key_fingerprint(keys.current().public_key()) == (following if known else old)
    assert (keys.next_key() is None) == known
    assert len(observer.notes) == 1
