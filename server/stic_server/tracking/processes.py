"""A process per observer, started with a run and ended with it, whatever state it is in."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stic_core.config import TrackingConfig
from stic_core.errors import UsageError
from stic_core.system.observer import Observer

END_S = 60.0
"""How long the end of a run waits for the last figures to be sent; starting MLflow on a new database takes 10 s."""

STOPPED_S = 10.0
"""The same where the run did not end by itself, and somebody may be waiting at a terminal."""

_PACKAGES = {"mlflow": ("mlflow", "mlflow-skinny"), "tensorboard": ("tensorboard", "tensorboard")}
"""By key of the configuration: the module, and what installs it."""

_NAMES = {"mlflow": "MLflow", "tensorboard": "TensorBoard"}


def require_packages(tracking: TrackingConfig | None) -> None:
    """Check that what the configuration asks for is installed.

    Raises:
        UsageError: it is not.
    """
    for key in _NAMES if tracking is not None else ():
        module, package = _PACKAGES[key]
        if getattr(tracking, key) and importlib.util.find_spec(module) is None:
            raise UsageError(
                f"tracking.{key} needs {package}, which is not installed",
                advice="Install it: pip install 'stic-federated[tracking]', or remove the key from federation.yaml.",
            )


@contextmanager
def observed(
    tracking: TrackingConfig | None,
    *,
    run: Path,
    folder: Path,
    observer: Observer,
    end_s: float = END_S,
    stopped_s: float = STOPPED_S,
) -> Iterator[None]:
    """Let MLflow and TensorBoard follow a run for as long as the block lasts; what fails there is noted.

    Args:
        tracking: whom; None is nobody.
        run: the run's folder.
        folder: of federation.yaml; a relative path in a URI counts from it.
        end_s, stopped_s: for which the end of the block waits for them, after its end and after an error.
    """
    processes = [] if tracking is None else _started(tracking, run=run, folder=folder, observer=observer)
    limit_s = stopped_s
    try:
        yield
        limit_s = end_s
    finally:
        for process in processes:
            process.say_that_it_is_over()
        deadline = time.monotonic() + limit_s
        for process in processes:
            process.end_by(deadline)


def _started(
    tracking: TrackingConfig, *, run: Path, folder: Path, observer: Observer
) -> list[_ObserverProcess]:
    where: dict[str, str] = {}
    if tracking.mlflow is not None:
        where["mlflow"] = tracking.mlflow.get_secret_value()
    if tracking.tensorboard:
        own = tracking.tensorboard
        where["tensorboard"] = str(run / "tensorboard" if own is True else own / run.name)
    started = []
    for kind, place in where.items():
        try:
            started.append(
                _ObserverProcess(kind, where=place, run=run.resolve(), folder=folder, observer=observer)
            )
        except OSError as error:
            observer.note(
                f"{_NAMES[kind]} is not kept up to date: its process cannot be started ({error.strerror})"
            )
    return started


class _ObserverProcess:
    """One process of `python -m stic_server.tracking`.

    Args:
        kind: `mlflow` or `tensorboard`.
        where: a URI or a folder; it may hold a password, so it goes neither into arguments nor into a line.
    """

    def __init__(self, kind: str, *, where: str, run: Path, folder: Path, observer: Observer) -> None:
        self._name, self._observer = _NAMES[kind], observer
        self._process = subprocess.Popen(
            # -P: a file in the current folder is no module.
            [sys.executable, "-P", "-m", "stic_server.tracking"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the server
        )
        self._reader = threading.Thread(target=self._read, daemon=True, name=f"tracking-{kind}")
        self._reader.start()
        assert self._process.stdin is not None  # it is a pipe
        with suppress(BrokenPipeError):  # its end is noted when the run ends
            self._process.stdin.write(json.dumps({"kind": kind, "where": where, "run": str(run)}) + "\n")
            self._process.stdin.flush()

    def say_that_it_is_over(self) -> None:
        """Let it send what is left and end."""
        assert self._process.stdin is not None  # it is a pipe
        with suppress(OSError):
            self._process.stdin.close()

    def end_by(self, deadline: float) -> None:
        """Wait for its end, and end it if that takes too long.

        Args:
            deadline: on the monotonic clock.
        """
        self._observer.doing(f"sending the last figures to {self._name}")
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        self._reader.join(5.0)
        if code is None:
            self._observer.note(
                f"{self._name} took too long and lacks figures; the run's folder has them all"
            )
        elif code:
            self._observer.note(f"the process that keeps {self._name} up to date ended with exit code {code}")

    def _read(self) -> None:
        """What it says: one word, and the kinds of an error."""
        assert self._process.stdout is not None  # it is a pipe
        with self._process.stdout as lines:
            for line in lines:
                self._pass_on(line)

    def _pass_on(self, line: str) -> None:
        word, _, kinds = line.strip().partition(" ")
        match word:
            case "failing":
                self._observer.note(
                    f"{self._name} cannot be kept up to date ({kinds}); trying again, the run goes on"
                )
            case "again":
                self._observer.note(f"{self._name} is kept up to date again")
            case "lacks":
                self._observer.note(f"{self._name} lacks figures ({kinds}); the run's folder has them all")
            case _:
                pass
