"""Where Ray may leave its token, its sockets and its logs in a test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ray_room() -> Iterator[dict[str, str]]:
    """Variables for what starts Ray; the folder that they name is removed at the end.

    It lies beside pytest's folders: the paths of Ray's sockets would be too long in there.
    """
    with tempfile.TemporaryDirectory(prefix="stic-ray-", ignore_cleanup_errors=True) as folder:
        yield {"HOME": folder, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
