"""Ctrl-C while worker processes start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_SCRIPT = """
from pathlib import Path
from stic_core.phantom import write_cohort

if __name__ == "__main__":
    print("begun", flush=True)
    write_cohort(Path({folder!r}), centre="center1", seed=0, counts={{"train": 40}}, workers=2)
"""


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
    time.sleep(0.5)  # the workers are importing
    os.killpg(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert shown.count("Traceback") == 1  # the script's own, which catches nothing
