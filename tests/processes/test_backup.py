"""Backup and restore, with the commands of docs/deploy/backup.md as they stand there."""

from __future__ import annotations

import json
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.federation_kit import Home, make_home
from support.programs import Process
from support.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.processes, pytest.mark.long]

PAGE = Path(__file__).parents[2] / "docs" / "deploy" / "backup.md"
SITES = ("center1", "center2")
BACK_UP, COPY_LEDGER, RESTORE, LOOK, LAST_ANSWER = re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_a_run_resumes_from_a_backup_with_the_same_model(tmp_path: Path) -> None:
    """Both sides are lost after the run was over; restored from its middle, it ends with the same model and figures.

    Keys and modes are what they were, both logs are whole, and a look that the newer copy of the ledger knows is no new one.
    """
    home = make_home(tmp_path / "home", sites=SITES, rounds=5, intervals=0.1)
    home.edit(home.federation, runs=str(home.path / "server" / "runs"))
    runs, store = home.path / "server" / "runs", tmp_path / "store"
    store.mkdir()

    with _started(home, tmp_path) as programs:
        until(lambda: len([*runs.glob("*/checkpoints/round-0000[2-5]*")]) >= 1, what="round 2")
        for program in (programs["server"], *(programs[site] for site in SITES)):
            program.send_signal(signal.SIGINT)
            assert program.wait(PATIENCE_S) == 130
    before = _modes_and_keys(home)
    _shell(BACK_UP, home=home, folder=store)
    assert all(stat.S_IMODE((store / f"{name}.tar").stat().st_mode) == 0o600 for name in ("server", *SITES))

    _finish(home, tmp_path)
    _shell(COPY_LEDGER, home=home, folder=store)
    model, evaluation = _results(runs)
    ledger = _looks(home.site("center2"))
    assert len(ledger) == 4  # the model, both hospitals' own, and their ensemble
    newest = max(json.loads(look)["at"] for look in ledger.values())
    answered = _shell(LAST_ANSWER.strip(), home=home, folder=store)
    assert answered.startswith('"time": "20')
    assert answered.split('"')[3] >= newest  # a look is written down before it is answered

    for name in ("server", "sites"):
        shutil.move(home.path / name, tmp_path / f"lost-{name}")
    _shell(RESTORE, home=home, folder=store)
    assert _modes_and_keys(home) == before
    assert _looks(home.site("center2")) == ledger
    for command in LOOK.splitlines()[:3]:
        looked = home.run(*command.split())
        assert looked.returncode == 0, looked.stderr
    assert len([*runs.glob("*/rounds.jsonl")]) == 1

    _finish(home, tmp_path)
    assert _results(runs) == (model, evaluation)
    assert _looks(home.site("center2")) == ledger
    for words in (("stic-server", "audit"), *(("stic-client", "--site", site, "audit") for site in SITES)):
        assert "the chain of hashes is whole" in home.run(*words).stdout


@contextmanager
def _started(home: Home, folder: Path) -> Iterator[dict[str, Process]]:
    """A server and its sites' clients."""
    commands = {
        "server": ("stic-server", "start"),
        **{site: ("stic-client", "--site", site, "--once") for site in SITES},
    }
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(home.running(*words, output=folder / f"{name}.log"))
            for name, words in commands.items()
        }


def _finish(home: Home, folder: Path) -> None:
    """All programs are started, and end when the run is over."""
    with _started(home, folder) as programs:
        for name in ("server", *SITES):
            assert programs[name].wait(PATIENCE_S) == 0, (folder / f"{name}.log").read_text()


def _shell(block: str, *, home: Home, folder: Path) -> str:
    """What a block of the page prints: once as it is, and where it is of a site's files, for each other site too."""
    of_others = [
        line.replace("center2", site)
        for site in SITES[:-1]
        for line in block.splitlines()
        if "center2" in line and not line.startswith("stic-")
    ]
    text = "set -eu\n" + block + "\n".join(of_others)
    environment = home.environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["sh", "-c", text], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def _modes_and_keys(home: Home) -> dict[str, tuple[int, bytes]]:
    """Each file's mode, and the content of keys."""
    return {
        str(path.relative_to(home.path)): (
            stat.S_IMODE(path.stat().st_mode),
            path.read_bytes() if path.suffix in {".key", ".pub", ".crt"} else b"",
        )
        for name in ("server", "sites")
        for path in (home.path / name).rglob("*")
        if "held-out" not in path.parts
    }


def _looks(site: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (site / "held-out").glob("*.json")}


def _results(runs: Path) -> tuple[str, bytes]:
    (record,) = runs.glob("*/record.json")
    return json.loads(record.read_text())["model_digest"], (record.parent / "evaluation.json").read_bytes()
