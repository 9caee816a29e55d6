"""Flower's Fleet protocol in one process: beats, pulls, lets the ClientApp answer, pushes.

With `flower_requests` the only module of this side that touches Flower's internals (flwr 1.41.0; the contract test
fails when an upgrade moves them). It fetches no app bundle, opens no port, starts no child,
and keeps the data and the model loaded between rounds. Retrying is its own: Flower's takes
any text with "ssl" or "certificate" for final, and its exit helper ends the process. What
knows no Flower lies in `stic_client.connection`: signing on, retrying, the node's file.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from stic_client.connection.faults import refuses_key, why
from stic_client.connection.keys import SiteKeys
from stic_client.connection.node_state import NodeState
from stic_client.connection.sign_on import Admission, SignOn
from stic_client.connection.until_reached import NotReachedError, until_reached
from stic_client.connection.waiting_times import Intervals
from stic_client.flower_requests import SignedClient
from stic_core.errors import NoRoomError, ProtocolError, RefusedError, SticError
from stic_core.system.observer import Observer

LOG = logging.getLogger(__name__)

_WAITING = "waiting for the server"

_TAKEN_OVER = 423
"""What our server answers a client while another one of the same site has its place."""

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class _RunOverError(Exception):
    """The run that a message belongs to has ended."""


class _UnknownNodeError(Exception):
    """The server does not know this node id, or this site's key (any more)."""


