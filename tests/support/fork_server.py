"""Programs of ours without their seconds of imports: a process that has everything loaded forks at each launch.

    python -m support.fork_server SOCKET FD

What is forked is a process like any other: its own pid, signals, streams, folder, environment and
exit code. It differs from a console script's in three things: the modules are there already, all
launches share one seed of string hashes, and it is a child of this process, which says how it ended.

`programs` is the tests' side. One message a connection: a launch, with the three streams, whose
answers are the pid and at last the exit code; or `keep`, from a process of the test run. Who closes
the connection of a launch kills the program; when the last keeper is gone, everything ends here.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import random
import selectors
import shutil
import signal
import socket
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from support import accidents

KEEP = b"keep"
_BIGGEST = 1 << 18
_PACKAGES = ("stic_core", "stic_server", "stic_client")

# Not `__main__.main`: what a program does must not depend on this module.
Program = Callable[[], object]


def _preload() -> None:
    """Everything that a command may import, before anybody waits for it."""
    from stic_core.system import command_errors

    del command_errors  # sets Flower's environment, which Flower reads when it is imported
    for name in _PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, prefix=f"{name}."):
            importlib.import_module(module.name)
    importlib.import_module("matplotlib.pyplot")
    importlib.import_module("stic_server.flower_link")
    threads = list(Path("/proc/self/task").iterdir())
    if len(threads) > 1:  # a lock that another thread holds at the fork stays locked in the child
        raise RuntimeError(f"importing our packages starts {len(threads) - 1} threads")
    gc.collect()
    gc.freeze()  # a collection in a child would write to every page that it shares


class _Server:
    """One thread that forks and reaps.

    Args:
        listener: where launches come in.
        keeper: the connection of whoever started this process.
    """

    def __init__(self, listener: socket.socket, keeper: socket.socket) -> None:
        self._listener, self._keepers = listener, {keeper}
        self._selector = selectors.DefaultSelector()
        self._running: dict[socket.socket, tuple[int, int]] = {}
        """pid and pidfd, by the connection of the launch."""
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(keeper, selectors.EVENT_READ, self._leave)

    def serve(self) -> Program | None:
        """Until the last keeper is gone: None; in a child: what it has to do."""
        while self._keepers:
            for key, _ in self._selector.select():
                if key.fileobj not in self._selector.get_map():
                    continue  # another event of this turn ended it
                program = key.data(key.fileobj)
                if program is not None:
                    return program
        for pid, _ in self._running.values():
            os.kill(pid, signal.SIGKILL)
        return None

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        self._selector.register(connection, selectors.EVENT_READ, self._receive)

    def _leave(self, keeper: socket.socket) -> None:
        self._selector.unregister(keeper)
        self._keepers.discard(keeper)
        keeper.close()

    def _receive(self, connection: socket.socket) -> Program | None:
        content, streams, _, _ = socket.recv_fds(connection, _BIGGEST, 3)
        self._selector.unregister(connection)
        if content == KEEP:
            self._keepers.add(connection)
            self._selector.register(connection, selectors.EVENT_READ, self._leave)
            return None
        if not content:
            connection.close()
            return None
        pid = os.fork()
        if pid == 0:
            self._close_all()
            connection.close()
            return _become(json.loads(content), streams)
        for stream in streams:
            os.close(stream)
        ended = os.pidfd_open(pid)
        self._running[connection] = (pid, ended)
        self._selector.register(connection, selectors.EVENT_READ, self._abandon)
        self._selector.register(ended, selectors.EVENT_READ, lambda _: self._reap(connection))
        connection.send(json.dumps({"pid": pid}).encode())
        return None

    def _abandon(self, connection: socket.socket) -> None:
        """Nobody waits for it any more."""
        os.kill(self._running[connection][0], signal.SIGKILL)
        self._selector.unregister(connection)

    def _reap(self, connection: socket.socket) -> None:
        pid, ended = self._running.pop(connection)
        _, status = os.waitpid(pid, 0)
        self._selector.unregister(ended)
        os.close(ended)
        if connection in self._selector.get_map():
            self._selector.unregister(connection)
        with suppress(OSError):  # it was abandoned
            connection.send(json.dumps({"returncode": os.waitstatus_to_exitcode(status)}).encode())
        connection.close()

    def _close_all(self) -> None:
        """A child holds none of these open: who waits for their end would wait for the child's."""
        for key in self._selector.get_map().values():
            os.close(key.fd)
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.detach()
        self._selector.close()


def _become(launch: dict[str, Any], streams: list[int]) -> Program:
    """In the child: streams, environment, folder, umask, signals, chance and host as a new process has them."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    os.environ.clear()
    os.environ.update(launch["environment"])
    os.chdir(launch["folder"])
    os.umask(launch["umask"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    importlib.import_module("numpy").random.seed()
    # A child that starts processes by `spawn` must not have them import this module.
    sys.modules["__main__"] = types.ModuleType("__main__")
    if launch["host"]:
        _enter(launch["host"])
    if launch["accident"]:
        accidents.arrange(launch["accident"])
    program, *arguments = launch["command"]
    sys.argv = [program, *arguments]
    package = {"stic-server": "stic_server.cli", "stic-client": "stic_client.cli"}[Path(program).name]
    return importlib.import_module(package).main


def _enter(host: str) -> None:
    """As `ip netns exec`; Python has it from 3.12 on."""
    with Path("/var/run/netns", host).open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), f"no network namespace {host}")


class _Exit:
    """How a child ends: after its last thread and its last exit handler, at once.

    An interpreter would take everything apart first, and so copy every page that the children share.
    """

    def __init__(self) -> None:
        self._code: int | None = None
        atexit.register(self._leave)  # the first to be registered is the last to run

    def of(self, program: Program) -> None:
        """Do it; any other end than by an exit code is the interpreter's."""
        try:
            program()
        except SystemExit as left:
            self._code = left.code if isinstance(left.code, int) else None
            raise

    def _leave(self) -> None:
        if self._code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._code)


def main() -> None:
    """Serve; a child comes back out of here as the program that it is, and ends as any interpreter does."""
    ending = _Exit()
    path, keeper = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test run, which ends what it started
    _preload()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(64)
    Path(f"{path}.ready").touch()
    program = _Server(listener, keeper).serve()
    if program is not None:
        ending.of(program)
    else:
        gc.unfreeze()
        shutil.rmtree(Path(path).parent, ignore_errors=True)


if __name__ == "__main__":
    main()
