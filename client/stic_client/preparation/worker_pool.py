"""Worker processes that may die: one task at a time each, a limit in time, a report for each.

Decoders of compressed images are native code, and a broken file can crash or hang them. The
pools of the standard library lose all their tasks with one worker; here one task is lost, it
is known which one, and the next worker goes on.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from stic_core.system import signals

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Lost:
    """A task whose worker did not answer.

    Args:
        reason: `crashed` or `took too long`.
    """

    reason: str


@dataclass(slots=True)
class _Worker(Generic[TaskT]):
    process: BaseProcess
    pipe: Connection
    task: TaskT | None = None
    until: float = 0.0


def run(  # noqa: C901, PLR0912 - one loop that hands out, waits and replaces
    work: Callable[[TaskT], ResultT],
    *,
    tasks: Sequence[TaskT],
    workers: int,
    limit_s: float,
) -> Iterator[tuple[TaskT, ResultT | Lost]]:
    """Do every task, in processes of its own unless `workers` is 0.

    Args:
        work: a function of a module, for the processes import it; it must not raise.
        workers: processes; 0 works in this one, without a limit.
        limit_s: a task that takes longer is lost.

    Yields:
        Each task with what came of it, in the order in which they finish.
    """
    if workers <= 0:
        for task in tasks:
            yield task, work(task)
        return
    waiting = list(reversed(tasks))
    pool: list[_Worker[TaskT]] = []
    try:
        while waiting or any(worker.task is not None for worker in pool):
            while waiting and sum(worker.task is not None for worker in pool) < workers:
                idle = next((worker for worker in pool if worker.task is None), None)
                if idle is None:
                    idle = _start(work)
                    pool.append(idle)
                task = waiting.pop()
                idle.task, idle.until = task, time.monotonic() + limit_s
                idle.pipe.send(task)
            busy = [worker for worker in pool if worker.task is not None]
            patience = max(0.0, min(worker.until for worker in busy) - time.monotonic())
            ready = multiprocessing.connection.wait([worker.pipe for worker in busy], timeout=patience)
            for worker in busy:
                task = worker.task
                if task is None:
                    continue
                if worker.pipe in ready:
                    try:
                        result = worker.pipe.recv()
                        worker.task = None
                    except (EOFError, OSError):
                        result = Lost("crashed")
                elif time.monotonic() >= worker.until:
                    result = Lost("took too long")
                else:
                    continue
                if isinstance(result, Lost):
                    pool.remove(worker)
                    _stop(worker)
                yield task, result
    finally:
        for worker in pool:
            _stop(worker)


def _start(work: Callable[[TaskT], ResultT]) -> _Worker[TaskT]:
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(theirs, work), daemon=True)
    with signals.held_back():
        process.start()
    theirs.close()
    return _Worker(process, ours)  # pyright: ignore[reportArgumentType] - Windows' twin of Connection


def _stop(worker: _Worker[TaskT]) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()


def _serve(pipe: Connection, work: Callable[[TaskT], ResultT]) -> None:
    """A worker's life: until the other end of the pipe is gone."""
    # Native decoders write to stderr what they find in a file.
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(work(task))
