"""The same apps on a stock SuperLink and SuperNodes, where each message starts a process: the same model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stic_core.models.saved import read_model
from support.federation_kit import Home, free_port, make_home
from support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.deploy

BIN = Path(sys.executable).parent
APP = Path(__file__).parents[2] / "deploy" / "flower-app"


def test_stock_flower_ends_with_the_same_model(tmp_path: Path) -> None:
    """Real `flower-superlink` and `flower-supernode`s with TLS and node keys: bit for bit what `start` makes."""
    ours = make_home(tmp_path / "ours", rounds=2)
    shutil.copytree(ours.path, tmp_path / "stock")
    stock = Home(tmp_path / "stock", ours.port)
    for path in stock.path.rglob("*.yaml"):
        path.write_text(path.read_text().replace(str(ours.path), str(stock.path)))
    with (
        ours.running("stic-client", "--site", "center1", "--once", output=tmp_path / "center1.log"),
        ours.running("stic-client", "--site", "center2", "--once", output=tmp_path / "center2.log"),
    ):
        started = ours.run("stic-server", "start")
        assert started.returncode == 0, started.stderr
    with _superlink(stock) as (flwr, start):
        for site in ("center1", "center2"):
            folder = stock.site(site)
            flwr("supernode", "register", str(folder / "site.pub"), "here", "--name", site)
            start(
                site,
                *("flower-supernode", "--superlink", f"127.0.0.1:{stock.port}"),
                *("--root-certificates", str(stock.path / "server" / "ca.crt")),
                *("--auth-supernode-private-key", str(folder / "site.key")),
                *("--node-config", f'site-config="{folder / "site.yaml"}"'),
                *("--host", "127.0.0.1", "--port", str(free_port())),
            )
        flwr("run", str(APP), "here", "--run-config", f'federation="{stock.federation}"')
        until(lambda: [*(stock.path / "runs").glob("*/report.html")], what="the report of the run")
    digests = [read_model(home.run_folder() / "model").description.digest for home in (ours, stock)]
    assert digests[0] == digests[1]


@contextmanager
def _superlink(home: Home) -> Iterator[tuple[Callable[..., None], Callable[..., None]]]:
    """A SuperLink with the federation's certificate, how to command it, and how to start programs beside it."""
    server, flower = home.path / "server", home.path / "flower"
    flower.mkdir()
    (flower / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{home.port}"\n'
        f'root-certificates = "{server / "ca.crt"}"\n'
    )
    environment = home.environment() | {"FLWR_HOME": str(flower), "PATH": f"{BIN}:{os.environ['PATH']}"}
    programs: list[subprocess.Popen[bytes]] = []

    def start(name: str, program: str, *arguments: str) -> None:
        with (flower / f"{name}.log").open("wb") as log:
            command = [str(BIN / program), *arguments]
            programs.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def flwr(*arguments: str) -> None:
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        start(
            "superlink",
            *("flower-superlink", "--ssl-certfile", str(server / "server.crt")),
            *("--ssl-keyfile", str(server / "server.key"), "--ssl-ca-certfile", str(server / "ca.crt")),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
            *("--host", "127.0.0.1", "--port", str(home.port)),
        )
        log = flower / "superlink.log"
        until(lambda: "startup complete" in log.read_text(), what="the SuperLink")
        yield flwr, start
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait(PATIENCE_S)
