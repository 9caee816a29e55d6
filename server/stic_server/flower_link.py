"""SuperLink's app in one process: its Fleet API behind a guard, and a Grid on its state.

The only module of this side that touches Flower's internals (flwr 1.41.0; the contract test
fails when an upgrade moves them). Control and Runtime APIs are reachable from no socket. All
of Flower's state is in RAM: what must survive a crash is in our own checkpoints.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives import serialization
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    ErrorCode,
    SubStatus,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate import LinkState
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.constant import (
    FLWR_IN_MEMORY_DB_NAME,
    NOOP_FEDERATION_ID,
    TaskType,
)
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from stic_core.errors import ListenError, UsageError
from stic_server.connections import BoundedConnection
from stic_server.guard import Guard
from stic_server.sites import AdmittedSite, admitted

_MB = 1 << 20
_OBJECTS_WAIT_S = 120.0
_LOOK_S = 2.0


class LocalGrid(Grid):
    """Flower's Grid straight on the link state: what its HttpGrid does, without HTTP.

    Args:
        state: SuperLink's.
        run: the Flower run that messages belong to.
    """

    def __init__(self, state: LinkState, run: Run) -> None:
        self._state, self._run = state, run
        self.bytes_down, self.bytes_up = 0, 0
        """Contents of all messages so far, each site's counted."""

    def set_run(self, run: Run) -> None:
        """Part of Flower's interface."""
        self._run = run

    @property
    def run(self) -> Run:
        """The Flower run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Part of Flower's interface."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Sites that are online."""
        return list(self._state.get_nodes(self._run.run_id))

    def get_nodes(self) -> list[NodeInfo]:
        """Sites that are online, with the names under which they were admitted."""
        ids = self.get_node_ids()
        return list(self._state.get_node_info(node_ids=ids)) if ids else []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Store messages for the sites to pull.

        Returns:
            The messages' ids, in order.
        """
        run_id = self._run.run_id
        session = self._state.start_session(run_id)
        ids: list[str] = []
        with no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
                stored, missing = self._state.store_message_and_object_tree(
                    remove_content_from_message(message), get_object_tree(message), session
                )
                if not stored:
                    raise RuntimeError("Flower's link state refused a message")
                objects = get_all_nested_objects(message)
                contents = {name: part.deflate() for name, part in objects.items()}
                for name in missing:
                    self._state.store_object(run_id, session, name, contents[name])
                self.bytes_down += sum(map(len, contents.values()))
                ids.append(message.object_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that are there, whole; an incomplete one becomes an error message."""
        replies = []
        for head in self._state.get_message_res(message_ids=set(message_ids), run_id=self._run.run_id):
            replies.append(self._inflate(head))
            self._state.delete_messages(message_ins_ids={head.metadata.reply_to_message_id})
        return replies

    def _inflate(self, head: Message) -> Message:
        message_id = head.metadata.message_id
        if head.has_error():
            return head
        store = self._state.object_store
        contents: dict[str, bytes] = {}
        deadline = time.monotonic() + _OBJECTS_WAIT_S
        tree = store.get_object_tree(message_id)
        for part in iterate_object_tree(tree):
            # An empty value is an object that is announced and still on its way.
            while (content := self._state.get_object(self._run.run_id, part.object_id)) == b"":
                if time.monotonic() > deadline:
                    return _unavailable(head)
                time.sleep(0.02)
            if content is None:
                return _unavailable(head)
            contents[part.object_id] = content
        self.bytes_up += sum(map(len, contents.values()))
        message = inflate_object_from_contents(message_id, contents)
        if not isinstance(message, Message):
            return _unavailable(head)
        message.metadata.__dict__["_message_id"] = message_id
        store.delete(message_id)
        return message

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Part of Flower's interface: push, and pull until all replies are there."""
        waiting = set(self.push_messages(messages))
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        replies: list[Message] = []
        while waiting and time.monotonic() < deadline:
            found = self.pull_messages(waiting)
            replies += found
            waiting -= {message.metadata.reply_to_message_id for message in found}
            time.sleep(0.05)
        return replies


