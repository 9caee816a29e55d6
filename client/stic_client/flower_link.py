"""Flower's Fleet protocol in one process: signs on, beats, pulls, lets the ClientApp answer, pushes.

The only module of this side that touches Flower's internals (flwr 1.41.0; the contract test
fails when an upgrade moves them). It fetches no app bundle, opens no port, starts no child,
and keeps the data and the model loaded between rounds. Retrying is its own: Flower's takes
any text with "ssl" or "certificate" for final, and its exit helper ends the process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
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
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from stic_client.trust import pinned, why
from stic_core.errors import NotAdmittedError, ProtocolError, SticError, UsageError

LOG = logging.getLogger(__name__)

BUSY_POLL_S = 0.1
IDLE_POLL_S = 1.0
BUSY_FOR_S = 30.0
"""After a message the next one is expected soon; later the link asks less often."""

HEARTBEAT_S = 20.0
"""The server calls a site gone after two of these without a sign."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
_REQUEST_TIMEOUT_S, _QUESTION_TIMEOUT_S = 60.0, 15.0

Admission = Literal["admitted", "unknown", "unsigned"]

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class _RunOverError(Exception):
    """The run that a message belongs to has ended."""


class _UnknownNodeError(Exception):
    """The server does not know this node id (any more)."""


class Observer(Protocol):
    """Is told what goes on."""

    def note(self, text: str) -> None:
        """Something that is worth a line."""
        ...


class FleetLink:
    """A site's link to its server.

    Args:
        address: host:port.
        ca: the CA's certificate, the only one that is trusted.
        key: the site's private key.
        state: file that remembers the node id, so that a crashed client can sign itself off.
        observer: is told of waits and failures.
    """

    def __init__(
        self, address: str, *, ca: Path, key: ec.EllipticCurvePrivateKey, state: Path, observer: Observer
    ) -> None:
        self._address, self._state, self._observer = address, state, observer
        self._public_key = public_key_to_bytes(key.public_key())
        self._stop = threading.Event()
        self._node: Node | None = None
        self._client = _fleet_client(address, ca=ca, key=key, timeout=_REQUEST_TIMEOUT_S)

    def serve(self, app: ClientApp, *, node_config: dict[str, str], until: Callable[[], bool]) -> None:
        """Answer the server's messages until `until()` says so, or the process is interrupted.

        Raises:
            NotAdmittedError: the server does not know this site's key.
            UntrustedServerError: the server's certificate is not from the pinned CA.
        """
        with self._alone():
            self._observer.note(f"connecting to https://{self._address}")
            try:
                self._sign_on()
                self._observer.note("online; waiting for the server's next run")
                threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()
                self._loop(app, node_config, until)
            finally:
                self._stop.set()
                self._sign_off()

    # ---- the loop -----------------------------------------------------------------------

    def _loop(self, app: ClientApp, node_config: dict[str, str], until: Callable[[], bool]) -> None:
        contexts: dict[int, Context] = {}
        last_message = time.monotonic()
        while not until():
            try:
                message = self._receive()
                if message is None:
                    busy = time.monotonic() - last_message < BUSY_FOR_S
                    self._stop.wait(BUSY_POLL_S if busy else IDLE_POLL_S)
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
                reply = _run(app, message, context)
                self._send(reply, seconds=time.monotonic() - began)
                last_message = time.monotonic()
            except _RunOverError:
                self._observer.note("the server ended the run that a message belonged to; it is dropped")
            except _UnknownNodeError:
                self._observer.note("the server was restarted; signing on again")
                self._sign_on()
            except ProtocolError as error:
                self._observer.note(f"a message is dropped: {error}")

    def _receive(self) -> Message | None:
        node = self._signed_on()
        pulled = self._call(self._client.PullMessages, PullMessagesRequest(node=node))
        if not pulled.messages_list:
            return None
        head, tree = message_from_proto(pulled.messages_list[0]), pulled.message_object_trees[0]
        metadata = head.metadata
        if metadata.dst_node_id != node.node_id or metadata.src_node_id != SUPERLINK_NODE_ID:
            raise ProtocolError("a message that is not from the server, or not for this site")
        objects = {part.object_id: self._pull(part, metadata.run_id) for part in iterate_object_tree(tree)}
        self._call(
            self._client.ConfirmMessageReceived,
            ConfirmMessageReceivedRequest(
                node=node, run_id=metadata.run_id, message_object_id=metadata.message_id
            ),
        )
        message = inflate_object_from_contents(tree.object_id, objects)
        if not isinstance(message, Message):
            raise ProtocolError("an object that is no message")
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
            time.sleep(0.05)  # the server is still storing it
        if hashlib.sha256(pulled.object_content).hexdigest() != part.object_id:
            raise ProtocolError("an object does not have the digest that names it")
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

    # ---- signing on and off -------------------------------------------------------------

    def _signed_on(self) -> Node:
        if self._node is None:
            raise _UnknownNodeError
        return self._node

    def _sign_on(self) -> None:
        request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_S)
        try:
            answer = self._call(self._client.ActivateNode, request)
        except (ProtocolError, _UnknownNodeError) as error:
            if not self._forget_old_node():
                raise NotAdmittedError(
                    "the server does not admit this site",
                    got=error if isinstance(error, ProtocolError) else "its key is not known there",
                    advice="Send the public key to the operator, who runs `stic-server admit`; or another client of "
                    "this site is online: stop that one.",
                ) from None
            self._sign_on()
            return
        self._node = Node(node_id=answer.node_id)
        self._state.write_text(json.dumps({"node_id": answer.node_id}))

    def _forget_old_node(self) -> bool:
        """Sign off the node of a client that crashed: the server still takes it for online."""
        try:
            node_id = json.loads(self._state.read_text())["node_id"]
        except (OSError, ValueError, KeyError):
            return False
        with suppress(ProtocolError, _UnknownNodeError, _RunOverError, ConnectionError):
            self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=node_id), tries=1)
        self._state.write_text("")
        return True

    def _sign_off(self) -> None:
        """Tell the server, but do not wait for one that hangs."""
        if self._node is None:
            return
        request = DeactivateNodeRequest(node_id=self._node.node_id)

        def tell() -> None:
            with suppress(Exception):
                self._call(self._client.DeactivateNode, request, tries=1)
                self._state.write_text("")

        thread = threading.Thread(target=tell, daemon=True, name="sign-off")
        thread.start()
        thread.join(2.0)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S * 0.6):
            node = self._node
            if node is None:
                continue
            request = SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_S)
            # The main loop meets the same fault and deals with it.
            with suppress(ConnectionError, ProtocolError, SticError, _UnknownNodeError, _RunOverError):
                self._call(self._client.SendNodeHeartbeat, request, tries=1)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One client a site on this machine: two would take each other's messages."""
        lock = self._state.with_suffix(".lock")
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(
                    "a client of this site is already running on this machine", advice="Stop that one first."
                ) from None
            file.write(str(os.getpid()))
            yield

    # ---- one request --------------------------------------------------------------------

    def _call(
        self, method: Callable[[RequestT], ResponseT], request: RequestT, *, tries: int | None = None
    ) -> ResponseT:
        """A request, repeated with backoff while the server cannot be reached.

        Raises:
            ConnectionError: not reached in `tries` attempts.
            ProtocolError: the server says no; its code.
        """
        attempt = 0
        while True:
            try:
                return method(request)
            except httpx.TransportError as error:
                reason = why(error, self._address)
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                if status == 401:
                    raise _UnknownNodeError from None
                if status == 403:
                    raise _RunOverError from None
                said = FlowerError.from_json(error.response.text)
                if status < 500:
                    raise ProtocolError(
                        f"the server answers HTTP {status}", got=f"code {said.code}" if said else None
                    ) from None
                reason = f"HTTP {status}"
            attempt += 1
            if tries is not None and attempt >= tries:
                raise ConnectionError(reason)
            wait = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempt - 1))
            self._observer.note(f"server {self._address} not reached ({reason}); next try in {wait:g} s")
            self._stop.wait(wait)


