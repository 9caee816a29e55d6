"""Ctrl-C while worker processes start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.waiting import PATIENCE_S, until

_SCRIPT = """
import signal
from pathlib import Path
from stic_core.phantom import write_cohort

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background inherits that it is ignored
    print("begun", flush=True)
    write_cohort(Path({folder!r}), centre="center1", seed=0, counts={{"train": 4000}}, workers=2)
"""


def _workers(pid: int) -> int:
    """Children that Python's `spawn` started, without its resource tracker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(b"spawn_main" in Path("/proc", child, "cmdline").read_bytes() for child in children)


@pytest.mark.processes
def test_starting_workers_print_no_traceback(tmp_path: Path) -> None:
    """Regression: a terminal's Ctrl-C reached workers that had no handler yet, and each printed a traceback."""
    script = tmp_path / "write.py"
    script.write_text(_SCRIPT.format(folder=str(tmp_path / "cohort")))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    until(lambda: _workers(process.pid) == 2, what="the workers start")  # and import
    os.killpg(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGINT
    assert shown.count("Traceback") == 1  # the script's own, which catches nothing
