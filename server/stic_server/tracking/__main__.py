"""`python -m stic_server.tracking`: one observer of one run, until its standard input ends.

The first line of the input says whom to tell, and of which run. Its standard output has lines of one word:
`failing`, `again` or `lacks`, the first and the last with the kinds of an error. They never have its text,
which may contain an address with a password.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol

from filelock import FileLock

from stic_server.tracking.figures import RunFigures, read_figures
from stic_server.tracking.mlflow_store import MlflowStore
from stic_server.tracking.processes import END_S
from stic_server.tracking.tensorboard_files import TensorBoardFiles

_LOOK_S = 1.0
_MOST_S = 60.0
"""Between looks at the run's folder; after a failure each pause is twice the one before, up to this."""


class Store(Protocol):
    """Whom to tell."""

    def send(self, run: RunFigures, *, over: bool) -> None:
        """Send what is lacking there; any error means that something may still be."""
        ...


def observe(
    make: Callable[[], Store], run: Path, *, over: Callable[[float], bool], say: Callable[[str], None]
) -> None:
    """Tell a store of a run until it is over.

    Args:
        make: a new store, which finds out by itself what is there already.
        run: the run's folder.
        over: waits for so many seconds, or until the run is over: whether it is.
        say: receives a line when sending begins to fail, works again, or failed at the end.
    """
    store: Store | None = None
    told: object = None
    failing, pause = False, _LOOK_S
    ending = over(0.0)
    while True:
        stamp = _stamp(run)
        if ending or stamp != told:
            try:
                store = store or make()
                store.send(read_figures(run), over=ending)
            except Exception as error:  # noqa: BLE001 - whatever happens in a tracker concerns no run
                store, told, pause = None, None, min(2 * pause, _MOST_S)
                if ending or not failing:
                    say(f"{'lacks' if ending else 'failing'} {kinds_of(error)}")
                failing = True
            else:
                if failing:
                    say("again")
                told, pause, failing = stamp, _LOOK_S, False
        if ending:
            return
        ending = over(pause)


def kinds_of(error: BaseException) -> str:
    """Kinds of an error and of what caused it, without their texts."""
    kinds: list[str] = []
    one: BaseException | None = error
    while one is not None and len(kinds) < 5:
        code = getattr(one, "error_code", "")  # MLflow's, such as RESOURCE_DOES_NOT_EXIST
        kinds.append(" ".join(filter(None, (type(one).__name__, code if isinstance(code, str) else ""))))
        one = one.__cause__ or one.__context__
    return ", ".join(dict.fromkeys(kinds))


def _stamp(run: Path) -> object:
    """Changes when a file does that the figures are read from."""
    found = []
    for name in ("record.json", "rounds.jsonl", "evaluation.json"):
        try:
            stat = (run / name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def _store_of(kind: str, where: str) -> Store:
    return MlflowStore(where) if kind == "mlflow" else TensorBoardFiles(Path(where))


def main() -> NoReturn:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print is not for the server's terminal.
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    job, over = json.loads(sys.stdin.readline()), threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()
        time.sleep(END_S)  # the server may be gone, and who tracks may hang
        os._exit(1)

    def say(line: str) -> None:
        try:
            output.write(f"{line}\n")
        except OSError:
            over.set()  # nobody listens any more

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    run = Path(job["run"])
    # The process of a server that was killed may still be sending.
    with FileLock(run / f".{job['kind']}.lock").acquire(poll_interval=0.5):
        observe(lambda: _store_of(job["kind"], job["where"]), run, over=over.wait, say=say)
    os._exit(0)  # a thread of a library's must not keep the process


if __name__ == "__main__":
    main()
