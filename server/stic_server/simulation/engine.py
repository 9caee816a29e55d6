"""What computes the seeds of a simulation: the interface, and the engine that is this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from stic_core.models.devices import pick_device
from stic_core.training.setup import ComputeConfig
from stic_server.federation.sites import RunObserver
from stic_server.simulation.seed import run_seed
from stic_server.simulation.settings import POLICY, SimulationConfig
from stic_server.simulation.workplace import ThisProcess, Workplace

Compute: TypeAlias = Callable[
    [Sequence[int], Path, Mapping[int, RunObserver]], Iterator[tuple[int, dict[str, Any]]]
]
"""From seeds, the simulation's folder and an observer for each seed to their results, in any order."""


class Engine(Protocol):
    """Computes seeds, here or elsewhere; each is `run_seed`, with `Workplaces` of the engine's."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        ...

    def started(self, study: SimulationConfig) -> AbstractContextManager[Compute]:
        """The engine, for as long as the block lasts.

        Raises:
            UsageError: it is not installed, or cannot be reached.
        """
        ...


class OneProcess:
    """One seed after the other, and in it one site after the other."""

    def __init__(self) -> None:
        self._device = pick_device("auto")

    @property
    def device(self) -> str:
        """See `Engine`."""
        return self._device.type

    @contextmanager
    def started(self, study: SimulationConfig) -> Iterator[Compute]:
        """See `Engine`."""

        def run(
            seeds: Sequence[int], out: Path, observers: Mapping[int, RunObserver]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            for seed in seeds:
                compute = ComputeConfig(self._device, weights=study.weights)
                place = Workplace(policy=POLICY, compute=compute, progress=observers[seed].progress)
                workplaces = ThisProcess(place)
                yield seed, run_seed(study, seed, out=out, workplaces=workplaces, observer=observers[seed])

        yield run
