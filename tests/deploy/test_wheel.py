"""What is built is what works: the wheel, in environments that hold no more than it asks for."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import stic_core
from stic_core.phantom import write_cohort
from support.bare_environment import make_environment
from support.federation_kit import free_port
from support.waiting import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.long]

TREE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist, as `make dist` builds them."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], check=True, cwd=TREE)
    return folder


@pytest.fixture(scope="module")
def commands(built: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of commands of a server's environment and of a client's."""
    (wheel,) = built.glob("*.whl")
    return {
        extra: make_environment(tmp_path_factory.mktemp(extra), wheel=wheel, extra=extra)
        for extra in ("server", "client")
    }


def test_wheel_and_sdist_hold_the_packages_and_nothing_of_tests(built: Path) -> None:
    """Both are of the version in `stic_core`; the wheel has templates, weights and type marker, and no test."""
    (wheel,) = built.glob(f"stic_federated-{stic_core.__version__}-py3-none-any.whl")
    (sdist,) = built.glob(f"stic_federated-{stic_core.__version__}.tar.gz")
    inside = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in inside if ".dist-info" not in name} == {
        "stic_core",
        "stic_server",
        "stic_client",
    }
    of_git = subprocess.run(
        ["git", "ls-files", "stic_core", "server", "client"],
        cwd=TREE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {name.removeprefix("server/").removeprefix("client/") for name in of_git}
    assert expected <= set(inside)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "requirements.lock", *of_git} <= names


def test_a_command_whose_extra_is_not_installed_names_it(commands: dict[str, Path], tmp_path: Path) -> None:
    """The server's command in a client's environment: one line with what to install, exit code 2."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["STIC_HOME"] = str(tmp_path)

    def run(command: str) -> subprocess.CompletedProcess[str]:
        program = commands["client"] / "stic-server"
        return subprocess.run(
            [program, command], env=environment, capture_output=True, text=True, check=False
        )

    made = run("init")
    assert made.returncode == 0, made.stderr  # what needs no library of the server works
    done = run("start")
    assert done.returncode == 2
    assert "stic-federated[server]" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_federation_from_the_wheel(commands: dict[str, Path], tmp_path: Path) -> None:
    """Each side from its own extra alone: init, enroll, admit, prepare of DICOM, start and join end with a report."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    environment |= {"STIC_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "STIC_INTERVALS": "0.5"}

    def start(side: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [commands[side] / f"stic-{side}", *arguments],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(side: str, *arguments: str) -> str:
        output, _ = (process := start(side, *arguments)).communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
        return output

    write_cohort(
        tmp_path / "exports", centre="center1", seed=0, counts={"train": 4, "val": 3, "test": 6}, workers=2
    )
    port = free_port()
    run("server", "init", "--port", str(port), "--backbone", "tiny")
    ca = tmp_path / "server" / "ca.crt"
    address = ("--server", f"127.0.0.1:{port}", "--ca", str(ca), "--data", str(tmp_path / "exports"))
    run("client", "--site", "center1", "enroll", *address)
    run("server", "admit", "center1", str(tmp_path / "sites" / "center1" / "site.pub"))
    run("client", "--site", "center1", "prepare")
    for path, changes in (
        (tmp_path / "server" / "federation.yaml", {"rounds": 2, "min_sites": 1}),
        (tmp_path / "sites" / "center1" / "site.yaml", {"policy": {"plans": "any"}}),
    ):
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    with start("client", "--site", "center1", "--once") as client:
        output = run("server", "start")
        assert client.wait(PATIENCE_S) == 0
    (report,) = (tmp_path / "server").glob("runs/*/report.html")
    assert str(report) in output
