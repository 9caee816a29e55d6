"""SuperLink's app in one process: its Fleet API behind a guard, and a Grid on its state.

With `flower_replies` the only module of this side that touches Flower's internals (flwr
1.41.0; the contract test fails when an upgrade moves them). Control and Runtime APIs are reachable from no socket. All
of Flower's state is in RAM: what must survive a crash is in our own checkpoints.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import uvicorn
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_MIN_INTERVAL,
    HEARTBEAT_PATIENCE,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    SubStatus,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate import InMemoryLinkState
from flwr.serverapp import Grid
from flwr.supercore.constant import (
    FLWR_IN_MEMORY_DB_NAME,
    NOOP_FEDERATION_ID,
    NodeStatus,
    TaskType,
)
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.main import create_app
from flwr.superlink.servicer.fleet import fleet_handlers

from stic_core.errors import ListenError
from stic_core.system.site_certificates import public_pem
from stic_server.admission.registry import AdmittedSite, Presence, admitted, scan
from stic_server.flower_replies import assemble, for_one_site
from stic_server.http.connection_limits import SiteConnection
from stic_server.http.listener import Entrance, open_listeners
from stic_server.http.request_guard import Guard
from stic_server.http.signatures import Signatures
from stic_server.reply_store import ReplyStore

LOG = logging.getLogger(__name__)

_MB = 1 << 20
_LOOK_S = 2.0
_TURNS_S = 10.0

T = TypeVar("T")


class LocalGrid(Grid):
    """Flower's Grid straight on the link state: what its HttpGrid does, without HTTP.

    Args:
        state: SuperLink's.
        replies: what the sites have sent.
        run: the Flower run that messages belong to.
    """

    def __init__(self, state: InMemoryLinkState, replies: ReplyStore, run: Run) -> None:
        self._state, self._replies, self._run = state, replies, run
        self.bytes_down: Counter[int] = Counter()
        self.bytes_up: Counter[int] = Counter()
        """Contents of all messages so far, by node."""

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
            The messages' ids, in order; empty for a node that is not there any more.
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
                if not stored:  # the node was expelled a moment ago
                    ids.append("")
                    continue
                objects = get_all_nested_objects(message)
                contents = {name: part.deflate() for name, part in objects.items()}
                for name in missing:
                    self._state.store_object(run_id, session, name, contents[name])
                self.bytes_down[message.metadata.dst_node_id] += sum(map(len, contents.values()))
                ids.append(message.object_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that are there whole; one that is still on its way is left for the next time.

        Flower's own lookup answers for a site that is offline with an error, and takes no reply
        to that question any more. Here a site that was cut off may still answer what it was asked.
        """
        replies = []
        for message_id in message_ids:
            head = self._reply_to(message_id)
            reply, size = assemble(self._replies, head) if head is not None else (None, 0)
            if head is not None and reply is not None:
                self.bytes_up[head.metadata.src_node_id] += size
                replies.append(reply)
                self.forget([message_id])
        return replies

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop questions: nobody pulls them any more, and no reply to them is taken."""
        for message_id in message_ids:
            head = self._reply_to(message_id)
            self._state.delete_messages(message_ins_ids={message_id})
            self._state.object_store.delete(message_id)
            if head is not None:
                self._replies.drop(head.metadata.message_id)

    def _reply_to(self, message_id: str) -> Message | None:
        with self._state.lock:
            reply_id = self._state.message_ins_id_to_message_res_id.get(message_id, "")
            return self._state.message_res_store.get(reply_id)

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


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen, with which certificate.

    Args:
        max_body_mb: a request with a larger body is refused, and a site whose unread answers are larger.
    """

    host: str
    port: int
    certificate: Path
    key: Path
    ca: Path
    max_body_mb: int = 256


