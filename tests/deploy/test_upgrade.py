"""State folders between versions: what earlier code wrote is read, and what it cannot read stays as it is.

The earlier versions are commits of this repository, whose own code makes and uses the folders, in this environment.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from stic_core.models.saved import read_model
from support.federation_kit import Home
from support.waiting import PATIENCE_S, until

TREE = Path(__file__).parents[2]


def _history_is_here() -> bool:
    asked = subprocess.run(
        ["git", "-C", TREE, "rev-parse", "--is-shallow-repository"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() == "false"


pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(
        not _history_is_here(), reason="earlier code comes from the repository's whole history"
    ),
]

BEFORE = "632a524"
"""1 December 2026: the version before health, metrics, tracking and the ways of deploying."""

EARLIER = "3ea3bae"
"""28 November 2026: datasets with schema 1."""

ROUNDS = 5
SITES = ("center1", "center2")
BIN = Path(sys.executable).parent

_MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from support.federation_kit import make_home
home = make_home(Path(sys.argv[1]), rounds={rounds})
home.edit(home.federation, runs=str(home.path / "server" / "runs"))
print(home.port)
"""


class Version:
    """The code of a commit, unpacked."""

    def __init__(self, commit: str, folder: Path) -> None:
        found = subprocess.run(["git", "-C", TREE, "archive", commit], capture_output=True, check=False)
        assert found.returncode == 0, found.stderr.decode()
        with tarfile.open(fileobj=io.BytesIO(found.stdout)) as tar:
            tar.extractall(folder, filter="data")
        self._folder = folder

    def _environment(self, home: Path) -> dict[str, str]:
        code = os.pathsep.join(str(self._folder / name) for name in ("", "server", "client"))
        own = {
            "PYTHONPATH": code,
            "PYTHONDONTWRITEBYTECODE": "1",
            "STIC_HOME": str(home),
            "STIC_INTERVALS": "0.5",
        }
        return os.environ | own

    def make_home(self, path: Path) -> Home:
        """A federation of two sites, made by this version."""
        command = [sys.executable, "-c", _MAKE.format(rounds=ROUNDS), str(path)]
        made = subprocess.run(
            command,
            env=self._environment(path),
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        return Home(path, int(made.stdout.split()[-1]))

    def run(self, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of this version that ends by itself."""
        return subprocess.run(
            [BIN / words[0], *words[1:]],
            env=self._environment(home),
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    @contextmanager
    def running(self, home: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
        """A server and its sites' clients of this version."""
        commands = {
            "server": ("stic-server", "start"),
            **{site: ("stic-client", "--site", site, "--once") for site in SITES},
        }
        with ExitStack() as stack:
            programs = {}
            for name, words in commands.items():
                log = stack.enter_context((home / f"{name}.log").open("ab"))
                programs[name] = stack.enter_context(
                    subprocess.Popen(
                        [BIN / words[0], *words[1:]],
                        env=self._environment(home),
                        cwd=self._folder,
                        stdout=log,
                        stderr=log,
                    )
                )
                stack.callback(programs[name].kill)
            yield programs


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The version before this one."""
    return Version(BEFORE, tmp_path_factory.mktemp("before"))


@pytest.fixture(scope="module")
def stopped(before: Version, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A federation that the version before began, stopped in the middle of its run."""
    home = before.make_home(tmp_path_factory.mktemp("stopped") / "home")
    checkpoints = home.path / "server" / "runs"
    with before.running(home.path) as programs:
        until(lambda: [*checkpoints.glob("*/checkpoints/round-0000[2-5]*")], what="round 2")
        for program in programs.values():
            program.send_signal(signal.SIGINT)
        assert [program.wait(PATIENCE_S) for program in programs.values()] == [130, 130, 130]
    return home


def _copy(home: Home, path: Path) -> Home:
    """A copy of a home, with the paths in its configuration corrected."""
    shutil.copytree(home.path, path)
    for file in path.rglob("*.yaml"):
        file.write_text(file.read_text().replace(str(home.path), str(path)))
    return Home(path, home.port)


def _finish(home: Home) -> None:
    """This version's programs, until the run is over."""
    with (
        home.running("stic-client", "--site", "center1", "--once", output=home.path / "center1.log"),
        home.running("stic-client", "--site", "center2", "--once", output=home.path / "center2.log"),
    ):
        started = home.run("stic-server", "start")
        assert started.returncode == 0, started.stderr
        (home.path / "server.log").write_text(started.stderr)


def _runs(home: Home) -> list[Path]:
    return sorted(path.parent for path in (home.path / "server" / "runs").glob("*/record.json"))


def _files(folder: Path) -> Mapping[str, str]:
    """What is in a folder, but for locks, logs, and what a program says of itself while it runs."""
    own = {"node.json", "node.lock", "status.json", ".lock"}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".log" and path.name not in own
    }


def test_a_run_of_the_version_before_goes_on(before: Version, stopped: Home, tmp_path: Path) -> None:
    """Begun by the version before and ended by this one: the model is the one that the version before makes alone.

    After a downgrade the version before reads the server's status and log, and the sites' logs and ledgers; it changes
    nothing.
    """
    whole, upgraded = _copy(stopped, tmp_path / "whole"), _copy(stopped, tmp_path / "upgraded")
    with before.running(whole.path) as programs:
        assert [program.wait(PATIENCE_S) for program in programs.values()] == [0, 0, 0]
    _finish(upgraded)
    assert "resuming run" in (upgraded.path / "server.log").read_text()
    digests = [
        [read_model(run / "model").description.digest for run in _runs(home)] for home in (whole, upgraded)
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 1

    kept = _files(upgraded.path)
    ledgers = [("stic-client", "--site", site, "audit") for site in SITES]
    for words in (("stic-server", "status"), ("stic-server", "audit"), *ledgers):
        done = before.run(upgraded.path, *words)
        assert done.returncode == 0, done.stderr
    assert _files(upgraded.path) == kept


def test_a_run_whose_plan_is_of_another_version_is_left_as_it_is(stopped: Home, tmp_path: Path) -> None:
    """It cannot be resumed: one line says so, a new run begins, and every file of the old one is what it was."""
    home = _copy(stopped, tmp_path / "home")
    (old,) = _runs(home)
    plan = json.loads((old / "plan.json").read_text())
    (old / "plan.json").write_text(json.dumps(plan | {"of_a_later_version": 1}))
    kept = _files(old)
    _finish(home)
    said = (home.path / "server.log").read_text()
    assert f"run {old.name} is not finished, and its plan is not of this version" in said
    assert len(_runs(home)) == 2
    assert _files(old) == kept


def test_a_dataset_of_an_earlier_version_is_prepared_again(tmp_path: Path) -> None:
    """One line at the client says so, exit code 1; its key, its logs and its plans are read as they are."""
    earlier = Version(EARLIER, tmp_path / "code")
    home = earlier.make_home(tmp_path / "home")
    kept = _files(home.path)
    refused = home.run("stic-client", "--site", "center1", "check", "--offline")
    said = " ".join((refused.stdout + refused.stderr).split())
    assert "was written by another version" in said
    assert "Traceback" not in said
    written = {name for name, digest in _files(home.path).items() if kept.get(name) != digest}
    assert not [name for name in written if not Path(name).name.startswith("check")]


def test_earlier_code_refuses_a_later_dataset(stopped: Home, tmp_path: Path) -> None:
    """A downgrade across a change of the schema: it says to prepare again, and changes nothing."""
    earlier = Version(EARLIER, tmp_path / "code")
    home = _copy(stopped, tmp_path / "home")
    kept = _files(home.path / "sites" / "center1")
    refused = earlier.run(home.path, "stic-client", "--site", "center1", "check", "--offline")
    said = " ".join((refused.stdout + refused.stderr).split())
    assert "prepared dataset is damaged: dataset.json cannot be read" in said
    now = _files(home.path / "sites" / "center1")
    assert {name: now.get(name) for name in kept} == kept
