"""Programs of ours as processes: forked from one that has all imports done, or their real console scripts."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from support.accidents import Accident
from support.fork_server import KEEP

_STARTS_WITHIN_S = 300.0


class Process(Protocol):
    """What tests use of `subprocess.Popen`, which a forked program has too."""

    pid: int
    returncode: int | None
    stdout: IO[str] | None

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended."""
        ...

    def communicate(self, *, timeout: float | None = None) -> tuple[str, str]:
        """All that it writes, once it has ended."""
        ...

    def send_signal(self, sig: int) -> None:
        """Unless it has ended."""
        ...

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        ...


class ForkedProgram:
    """A program that the fork server forked; as `subprocess.Popen`.

    Args:
        command: the console script and its arguments.
        environment: all of it.
        stdout, stderr: a file, `subprocess.PIPE`, or `subprocess.STDOUT`.
        host: network namespace that it runs in.
        accident: what befalls it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        stdout: int | IO[str],
        stderr: int | IO[str],
        host: str | None = None,
        accident: Accident | None = None,
    ) -> None:
        self._command = list(command)
        self.returncode: int | None = None
        self.stdout, out = _stream(stdout)
        self.stderr, err = (None, out) if stderr == subprocess.STDOUT else _stream(stderr)
        self._readers: list[threading.Thread] = []
        self._said = {"stdout": "", "stderr": ""}
        umask = os.umask(0)
        os.umask(umask)
        launch = {
            "command": self._command,
            "environment": dict(environment),
            "folder": str(Path.cwd()),
            "umask": umask,
            "host": host,
            "accident": accident,
        }
        self._connection = _connect()
        with Path(os.devnull).open() as nothing:
            socket.send_fds(self._connection, [json.dumps(launch).encode()], [nothing.fileno(), out, err])
        for end in {out, err} - {one.fileno() for one in (stdout, stderr) if not isinstance(one, int)}:
            os.close(end)
        self.pid: int = self._heard()["pid"]

    def _heard(self) -> dict[str, int]:
        content = self._connection.recv(1 << 12)
        if not content:
            raise RuntimeError("the fork server is gone; it says why on this test run's stderr")
        return json.loads(content)

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            return self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: not within so many seconds.
        """
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self._command, timeout or 0.0)
            self.returncode = self._heard()["returncode"]
            self._connection.close()
        return self.returncode

    def communicate(self, *, timeout: float | None = None) -> tuple[str, str]:
        """All that it writes from now on, once it has ended.

        Raises:
            subprocess.TimeoutExpired: not within so many seconds; call it again to wait longer.
        """
        until = None if timeout is None else time.monotonic() + timeout
        if not self._readers:
            self._readers = [
                threading.Thread(target=self._read, args=(name,), daemon=True) for name in self._said
            ]
            for reader in self._readers:
                reader.start()
        for reader in self._readers:
            reader.join(None if until is None else max(0.0, until - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self._command, timeout or 0.0)
        self.wait(None if until is None else max(0.0, until - time.monotonic()))
        return self._said["stdout"], self._said["stderr"]

    def _read(self, name: str) -> None:
        stream: IO[str] | None = getattr(self, name)
        if stream is not None and not stream.closed:
            self._said[name] = stream.read()
            stream.close()

    def send_signal(self, sig: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close what a test left open."""
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self._connection.close()


def _stream(wanted: int | IO[str]) -> tuple[IO[str] | None, int]:
    """This side's end, and the program's."""
    if not isinstance(wanted, int):
        return None, wanted.fileno()
    if wanted != subprocess.PIPE:
        raise ValueError("a file, PIPE, or for stderr STDOUT")
    mine, its = os.pipe()
    return os.fdopen(mine, encoding="utf-8"), its


_kept: list[socket.socket] = []
"""The connection that keeps the fork server alive; closed when this process ends, however it ends."""

_started: list[subprocess.Popen[bytes]] = []
"""The fork server, where this process started it."""


def end() -> None:
    """Let the fork server go. Whoever started it waits for it, and for the others that keep it."""
    for keeper in _kept:
        keeper.close()
    _kept.clear()
    for server in _started:
        server.wait()
    _started.clear()


def _folder() -> Path:
    """Of the fork server's socket: one for all processes of a test run, a new one for each run."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    folder = Path(tempfile.gettempdir()) / f"stic-tests-{run}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _connect() -> socket.socket:
    """To this test run's fork server; the first who asks starts it."""
    path = _folder() / "fork-server"
    if not _kept:
        with (path.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                keeper = _reach(path)
                keeper.send(KEEP)
            except OSError:  # none yet, or the processes that kept it are gone
                keeper = _start(path)
            _kept.append(keeper)
    return _reach(path)


def _reach(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _start(path: Path) -> socket.socket:
    for stale in path.parent.glob("fork-server*"):
        stale.unlink()
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        server = subprocess.Popen(
            [sys.executable, "-m", "support.fork_server", str(path), str(its.fileno())],
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(
                    [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
                ),
            },
        )
    until = time.monotonic() + _STARTS_WITHIN_S
    while not path.with_name("fork-server.ready").exists():
        if server.poll() is not None or time.monotonic() > until:
            server.kill()
            raise RuntimeError("the fork server did not start")
        time.sleep(0.05)
    _started.append(server)
    return mine