class _Uvicorn(uvicorn.Server):
    """uvicorn behind our own entrance: it serves connections, and accepts none.

    Args:
        listeners: of the sites' port.
    """

    def __init__(self, config: uvicorn.Config, entrance: Entrance, *, listeners: list[socket.socket]) -> None:
        super().__init__(config)
        self._entrance, self._listeners = entrance, listeners

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Once the app is ready, connections are accepted."""
        await super().startup(sockets)
        await self._entrance.open(self._listeners)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """First the entrance."""
        await self._entrance.close()
        await super().shutdown(sockets)


class FleetServer:
    """SuperLink's Fleet API under TLS, in a thread of this process.

    Args:
        listen: address and certificate.
        note: called with a line about a site that misbehaves.
        interval_scale: see `config_files.interval_scale`.
    """

    def __init__(
        self, listen: Listen, *, note: Callable[[str], None] = LOG.warning, interval_scale: float = 1.0
    ) -> None:
        self._listen, self._signatures = listen, Signatures()
        self._look_s = _LOOK_S * interval_scale
        # Flower refuses a heartbeat interval shorter than this.
        least = HEARTBEAT_MIN_INTERVAL * min(1.0, interval_scale)
        fleet_handlers.HEARTBEAT_MIN_INTERVAL = least  # pyright: ignore[reportPrivateImportUsage]
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
        self._replies = ReplyStore(most_bytes=listen.max_body_mb * _MB)
        app.dependency_overrides[get_linkstate] = for_one_site(self._replies)
        state = app.state.linkstate_factory.state()
        assert isinstance(state, InMemoryLinkState)  # what Flower makes of its name for a database in RAM
        self._state = state
        self.guard = Guard(app, max_body=listen.max_body_mb * _MB, signatures=self._signatures, note=note)
        self._config = uvicorn.Config(
            self.guard,
            http=SiteConnection,
            loop="asyncio",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,
        )
        self.entrance = Entrance(listen.certificate, listen.key, protocol=self._connection)
        self._uvicorn: _Uvicorn | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="fleet-api")
        self._names: dict[bytes, str] = {}
        self._last_seen: dict[str, float] = {}
        self._stopped = threading.Event()

    def start(self) -> None:
        """Listen.

        Raises:
            ListenError: the address cannot be had.
        """
        listeners = open_listeners(self._listen.host, self._listen.port)
        self.entrance.renew()
        self._uvicorn = _Uvicorn(self._config, self.entrance, listeners=listeners)
        self._thread.start()
        while not self._uvicorn.started:
            if not self._thread.is_alive():
                raise ListenError(f"the server did not start on {self._listen.host}:{self._listen.port}")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether the sites' port is served: the loop turns, and accepts connections."""
        return self.entrance.accepts(within_s=_TURNS_S)

    def _run(self) -> None:
        assert self._uvicorn is not None  # it is made before the thread starts
        self._uvicorn.run(sockets=[])

    def _connection(self) -> SiteConnection:
        """A connection's HTTP."""
        server = self._uvicorn
        assert server is not None  # it accepted the connection
        return SiteConnection(
            admission=self.entrance,
            config=self._config,
            server_state=server.server_state,
            app_state=server.lifespan.state,
        )

    def stop(self) -> None:
        """Stop listening; requests under way get two seconds."""
        self._stopped.set()
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True
            self._thread.join(4.0)

    def admit(self, sites: Iterable[AdmittedSite], *, keep: Collection[str] = ()) -> None:
        """Admit exactly these sites; any other key is refused from now on.

        Args:
            keep: names that stay as they are.
        """
        wanted = {public_pem(site.key): site.name for site in sites}
        wanted |= {key: name for key, name in self._names.items() if name in keep}
        # First the new keys: a site that changed its key is known at every moment.
        for key in wanted.keys() - self._names.keys():
            self._state.create_node(
                NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_DEFAULT_INTERVAL, name=wanted[key]
            )
        for key in self._names.keys() - wanted.keys():
            self._expel(key)
        self._names = wanted
        self._signatures.admit(wanted)
        self.entrance.admit(wanted)

    def _expel(self, key: bytes) -> None:
        """A key is unknown from its next request on; its node takes no more messages."""
        state = self._state
        with state.lock:
            node_id = state.get_node_id_by_public_key(key)
            if node_id is not None:
                state.delete_node(NOOP_FLWR_AID, node_id)
                self._replies.drop_site(node_id)
                # Flower never lets a key come back; an operator may have revoked it by mistake.
                del state.node_public_key_to_node_id[key]

    def watch(self, folder: Path) -> None:
        """Admit the sites whose keys lie in a folder, now and whenever it changes.

        Raises:
            UsageError: a file in the folder is not a site's public key.
        """
        self.admit(admitted(folder))

        def watching() -> None:
            said = ""
            while not self._stopped.wait(self._look_s):
                try:
                    # A key that is being copied is not whole yet; it must not hide that another is revoked.
                    found = scan(folder)
                    self.admit(found.sites, keep=found.unreadable)
                except Exception as error:
                    if said != (said := str(error)):
                        LOG.exception("the folder of admitted sites cannot be read; trying again")

        threading.Thread(target=watching, daemon=True, name="admitted-sites").start()

    def presence(self) -> dict[str, Presence]:
        """Each admitted site: whether it is online, and its last sign of life."""
        found = {}
        for key, name in self._names.items():
            node_id = self._state.get_node_id_by_public_key(key)
            online = False
            for node in self._state.get_node_info(node_ids=[node_id]) if node_id is not None else ():
                if online := node.status == NodeStatus.ONLINE:
                    # Flower sets `online_until` at each sign of life, that many heartbeats ahead.
                    self._last_seen[name] = node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval
            found[name] = Presence(online, self._last_seen.get(name))
        return found

    def execute(self, work: Callable[[Grid], T]) -> T:
        """Do work over a Grid in this thread, as a Flower run of its own.

        Returns:
            What the work returns.
        """
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
            result = work(LocalGrid(state, self._replies, run))
            outcome = SubStatus.COMPLETED
        finally:
            stop.set()
            state.finish_task(task_id, outcome, "")  # from here on nothing more is taken
            self._replies.clear()
        return result
