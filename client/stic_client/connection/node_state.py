"""What a client leaves on the disk for the one that follows: its node's id, and a lock while it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stic_core.errors import UsageError
from stic_core.system.files import write_atomically
from stic_core.system.room import is_full


class NodeState:
    """The file of one site's node id.

    Args:
        path: of the file; the lock lies beside it, with the suffix `.lock`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One client of a site on a machine: two would take each other's messages.

        Raises:
            UsageError: another one runs.
        """
        lock = FileLock(self._path.with_suffix(".lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise UsageError(
                "a client of this site is already running on this machine", advice="Stop that one first."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def remember(self, node_id: int | None) -> None:
        """Keep the id for the client that follows on a crash; None once the server knows that it left.

        On a full disk nothing is kept: after a crash the next client then waits until the server misses this one.
        """
        try:
            write_atomically(self._path, json.dumps({"node_id": node_id}))
        except OSError as error:
            if not is_full(error):
                raise
            self._path.unlink(missing_ok=True)

    def left_behind(self) -> int | None:
        """The id of a client that was killed; None where the last one signed off, or none ever ran."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))["node_id"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, int) else None
