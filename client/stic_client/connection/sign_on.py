"""How a site tells its server that it is there, and that it leaves; knows no transport."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Literal, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from stic_client.connection.keys import SiteKeys
from stic_client.connection.node_state import NodeState
from stic_client.connection.waiting_times import Intervals
from stic_core.errors import NotAdmittedError, RefusedError
from stic_core.system.observer import Observer

Admission = Literal["admitted", "unknown", "unsigned"]
"""What a server says of a site's key; `unsigned` where it refuses the signature itself, as with a wrong clock."""


class Desk(Protocol):
    """What a server answers about one site."""

    def activate(self) -> int | None:
        """Sign on; the node's id, or None where the server says no."""
        ...

    def deactivate(self, node_id: int, /) -> bool:
        """Sign a node off, in one try; whether the server took it."""
        ...

    def take_key(self, key: ec.EllipticCurvePrivateKey, /) -> bool:
        """Sign with another key from now on, if the server knows it."""
        ...

    def ask_admission(self) -> Admission:
        """Whether the server knows the key; nothing changes there."""
        ...


class SignOn:
    """Signs one site on and off.

    Args:
        desk: the server's.
        node: remembers the node's id, so that a client that was killed can be signed off.
        keys: where a key may lie that follows; looked for whenever the site signs on.
        observer: receives notes of waits and of the keys.
        stop: once it is set, every wait ends.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        node: NodeState,
        keys: SiteKeys | None,
        observer: Observer,
        intervals: Intervals,
        stop: threading.Event,
    ) -> None:
        self._desk, self._node, self._keys = desk, node, keys
        self._observer, self._intervals, self._stop = observer, intervals, stop

    def sign_on(self) -> int:
        """Tell the server that this site is here.

        A client that was killed is still online there: it is signed off under the id that it left, or waited for.

        Returns:
            The node's id.

        Raises:
            NotAdmittedError: the server does not know the site's key, or refuses its signature.
            RefusedError: another client of the site is online.
        """
        self._take_next_key()
        wait, longest = self._intervals.sign_on, self._intervals.missed
        missed_at = time.monotonic() + longest
        while (node_id := self._desk.activate()) is None:
            if self._forget_old_node():
                continue
            self._check_admitted()
            if time.monotonic() > missed_at:
                raise RefusedError("another client of this site is online", advice="Stop that one first.")
            self._observer.note(
                "the server still lists this site as online, perhaps because its client was killed; "
                f"next try in {wait:g} s, for at most {longest:g} s"
            )
            self._stop.wait(wait)
        self._node.remember(node_id)
        return node_id

    def sign_off(self, node_id: int) -> None:
        """Tell the server that this site leaves, but do not wait for one that hangs."""

        def tell() -> None:
            # The process ends: whatever goes wrong here, the next client signs this node off.
            with suppress(Exception):
                if self._desk.deactivate(node_id):
                    self._node.remember(None)

        thread = threading.Thread(target=tell, daemon=True, name="sign-off")
        thread.start()
        thread.join(self._intervals.sign_off)

    def _take_next_key(self) -> None:
        """Go on with the key that follows, if one was made and the server knows it already."""
        following = self._keys.next_key() if self._keys is not None else None
        if self._keys is None or following is None:
            return
        if self._desk.take_key(following):
            self._keys.accepted()
            self._observer.note("the server knows the new key: it is in use, and the old one is deleted")
        else:
            self._observer.note("the new key is not admitted yet; continuing with the old one")

    def _forget_old_node(self) -> bool:
        """Sign off the node of a client that was killed: the server still lists it as online."""
        node_id = self._node.left_behind()
        if node_id is None:
            return False
        self._desk.deactivate(node_id)
        self._node.remember(None)
        return True

    def _check_admitted(self) -> None:
        """Raise, unless the server knows the key and only did not take the sign-on."""
        match self._desk.ask_admission():
            case "admitted":
                return
            case "unsigned":
                raise NotAdmittedError(
                    "the server refuses this site's signature",
                    advice="Check this machine's clock: a time more than 5 s ahead of the server's is refused. "
                    "`stic-client check` compares them.",
                )
            case _:
                raise NotAdmittedError(
                    "the server does not admit this site",
                    got="a key that is unknown there or was revoked",
                    advice="Send the public key to the operator, who runs `stic-server admit`.",
                )