def ask_admission(address: str, *, ca: Path, key: ec.EllipticCurvePrivateKey) -> Admission:
    """Ask the server whether it knows a site's key, and change nothing there.

    Signing on could look to the coordinator like a site that came and went. So the question is
    a sign-on that cannot succeed: its heartbeat interval is out of range, which the server
    looks at only after it found the key.

    Returns:
        `unsigned` where the signature itself is refused, which a wrong clock does.

    Raises:
        ConnectionError: the server is not reached.
        ProtocolError: what answers is no server of ours.
        UntrustedServerError: the server's certificate is not from the pinned CA.
    """
    client = _fleet_client(address, ca=ca, key=key, timeout=_QUESTION_TIMEOUT_S)
    request = ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=0)
    try:
        client.ActivateNode(request)
    except httpx.TransportError as error:
        raise ConnectionError(why(error, address)) from None
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 401:
            return "unsigned"
        said = FlowerError.from_json(error.response.text)
        if said is not None and said.code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
            return "admitted"
        if said is not None and said.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
            return "unknown"
        raise ProtocolError(f"the server answers HTTP {error.response.status_code}") from None
    finally:
        client._client.close()
    raise ProtocolError("the server accepts a sign-on that it should refuse")


def _fleet_client(
    address: str, *, ca: Path, key: ec.EllipticCurvePrivateKey, timeout: float
) -> FleetHttpClient:
    client = FleetHttpClient(
        f"https://{address}",
        verify=pinned(ca),
        timeout=timeout,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
        ],
    )
    # A redirect would lead away from the one server that this process may contact.
    client._client.follow_redirects = False
    return client


def _run(app: ClientApp, message: Message, context: Context) -> Message:
    try:
        return app(message=message, context=context)
    except Exception as error:
        # Flower would send the exception's text to the coordinator; it may quote data.
        LOG.exception("the ClientApp failed")
        reason = type(error).__name__
        return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)
