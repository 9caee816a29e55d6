"""The demo's launcher: two phantom centres, then the same commands as in a real federation.

It calls `stic-server` and `stic-client` as a user would, each in a process of its own, over
TLS on loopback. What is there already is used again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from stic_core import config_files
from stic_core.config import FederationConfig
from stic_core.errors import SticError
from stic_core.phantom import DEMO_COUNTS, FULL_COUNTS, write_cohort
from stic_core.system.terminal import Terminal
from stic_server.setup import NewFederation, initialise

CENTRES = ("center1", "center2")
CROP_MM = 160.0
VIEWS = 6

_STOP_S = 3.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_demo(folder: Path, *, runs: Path, seed: int, full: bool, secure_aggregation: bool = False) -> None:
    """From phantom patients to the report.

    Args:
        folder: keeps what one demo leaves for the next: phantoms, keys, prepared data.
        runs: where the run goes.
        seed: of the phantoms and of training.
        full: as many patients as the paper's two centres.
        secure_aggregation: the server sees only the sum of the centres' updates.

    Raises:
        SticError: a step failed; its own output says why.
    """
    # A service manager stops with SIGTERM; leave as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = folder / f"demo-seed{seed}{'-full' * full}{'-secure' * secure_aggregation}"
    counts = FULL_COUNTS if full else DEMO_COUNTS
    _write_phantoms(home, counts=counts, seed=seed)
    federation = _set_up_server(home, runs=runs, seed=seed, secure_aggregation=secure_aggregation)
    for centre in CENTRES:
        _set_up_site(home, centre, port=federation.listen.port)
        _step(home, "stic-client", "--site", centre, "prepare")
    for centre in CENTRES:
        # Nobody's patients: a demo that is run again after an upgrade may look at them again.
        shutil.rmtree(home / "sites" / centre / "held-out", ignore_errors=True)
    plan = home / "plan.json"  # it names the admitted sites
    _step(home, "stic-server", "plan", "--out", str(plan))
    for centre in CENTRES:
        _step(home, "stic-client", "--site", centre, "approve", str(plan), "--yes")
    _run_federation(home)


def _write_phantoms(home: Path, *, counts: Mapping[str, Mapping[str, int]], seed: int) -> None:
    with Terminal() as terminal:
        for centre in CENTRES:
            what = f"writing phantom patients of {centre} as DICOM"
            terminal.stage(what)
            write_cohort(
                home / "hospital" / centre,
                centre=centre,
                seed=seed,
                counts=counts[centre],
                workers=os.cpu_count() or 1,
                progress=lambda done, total, what=what: terminal.progress(what, done, total),
            )
            terminal.note(f"{centre}: {sum(counts[centre].values())} phantom patients, 3 CT slices each")


def _set_up_server(home: Path, *, runs: Path, seed: int, secure_aggregation: bool) -> FederationConfig:
    path = home / "server" / "federation.yaml"
    if path.exists() and not _free(config_files.load(path, FederationConfig).listen.port):
        # Keys and certificates carry no port; a fresh set is as good and leaves no file half changed.
        shutil.rmtree(home / "server")
        shutil.rmtree(home / "sites", ignore_errors=True)
    if not path.exists():
        port = _free_port()
        new = NewFederation(
            name="demo",
            host="127.0.0.1",
            port=port,
            names=("localhost", "127.0.0.1"),
            backbone="tiny",
            views=VIEWS,
            crop_mm=CROP_MM,
            seed=seed,
            join_timeout_s=300,
            runs=runs,
            secure_aggregation=secure_aggregation,
        )
        initialise(path.parent, new)
    return config_files.load(path, FederationConfig)


def _set_up_site(home: Path, centre: str, *, port: int) -> None:
    folder = home / "sites" / centre
    if not (folder / "site.yaml").exists():
        _step(
            home,
            *("stic-client", "--site", centre, "enroll"),
            *("--server", f"127.0.0.1:{port}", "--ca", str(home / "server" / "ca.crt")),
            *("--data", str(home / "hospital" / centre), "--crop-mm", f"{CROP_MM:g}"),
        )
    _step(home, "stic-server", "admit", centre, str(folder / "site.pub"))


def _run_federation(home: Path) -> None:
    logs = home / "logs"
    logs.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        children = stack.enter_context(_Children(home))
        server = children.start("stic-server", "start")
        clients = {}
        for centre in CENTRES:
            log = stack.enter_context((logs / f"{centre}.log").open("w"))
            clients[centre] = children.start("stic-client", "--site", centre, "--once", output=log)
        while server.poll() is None:
            for centre, client in clients.items():
                if client.poll():
                    raise SticError(
                        f"the client of {centre} ended",
                        got=f"exit code {client.returncode}",
                        advice=_last_line(logs / f"{centre}.log"),
                    )
            time.sleep(0.1)
        if server.returncode:
            raise SticError("the server ended", got=f"exit code {server.returncode}")
        for client in clients.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(10.0)


class _Children:
    """Processes that end with this one, however it ends."""

    def __init__(self, home: Path) -> None:
        self._environment = _environment(home)
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, output: IO[str] | None = None) -> subprocess.Popen[bytes]:
        """Start a command of ours; without `output` it shares this terminal."""
        child = subprocess.Popen(
            _command(command),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C reaches this process alone, which then stops the others once and in order.
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  no thread of ours holds a lock here
        )
        self._children.append(child)
        return child

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _STOP_S
        for child in self._children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _step(home: Path, *command: str) -> None:
    """A command that is over before the next one, on this terminal; its product is conversation here."""
    with _Children(home) as children:
        child = children.start(*command, output=sys.stderr)
        if child.wait():
            raise SticError(f"`{' '.join(command[:4])}` failed", got=f"exit code {child.returncode}")


def _command(command: Sequence[str]) -> list[str]:
    """The program beside this Python, as the installation put it there."""
    return [str(Path(sys.executable).with_name(command[0])), *command[1:]]


def _environment(home: Path) -> dict[str, str]:
    # Three processes on few cores: more threads than cores slow each other down.
    threads = str(max(1, (os.cpu_count() or 1) // len(CENTRES)))
    return {"OMP_NUM_THREADS": threads, **os.environ, "STIC_HOME": str(home)}


def _die_with_parent() -> None:
    """Linux: the child gets SIGTERM when this process dies, even by kill -9."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"See {path}."
