"""One process at a time for a folder: the second one is told so, and one that was killed holds nobody up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stic_core.errors import UsageError


@contextmanager
def only_process(lock: Path, *, taken: UsageError) -> Iterator[None]:
    """Hold a lock for as long as the block runs.

    Args:
        lock: the file that is locked; it stays, and says nothing.
        taken: raised where another process holds it.

    Raises:
        UsageError: another process holds it, or the file system has no locks.
    """
    held = FileLock(lock)
    try:
        held.acquire(blocking=False)
    except Timeout:
        raise taken from None
    except NotImplementedError:
        raise UsageError(
            f"{lock} cannot be locked",
            got="a file system without locks",
            advice="Keep this folder on a disk of this machine.",
        ) from None
    try:
        yield
    finally:
        held.release()
