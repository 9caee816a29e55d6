"""One server per federation, whatever its port: two would write the same run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stic_core.errors import UsageError
from stic_core.system.one_process import only_process
from stic_server.status.file import read_activity, state_of


@contextmanager
def only_server(folder: Path) -> Iterator[None]:
    """Be the one server of a federation.

    Args:
        folder: of federation.yaml.

    Raises:
        UsageError: another one runs.
    """
    activity = read_activity(folder)
    runs = activity is not None and state_of(activity, now=time.time()) == "running"
    taken = UsageError(
        "a server of this federation is already running",
        got=f"process {activity.pid} on {activity.host}" if activity is not None and runs else None,
        advice="Stop it first; stic-server status shows what it is doing.",
    )
    with only_process(folder / "server.lock", taken=taken):
        yield
