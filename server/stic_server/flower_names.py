"""Names for the virtual nodes of Flower's simulation, which nobody registered: each is asked for its site."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from flwr.app import Message, MessageType, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.superlink.grid import InMemoryGrid

from stic_core.errors import FederationError, UsageError
from stic_core.protocol.fields import SITE_KEY

_PATIENCE_S = 600.0
"""For all the answers: Ray's workers start meanwhile."""


def named(grid: Grid) -> Grid:
    """A Grid whose nodes have their site's name, as those have that were registered with `--name`.

    Raises:
        UsageError: this is no simulation; a real node could claim any name.
    """
    if not isinstance(grid, InMemoryGrid):
        raise UsageError(
            "sites in the run configuration is for simulations only",
            got="a SuperLink with SuperNodes",
            expected="flower-superlink --simulation",
            advice="Leave sites out, and register each SuperNode with --name.",
        )
    return cast("Grid", NamedGrid(grid))


class NamedGrid:
    """A Grid that gives names to nodes, and otherwise is the one that it stands for."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._names: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes; one that has not said its name is not there yet.

        Raises:
            FederationError: a virtual node has no site, or two have the same.
        """
        nodes = list(self._grid.get_nodes())
        strange = [node.node_id for node in nodes if node.node_id not in self._names]
        if strange:
            self._ask(strange)
        known = [node for node in nodes if node.node_id in self._names]
        for node in known:
            node.name = self._names[node.node_id]
        return known

    def _ask(self, nodes: list[int]) -> None:
        kind = f"{MessageType.QUERY}.{SITE_KEY}"
        asked = [Message(RecordDict(), node, kind) for node in nodes]
        for reply in self._grid.send_and_receive(asked, timeout=_PATIENCE_S):
            if reply.has_error():
                raise FederationError("a virtual node of the simulation has no site", got=reply.error.reason)
            site = str(reply.content.config_records[SITE_KEY][SITE_KEY])
            if site in self._names.values():
                raise FederationError(
                    "two virtual nodes of the simulation have the same site",
                    got=site,
                    expected="one site.yaml with a name of its own per virtual node",
                )
            self._names[reply.metadata.src_node_id] = site