def _unavailable(head: Message) -> Message:
    metadata = Metadata(
        run_id=head.metadata.run_id,
        message_id="",
        src_node_id=head.metadata.src_node_id,
        dst_node_id=SUPERLINK_NODE_ID,
        message_type=head.metadata.message_type,
        group_id="",
        ttl=0,
        reply_to_message_id=head.metadata.reply_to_message_id,
        created_at=time.time(),
    )
    return make_message(metadata=metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, "reply is incomplete"))


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen, with which certificate.

    Args:
        max_body_mb: a request with a larger body is refused.
    """

    host: str
    port: int
    certificate: Path
    key: Path
    ca: Path
    max_body_mb: int = 256


class FleetServer:
    """SuperLink's Fleet API under TLS, in a thread of this process.

    Args:
        listen: address and certificate.
    """

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        config = SuperLinkLifespanConfig(
            control_address="",
            health_server_address=None,
            host=listen.host,
            port=listen.port,
            insecure=False,
            certificates=None,
            superexec_auth_secret=os.urandom(32),
            authn_plugin=NoOpControlAuthnPlugin(),
            event_log_plugin=None,
            fleet_event_log_plugin=None,
            enable_event_log=False,
            artifact_provider=None,
            enable_supernode_auth=True,
            fleet_api_type="grpc-rere",
            fleet_api_address=None,
            simulation=False,
            ssl_ca_certfile=str(listen.ca),
            ssl_certfile=str(listen.certificate),
            ssl_keyfile=str(listen.key),
            database=FLWR_IN_MEMORY_DB_NAME,
            isolation="process",  # no subprocess is started for apps
            runtime_dependency_install=False,
        )
        app = create_app(config, SuperLinkLifespan)
        self._state: LinkState = app.state.linkstate_factory.state()
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                Guard(app, max_body=listen.max_body_mb * _MB),
                host=listen.host,
                port=listen.port,
                ssl_certfile=str(listen.certificate),
                ssl_keyfile=str(listen.key),
                http=BoundedConnection,
                ws="none",
                backlog=128,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=2,
            )
        )
        self._thread = threading.Thread(target=self._uvicorn.run, daemon=True, name="fleet-api")
        self._names: dict[bytes, str] = {}
        self._stopped = threading.Event()

    def start(self) -> None:
        """Listen.

        Raises:
            ListenError: the address cannot be had.
        """
        self._probe()
        self._thread.start()
        while not self._uvicorn.started:
            if not self._thread.is_alive():
                raise ListenError(f"the server did not start on {self._listen.host}:{self._listen.port}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop listening; requests under way get two seconds."""
        self._stopped.set()
        self._uvicorn.should_exit = True
        self._thread.join(4.0)

    def _probe(self) -> None:
        """Find out about a taken port here, where it can be said in one line."""
        host, port = self._listen.host, self._listen.port
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            raise ListenError(
                f"cannot listen on {host}:{port}",
                got=error.strerror,
                advice="Stop what uses it, perhaps another stic-server, or change listen.port in federation.yaml.",
            ) from None

    def admit(self, sites: Iterable[AdmittedSite]) -> None:
        """Admit exactly these sites; any other key is refused from now on."""
        wanted = {_spki(site): site.name for site in sites}
        for key in self._names.keys() - wanted.keys():
            node_id = self._state.get_node_id_by_public_key(key)
            if node_id is not None:
                self._state.delete_node(NOOP_FLWR_AID, node_id)
        for key in wanted.keys() - self._names.keys():
            self._state.create_node(
                NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_DEFAULT_INTERVAL, name=wanted[key]
            )
        self._names = wanted

    def watch(self, folder: Path) -> None:
        """Admit the sites whose keys lie in a folder, now and whenever it changes.

        Raises:
            UsageError: a file in the folder is not a site's public key.
        """
        self.admit(admitted(folder))

        def look() -> None:
            while not self._stopped.wait(_LOOK_S):
                # A key that is being copied is not whole yet; the next look sees it.
                with suppress(UsageError):
                    self.admit(admitted(folder))

        threading.Thread(target=look, daemon=True, name="admitted-sites").start()

    def execute(self, app: ServerApp, *, run_config: dict[str, str]) -> None:
        """Run a ServerApp in this thread, as a Flower run of its own."""
        state = self._state
        run_id = state.create_run(
            "stic/stic", "1.0.0", "0" * 64, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        run = state.get_run_info(run_ids=[run_id])[0]
        task_id = run.primary_task_id
        if task_id is None or not (state.claim_task(task_id) and state.activate_task(task_id)):
            raise RuntimeError("Flower's link state did not start the run")
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task_id, run_id, SUPERLINK_NODE_ID
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(15.0):
                state.acknowledge_task_heartbeat(task_id)

        threading.Thread(target=beat, daemon=True, name="task-heartbeat").start()
        outcome = SubStatus.FAILED
        try:
            context = Context(
                run_id=run_id,
                node_id=SUPERLINK_NODE_ID,
                node_config={},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            app(grid=LocalGrid(state, run), context=context)
            outcome = SubStatus.COMPLETED
        finally:
            stop.set()
            state.finish_task(task_id, outcome, "")


def _spki(site: AdmittedSite) -> bytes:
    """The key as Flower compares it."""
    return site.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
