"""A hospital's disk that is full, with real processes: a file system of some megabytes that only the client sees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from support.accidents import said
from support.federation_kit import Home, make_home
from support.waiting import PATIENCE_S, until

SITES = ("center1", "center2")
OWN = ("unshare", "--user", "--map-root-user", "--mount")


def _possible() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    mount = ("mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt")
    return subprocess.run([*OWN, *mount], capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not _possible(), reason="this user may not mount a tmpfs in a namespace of its own"),
]


class SmallDisk:
    """A tmpfs below a site's folder, as its client's process sees it.

    Args:
        process: the client's.
        path: where it is mounted there.
    """

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        self._folder = Path(f"/proc/{process.pid}/root") / path.relative_to("/")

    def __truediv__(self, name: str) -> Path:
        return self._folder / name

    def fill(self) -> None:
        """To the last byte."""
        with suppress(OSError), (self / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(1 << 12)):
                pass

    def clear(self) -> None:
        """There is room again."""
        (self / "ballast").unlink()


def _said(home: Home, name: str) -> str:
    return (home.path / f"{name}.log").read_text()


@contextmanager
def _on_small_disk(home: Home, site: str) -> Iterator[tuple[subprocess.Popen[str], SmallDisk]]:
    """A client whose log, models and arrays lie on a small disk; what it says goes to a file."""
    small = home.site(site) / "small"
    small.mkdir()
    places = {"audit": "audit.jsonl", "models": "models", "between_rounds": "between"}
    home.edit(home.site(site) / "site.yaml", **{key: str(small / name) for key, name in places.items()})
    script = f'mount -t tmpfs -o size=16m none "{small}" && exec "$@"'
    client = (str(Path(sys.executable).with_name("stic-client")), "--site", site, "--once")
    with (home.path / f"{site}.log").open("w") as output:
        process = subprocess.Popen(
            [*OWN, "sh", "-c", script, "sh", *client],
            env=home.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        until(lambda: "connecting" in _said(home, site), what=lambda: _said(home, site), alive=process)
        yield process, SmallDisk(process, small)
    finally:
        process.kill()
        process.wait()


class Federation:
    """A server, and center1, which stands still once it has trained round 2; center2 is to come.

    Args:
        home: where what they say goes to files.
    """

    def __init__(self, home: Home, stack: ExitStack, *, still: bool) -> None:
        self.home = home
        accident = said("round 2 of 4", signal.SIGSTOP) if still else None
        self.server = stack.enter_context(
            home.running("stic-server", "start", output=home.path / "server.log")
        )
        self.center1 = stack.enter_context(
            home.running(
                *("stic-client", "--site", "center1", "--once"),
                output=home.path / "center1.log",
                accident=accident,
            )
        )

    def until(self, who: str, text: str) -> None:
        """Wait until a program has said something."""
        until(
            lambda: text in _said(self.home, who),
            what=lambda: "the server said:\n" + _said(self.home, "server"),
            alive=self.server,
        )

    def in_round_2(self) -> None:
        """Wait until center2 has trained it, and center1 stands still."""
        self.until("center2", "round 2 of 4")
        stat = Path(f"/proc/{self.center1.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", what="center1 does not stop")

    def go_on(self) -> None:
        """Let center1 answer."""
        os.kill(self.center1.pid, signal.SIGCONT)

    def record(self) -> dict[str, Any]:
        """Of the run."""
        return json.loads((self.home.run_folder() / "record.json").read_text())


@contextmanager
def _federation(path: Path, *, still: bool = True, **changes: object) -> Iterator[Federation]:
    home = make_home(path, sites=SITES, intervals=0.1)
    home.edit(home.federation, local_only=False, rounds=4, **changes)
    with ExitStack() as stack:
        yield Federation(home, stack, still=still)


@pytest.mark.long
def test_a_disk_that_is_full_in_the_rounds(tmp_path: Path) -> None:
    """The server says whom it waits for, nobody prints a traceback, and the model is that of a quiet run."""
    with (
        _federation(tmp_path / "quiet", still=False, transport="int8") as quiet,
        quiet.home.running("stic-client", "--site", "center2", "--once"),
    ):
        assert quiet.server.wait(PATIENCE_S) == 0, _said(quiet.home, "server")
    with (
        _federation(tmp_path / "full", transport="int8") as made,
        _on_small_disk(made.home, "center2") as (client, disk),
    ):
        made.in_round_2()
        disk.fill()
        made.go_on()
        made.until("server", "center2: its disk is full; it is asked again")
        assert [row["round"] for row in made.home.rounds()] == [1]  # round 2 has no scores yet
        disk.clear()
        assert made.server.wait(PATIENCE_S) == 0, _said(made.home, "server")
        assert client.wait(PATIENCE_S) == 0, _said(made.home, "center2")
    assert made.record()["model_digest"] == quiet.record()["model_digest"]
    assert _said(made.home, "center2").count("waiting for disk space") == 1
    assert _said(made.home, "center2").count("there is disk space again") == 1
    assert "Traceback" not in _said(made.home, "server") + _said(made.home, "center2")


@pytest.mark.long
def test_a_disk_that_is_full_at_the_end(tmp_path: Path) -> None:
    """The run is complete and says who lacks the model; once there is room the site is sent it."""
    with (
        _federation(tmp_path) as made,
        _on_small_disk(made.home, "center2") as (client, disk),
    ):
        made.in_round_2()
        (disk / "models/.reserve").unlink()
        disk.fill()
        made.go_on()
        assert made.server.wait(PATIENCE_S) == 0, _said(made.home, "server")
        run = made.home.run_folder()
        lacks = f"center2 has not stored the final model of run {run.name} (its disk is full)"
        assert lacks in _said(made.home, "server")
        assert made.record()["model_at"] == ["center1"]
        assert client.poll() is None
        disk.clear()
        sent = made.home.run("stic-server", "send-model", str(run))
        assert sent.returncode == 0, sent.stderr
        assert client.wait(PATIENCE_S) == 0, _said(made.home, "center2")
        assert made.record()["model_at"] == list(SITES)  # that is: with the record's digest
    assert _said(made.home, "center2").count("waiting for disk space") == 1
    assert "Traceback" not in _said(made.home, "server") + _said(made.home, "center2")
