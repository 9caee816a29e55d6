"""A virtual node of Flower's simulation finds its site, and the server learns which it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.app.error import Error
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from stic_client.flower_app import app
from stic_core.errors import ConfigError, FederationError, SticError, UsageError
from stic_server.flower_names import NamedGrid, named
from support.federation_kit import make_home


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's messages are of a run, which its programs say at their start."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two sites."""
    return make_home(tmp_path_factory.mktemp("home")).path / "sites"


def context(node: dict[str, str | int], run: dict[str, str]) -> Context:
    """Of a node with its configuration, in a run with its own."""
    return Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=run)  # type: ignore[arg-type]


def asked(node: int) -> Message:
    """What the server sends."""
    return Message(RecordDict(), node, f"{MessageType.QUERY}.site")


class Simulation:
    """A Grid whose nodes answer through the client's app, or with an error."""

    def __init__(self, contexts: Sequence[Context]) -> None:
        self.contexts, self.questions = dict(enumerate(contexts, start=1)), 0

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Nobody has registered a name."""
        return [NodeInfo(node_id=node) for node in self.contexts]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float) -> list[Message]:
        """Each node's answer."""
        replies = []
        for message in messages:
            self.questions += 1
            try:
                replies.append(app(message, self.contexts[message.metadata.dst_node_id]))
            except SticError as error:
                replies.append(Message(Error(code=1, reason=str(error)), reply_to=message))
        return replies


def test_each_virtual_node_has_the_name_of_its_site(sites: Path) -> None:
    """Asked once; a partition is a folder in the order of names."""
    grid = Simulation(
        [context({"partition-id": n, "num-partitions": 2}, {"sites": str(sites)}) for n in (1, 0)]
    )
    there = NamedGrid(grid)  # type: ignore[arg-type]
    for _ in range(2):
        assert {node.node_id: node.name for node in there.get_nodes()} == {1: "center2", 2: "center1"}
    assert grid.questions == 2


def test_more_virtual_nodes_than_sites_are_refused(sites: Path) -> None:
    """With how many there are, and no path."""
    run = {"sites": str(sites)}
    grid = Simulation([context({"partition-id": n, "num-partitions": 3}, run) for n in range(3)])
    with pytest.raises(FederationError, match=r"got 2 folders with a site.yaml; expected 3, one per virtual"):
        NamedGrid(grid).get_nodes()  # type: ignore[arg-type]


def test_two_virtual_nodes_of_one_site_are_refused(sites: Path) -> None:
    """A copied site.yaml would otherwise be a site less, and nobody would notice."""
    grid = Simulation(
        [context({"partition-id": 0, "num-partitions": 2}, {"sites": str(sites)}) for _ in range(2)]
    )
    with pytest.raises(FederationError, match="have the same site; got center1"):
        NamedGrid(grid).get_nodes()  # type: ignore[arg-type]


def test_a_supernode_of_its_own_site_is_not_led_elsewhere(sites: Path, tmp_path: Path) -> None:
    """What the server's run configuration says of sites is of no interest where the node names its file."""
    own = context(
        {"site-config": str(sites / "center2" / "site.yaml"), "partition-id": 0, "num-partitions": 2},
        {"sites": str(sites)},
    )
    (name,) = (reply.content.config_records["site"]["site"] for reply in [app(asked(1), own)])
    assert name == "center2"


def test_a_supernode_without_a_site_says_what_is_missing(sites: Path) -> None:
    """A real node has no partition, so no server can name a folder on its disk."""
    for run in ({}, {"sites": ""}, {"sites": str(sites)}):
        with pytest.raises(ConfigError, match="this SuperNode has no site; expected site-config"):
            app(asked(1), context({}, run))


def test_names_are_asked_for_in_simulations_only() -> None:
    """A real node could claim the name of another."""
    with pytest.raises(UsageError, match="sites in the run configuration is for simulations only"):
        named(object())  # type: ignore[arg-type]
