"""Ctrl-C at any moment: the word `interrupted`, exit code 130, and no traceback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.accidents import said
from support.federation_kit import make_home
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


PHASES = [
    ("stic-server", "starting ...", False),
    ("stic-server", "waiting for the sites ...", True),
    ("stic-server", "round   1 of", True),
    ("stic-client", "connecting to", False),
    ("stic-client", "not reached", False),
    ("stic-client", "online", True),
    ("stic-client", "round 1 of", True),
]
"""Who is interrupted when it says what, and whether the others run."""


@pytest.mark.processes
def test_interrupted_in_every_phase(tmp_path: Path) -> None:
    """Regression: Typer made an exit code of Ctrl-C, and nothing was said. At whatever it is saying, each command ends."""
    home = make_home(tmp_path, rounds=500)
    server = ("stic-server", "start", "--config", str(home.federation))
    first, second = (("stic-client", "--site", site) for site in ("center1", "center2"))
    for program, text, beside in PHASES:
        command, others = (server, [first, second]) if program == "stic-server" else (second, [server, first])
        with ExitStack() as running:
            for other in others if beside else ():
                running.enter_context(home.running(*other, output=tmp_path / "others.log"))
            with home.running(*command, accident=said(text, signal.SIGINT)) as process:
                shown, _ = process.communicate(timeout=PATIENCE_S)
        last = shown.splitlines()[-1]  # behind the time, once there is work to be seen
        assert (process.returncode, last.partition(" ")[2]) == (130, f"{program}: interrupted"), (text, shown)
        assert "Traceback" not in shown
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.mark.processes
@pytest.mark.parametrize("program", ["stic-server", "stic-client"])
def test_interrupted_while_it_imports(tmp_path: Path, program: str) -> None:
    """Before anything of ours can catch it: the same word and code, from the real script."""
    script = Path(sys.executable).with_name(program).read_text()
    interrupting = (
        "import signal, sys, types\nsys.argv = [{name!r}, '--help']\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    path = tmp_path / "begin.py"
    path.write_text(interrupting.format(name=program) + script.replace("sys.argv[0] =", "_ ="))
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, f"{program}: interrupted\n")
