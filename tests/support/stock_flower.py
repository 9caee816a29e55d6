"""Flower's own programs for a test: a SuperLink, what runs beside it, and the `flwr` command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from support.federation_kit import Home
from support.ray_room import ray_room
from support.waiting import PATIENCE_S, until

BIN = Path(sys.executable).parent
APP = Path(__file__).parents[2] / "deploy" / "flower-app"


@contextmanager
def superlink(
    home: Home, *, simulation: bool = False
) -> Iterator[tuple[Callable[..., str], Callable[..., None]]]:
    """A SuperLink on the home's port, how to command it, and how to start programs beside it.

    Args:
        simulation: of virtual nodes, without TLS on this machine; else with the federation's certificate.
    """
    server, flower = home.path / "server", home.path / "flower"
    flower.mkdir()
    connection = "insecure = true" if simulation else f'root-certificates = "{server / "ca.crt"}"'
    (flower / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{home.port}"\n{connection}\n'
    )
    own = {"FLWR_HOME": str(flower), "FLWR_TELEMETRY_ENABLED": "0", "PATH": f"{BIN}:{os.environ['PATH']}"}
    with (
        ray_room() if simulation else nullcontext({}) as room,
        _running(home, flower, environment=home.environment() | own | room, simulation=simulation) as there,
    ):
        yield there


@contextmanager
def _running(
    home: Home, flower: Path, *, environment: Mapping[str, str], simulation: bool
) -> Iterator[tuple[Callable[..., str], Callable[..., None]]]:
    server = home.path / "server"
    programs: list[subprocess.Popen[bytes]] = []

    def start(name: str, program: str, *arguments: str) -> None:
        with (flower / f"{name}.log").open("wb") as log:
            command = [str(BIN / program), *arguments]
            programs.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def flwr(*arguments: str) -> str:
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tls = [
        *("--ssl-certfile", str(server / "server.crt"), "--ssl-keyfile", str(server / "server.key")),
        *("--ssl-ca-certfile", str(server / "ca.crt"), "--enable-supernode-auth"),
    ]
    try:
        start(
            "superlink",
            *("flower-superlink", *(["--insecure", "--simulation"] if simulation else tls)),
            *("--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(home.port)),
        )
        log = flower / "superlink.log"
        until(lambda: "startup complete" in log.read_text(), what="the SuperLink")
        yield flwr, start
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait(PATIENCE_S)