class FleetLink:
    """A site's link to its server.

    Args:
        address: host:port.
        ca: the CA's certificate, the only one that is trusted.
        key: the site's private key.
        state: file that remembers the node id, so that a crashed client can sign itself off.
        observer: receives notes of waits and failures.
        keys: where a key may lie that follows; looked for whenever the site signs on.
        intervals: how long it waits for what; the defaults without.
    """

    def __init__(
        self,
        address: str,
        *,
        ca: Path,
        key: ec.EllipticCurvePrivateKey,
        state: Path,
        observer: Observer,
        keys: SiteKeys | None = None,
        intervals: Intervals | None = None,
    ) -> None:
        self._address, self._ca, self._observer = address, ca, observer
        self._intervals = intervals or Intervals()
        self._stop = threading.Event()
        self._node: Node | None = None
        self._node_state = NodeState(state)
        self._client = SignedClient(address, ca=ca, key=key, instance=self._node_state.instance)
        self._signing = SignOn(
            self,
            node=self._node_state,
            keys=keys,
            observer=observer,
            intervals=self._intervals,
            stop=self._stop,
        )

    def serve(
        self,
        app: ClientApp,
        *,
        node_config: dict[str, str],
        until: Callable[[], bool],
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """Answer the server's messages until `until()` says so, or the process is interrupted.

        Args:
            ready: whether a message may be taken in. Until it is so the site does not come online;
                if it no longer is, the site stays online and leaves its messages at the server.

        Raises:
            NotAdmittedError: the server does not know this site's key.
            RefusedError: another client of this site is online, or has taken this one's place.
            UntrustedServerError: the server's certificate is not from the pinned CA.
            UsageError: a client of this site runs on this machine already.
        """
        with self._node_state.locked():
            self._observer.note(f"connecting to https://{self._address}")
            self._observer.ready()
            while not ready():
                self._observer.alive()
                self._stop.wait(self._intervals.idle_poll)
            try:
                self._sign_on()
                self._observer.note("online; waiting for the server's next run")
                self._observer.doing(_WAITING)
                threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()
                self._loop(app, node_config, until, ready)
            finally:
                self._stop.set()
                if self._node is not None:
                    self._signing.sign_off(self._node.node_id)

    # ---- what signing on asks of the server: `sign_on.Desk` ----------------------------

    def activate(self) -> int | None:
        """See `Desk`."""
        request = self._client.sign_on_request(heartbeat_interval=self._intervals.heartbeat)
        try:
            return self._call(self._client.ActivateNode, request).node_id
        except (ProtocolError, _UnknownNodeError):
            return None

    def deactivate(self, node_id: int) -> bool:
        """See `Desk`."""
        self._client.sign_off_for(self._node_state.instance_left())
        try:
            self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=node_id), once=True)
        except (ProtocolError, RefusedError, _UnknownNodeError, _RunOverError, ConnectionError):
            return False
        return True

    def take_key(self, key: ec.EllipticCurvePrivateKey) -> bool:
        """See `Desk`."""
        return self._call(self._client.take_key, key)

    def ask_admission(self) -> Admission:
        """See `Desk`."""
        return self._call(lambda _: self._client.ask_admission(), None)

    # ---- the loop -----------------------------------------------------------------------

    def _loop(
        self,
        app: ClientApp,
        node_config: dict[str, str],
        until: Callable[[], bool],
        ready: Callable[[], bool],
    ) -> None:
        waits, contexts = self._intervals, dict[int, Context]()
        last_message = time.monotonic()
        held: Message | None = None
        while not until():
            self._observer.alive()
            try:
                able = ready()
                message = held if held is not None and able else self._receive(take=able and held is None)
                if message is None:
                    busy = time.monotonic() - last_message < waits.busy_for
                    self._stop.wait(waits.busy_poll if busy else waits.idle_poll)
                    continue
                run_id = message.metadata.run_id
                context = contexts.setdefault(
                    run_id,
                    Context(
                        run_id=run_id,
                        node_id=message.metadata.dst_node_id,
                        node_config=dict(node_config),
                        state=RecordDict(),
                        run_config={},
                    ),
                )
                began = time.monotonic()
                held = message
                reply = _run(app, message, context)
                held = None
                self._send(reply, seconds=time.monotonic() - began)
                self._observer.doing(_WAITING)
                last_message = time.monotonic()
            except NoRoomError:
                self._stop.wait(waits.idle_poll)  # nothing may leave; the same message, once there is room
            except _RunOverError:
                self._observer.note("the server ended the run or withdrew its request; the answer is dropped")
            except _UnknownNodeError:
                self._observer.note("the server was restarted, or this site's key changed; signing on again")
                held = None
                self._sign_on()
            except ProtocolError as error:
                self._observer.note(f"message dropped: {error}")
                self._stop.wait(waits.idle_poll)  # a server that refuses everything is not asked in a loop

    def _receive(self, *, take: bool = True) -> Message | None:
        """The next message, if there is one; without `take` it stays at the server, which gives it again."""
        node = self._signed_on()
        pulled = self._call(self._client.PullMessages, PullMessagesRequest(node=node))
        if not pulled.messages_list or not take:
            return None
        head, tree = message_from_proto(pulled.messages_list[0]), pulled.message_object_trees[0]
        metadata = head.metadata
        if metadata.dst_node_id != node.node_id or metadata.src_node_id != SUPERLINK_NODE_ID:
            raise ProtocolError("it is not from the server, or not for this site")
        objects = {part.object_id: self._pull(part, metadata.run_id) for part in iterate_object_tree(tree)}
        self._call(
            self._client.ConfirmMessageReceived,
            ConfirmMessageReceivedRequest(
                node=node, run_id=metadata.run_id, message_object_id=metadata.message_id
            ),
        )
        self._observer.traffic(down=sum(map(len, objects.values())))
        message = inflate_object_from_contents(tree.object_id, objects)
        if not isinstance(message, Message):
            raise ProtocolError("it contains an object that is not a message")
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def _pull(self, part: ObjectTree, run_id: int) -> bytes:
        request = PullObjectRequest(node=self._signed_on(), run_id=run_id, object_id=part.object_id)
        while True:
            pulled = self._call(self._client.PullObject, request)
            if not pulled.object_found:
                raise _RunOverError
            if pulled.object_available:
                break
            time.sleep(self._intervals.object_poll)  # the server is still storing it
        if hashlib.sha256(pulled.object_content).hexdigest() != part.object_id:
            raise ProtocolError("it contains an object that does not match its digest")
        return pulled.object_content

    def _send(self, reply: Message, *, seconds: float) -> None:
        run_id = reply.metadata.run_id
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            tree = get_object_tree(reply)
            contents = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
            pushed = self._call(
                self._client.PushMessages,
                PushMessagesRequest(
                    node=self._signed_on(),
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[tree],
                    clientapp_runtime_list=[seconds],
                ),
            )
            for name in pushed.objects_to_push:
                self._call(
                    self._client.PushObject,
                    PushObjectRequest(
                        node=self._signed_on(),
                        run_id=run_id,
                        object_id=name,
                        object_content=contents[name],
                        session_id=pushed.session_id,
                    ),
                )
        self._observer.traffic(up=sum(map(len, contents.values())))

    # ---- being online -------------------------------------------------------------------

    def _sign_on(self) -> None:
        self._node = Node(node_id=self._signing.sign_on())

    def _signed_on(self) -> Node:
        if self._node is None:
            raise _UnknownNodeError
        return self._node

    def _beat(self) -> None:
        interval = self._intervals.heartbeat
        while not self._stop.wait(interval * self._intervals.beat_share):
            request = SendNodeHeartbeatRequest(node=self._signed_on(), heartbeat_interval=interval)
            # The main loop meets the same fault and deals with it.
            with suppress(ConnectionError, ProtocolError, SticError, _UnknownNodeError, _RunOverError):
                self._call(self._client.SendNodeHeartbeat, request, once=True)

    # ---- one request --------------------------------------------------------------------

    def _call(
        self, method: Callable[[RequestT], ResponseT], request: RequestT, *, once: bool = False
    ) -> ResponseT:
        """A request, repeated while the server cannot be reached.

        Raises:
            ConnectionError: not reached, where it is tried `once`.
            ProtocolError: the server says no; its code.
        """
        if once:
            return self._ask(method, request)
        return until_reached(
            lambda: self._ask(method, request),
            address=self._address,
            intervals=self._intervals,
            observer=self._observer,
            stop=self._stop,
        )

    def _ask(self, method: Callable[[RequestT], ResponseT], request: RequestT) -> ResponseT:
        """One try; what the server answers as an error of ours."""
        try:
            answer = method(request)
        except httpx.TransportError as error:
            if refuses_key(error):
                raise _UnknownNodeError from None
            raise NotReachedError(why(error, self._address, ca=self._ca)) from None
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status == 401:
                raise _UnknownNodeError from None
            if status == 403:
                raise _RunOverError from None
            if status == _TAKEN_OVER:
                raise RefusedError(
                    "another client of this site has taken this one's place",
                    advice="A key belongs to one machine and one folder: stop the client that runs from the copy, "
                    "then start this one again.",
                ) from None
            if status >= 500:
                raise NotReachedError(f"HTTP {status}") from None
            said = FlowerError.from_json(error.response.text)
            raise ProtocolError(
                f"the server answers HTTP {status}", got=f"code {said.code}" if said else None
            ) from None
        self._observer.reached()
        return answer


def _run(app: ClientApp, message: Message, context: Context) -> Message:
    try:
        return app(message=message, context=context)
    except NoRoomError:
        raise
    except Exception as error:
        # Flower would send the exception's text to the coordinator; it may quote data.
        # A text of ours says what to do, and the system says what is wrong; anything else needs its traceback.
        traced = not isinstance(error, SticError | OSError)
        LOG.log(logging.ERROR, "a request could not be answered: %s", error, exc_info=traced)
        reason = type(error).__name__
        return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)
