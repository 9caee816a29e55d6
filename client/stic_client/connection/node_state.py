"""What a client leaves on the disk for the one that follows: its node's id, and a lock while it runs.

A folder that was copied holds this file too. The copy must not sign off a client that runs: the file says in
which folder of which machine it was written, and is nobody's elsewhere.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stic_core.errors import UsageError
from stic_core.system.files import write_atomically
from stic_core.system.one_process import only_process
from stic_core.system.room import is_full

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Linux draws it at each start of the machine."""


class NodeState:
    """The file of one site's node id.

    Args:
        path: of the file; the lock lies beside it, with the suffix `.lock`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.instance = secrets.token_hex(16)
        """Names this process to the server."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One client of a site on a machine: two would take each other's messages.

        Raises:
            UsageError: another one runs.
        """
        taken = UsageError(
            "a client of this site is already running on this machine", advice="Stop that one first."
        )
        with only_process(self._path.with_suffix(".lock"), taken=taken):
            yield

    def remember(self, node_id: int | None) -> None:
        """Keep the id for the client that follows on a crash; None once the server knows that it left.

        On a full disk nothing is kept: after a crash the next client then waits until the server misses this one.
        """
        try:
            left = {"node_id": node_id, "instance": self.instance, "place": self._place()}
            write_atomically(self._path, json.dumps(left))
        except OSError as error:
            if not is_full(error):
                raise
            self._path.unlink(missing_ok=True)

    def left_behind(self) -> int | None:
        """The id of a client that was killed; None where the last one signed off, none ever ran, or this is a copy.

        After a restart of the machine it is None too, and in a container: the next client then waits until the server
        misses this one.
        """
        found = self._read()
        own = found.get("place") == self._place()
        return found["node_id"] if own and isinstance(found.get("node_id"), int) else None

    def instance_left(self) -> str:
        """Of the client that wrote the file, which may be this one."""
        left = self._read().get("instance")
        return left if isinstance(left, str) else self.instance

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _place(self) -> list[str]:
        """The running system and the folder on it; a copy has another, wherever it lies."""
        try:
            system = _BOOT_ID.read_text(encoding="ascii").strip()
        except OSError:
            system = ""
        about = self._path.parent.stat()
        return [system, socket.gethostname(), str(about.st_dev), str(about.st_ino)]
