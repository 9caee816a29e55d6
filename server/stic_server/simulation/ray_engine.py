"""The engine that spreads seeds, and in each seed sites and the centralised model, over Ray's workers.

A seed is a coordinator, which computes little, and as many workers as there are slots for: a site is
always at the same worker, which keeps its model and its patients. The seeds under way never have more
workers than there are slots, so none waits for a worker that another one holds.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stic_core.data.dataset import SiteDataset
from stic_core.errors import SticError, UsageError
from stic_core.models.devices import pick_device
from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import RunPlan
from stic_core.tensors.flat import FlatArray
from stic_core.training.setup import ComputeConfig
from stic_server.federation.sites import RunObserver
from stic_server.simulation.cohorts import Datasets
from stic_server.simulation.engine import Compute
from stic_server.simulation.seed import run_seed
from stic_server.simulation.settings import POLICY, SimulationConfig
from stic_server.simulation.workplace import Centralised, SiteAnswer, Workplace

_LOOK_S = 0.5
_EVERY_S = 0.2
"""Between words of progress that a worker passes on."""


class RayEngine:
    """Ray on this machine, or the cluster at an address; every machine of it reads and writes the same folders.

    Args:
        address: of the cluster, as Ray takes it; None is `RAY_ADDRESS`, or this machine where that is not set.
        gpus_per_task: share of a GPU that each worker takes; 0 computes on CPUs.

    Raises:
        UsageError: the number of GPUs is negative, or Ray is not installed.
    """

    def __init__(self, *, address: str | None = None, gpus_per_task: float = 0.0) -> None:
        if not 0 <= gpus_per_task <= 64 or (gpus_per_task > 1 and gpus_per_task % 1):
            raise UsageError(
                "--gpus-per-task", got=gpus_per_task, expected="a share from 0 to 1, or a whole number"
            )
        # Read when Ray is imported or started: nothing is reported to anybody.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise UsageError(
                "--engine ray needs ray", advice="Install it: pip install 'stic-federated[ray]'."
            ) from None
        self._ray = ray
        self._address = address or os.environ.get("RAY_ADDRESS") or None
        self._gpus = gpus_per_task

    @property
    def device(self) -> str:
        """See `Engine`; what a worker computes on."""
        return "cuda" if self._gpus else "cpu"

    @contextmanager
    def started(self, study: SimulationConfig) -> Iterator[Compute]:
        """See `Engine`."""
        where: dict[str, Any] = {"address": self._address}
        if self._address is None:  # nobody else's, and on no other network than this machine's own
            where = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        logging.getLogger("ray").setLevel(logging.CRITICAL)  # what matters is an error
        self._connect(where, tries=1 if self._address else 2)
        try:
            slots = self._slots()

            def run(
                seeds: Sequence[int], out: Path, observers: Mapping[int, RunObserver]
            ) -> Iterator[tuple[int, dict[str, Any]]]:
                return self._run(study, seeds, out=out.resolve(), observers=observers, slots=slots)

            yield run
        finally:
            self._ray.shutdown()

    def _connect(self, where: Mapping[str, Any], *, tries: int) -> None:
        """Start or reach Ray; a first start may only have read its files from a slow disk."""
        while True:
            try:
                self._ray.init(log_to_driver=False, configure_logging=False, **where)
            except Exception as error:  # noqa: BLE001 - Ray raises bare exceptions, which may name an address
                self._ray.shutdown()
                tries -= 1
                if tries == 0:
                    raise UsageError(
                        "Ray cannot be started or reached",
                        got=type(error).__name__,
                        expected="a cluster that runs at --ray-address or RAY_ADDRESS, or a machine with CPU "
                        "time to spare",
                        advice="Ray gives up if its processes need more than 15 s to start. Without "
                        "PYTHONDONTWRITEBYTECODE the next start is faster.",
                    ) from None
            else:
                return

    def _slots(self) -> int:
        """Workers that the cluster has room for."""
        there = self._ray.cluster_resources()
        slots = int(there.get("CPU", 0))
        if self._gpus:
            whole = there.get("GPU", 0.0)
            slots = min(slots, int(whole / self._gpus + 1e-9))
        if slots < 1:
            raise UsageError(
                "Ray has no room for a single worker",
                got=f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs",
                expected=f"1 CPU and {self._gpus:g} GPUs (--gpus-per-task)",
            )
        return slots

    def _run(
        self,
        study: SimulationConfig,
        seeds: Sequence[int],
        *,
        out: Path,
        observers: Mapping[int, RunObserver],
        slots: int,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        from ray.util.queue import Queue

        ray, waiting = self._ray, list(seeds)
        if not seeds:
            return
        together = min(len(seeds), slots)
        # Ray's own queue, whose process loads no PyTorch.
        news = Queue(actor_options={"num_cpus": 0})
        coordinate = ray.remote(_coordinate).options(num_cpus=0, max_retries=0)
        under_way: dict[Any, int] = {}
        while waiting or under_way:
            while waiting and len(under_way) < together:
                seed = waiting.pop(0)
                task = coordinate.remote(
                    study,
                    seed,
                    out=out,
                    workers=slots // together,
                    gpus=self._gpus,
                    threads=torch.get_num_threads(),
                    news=news,
                )
                under_way[task] = seed
            done, _ = ray.wait(list(under_way), timeout=_LOOK_S)
            for seed, word, values in news.get_nowait_batch(news.qsize()):
                getattr(observers[seed], word)(*values)
            for task in done:
                seed = under_way.pop(task)
                try:
                    found = ray.get(task)
                except ray.exceptions.RayTaskError as error:
                    if not isinstance(error.cause, ray.exceptions.RayError):
                        raise  # a fault of ours, with where it is
                    raise _ended(seed, error.cause) from None
                except ray.exceptions.RayError as error:
                    raise _ended(seed, error) from None
                if isinstance(found, SticError):
                    raise found
                yield seed, found


def _ended(seed: int, error: Exception) -> SticError:
    return SticError(
        f"seed {seed} ended with its Ray worker",
        got=type(error).__name__,
        advice="Memory may be short: use fewer CPUs or seeds at a time, then run the same command again: it resumes.",
    )


class _Reporter(RunObserver):
    """An observer in a worker, which passes on what a seed's observer shows.

    Args:
        news: the queue.
    """

    def __init__(self, news: Any, seed: int) -> None:
        self._news, self._seed, self._last = news, seed, 0.0

    def note(self, text: str) -> None:
        """See `RunObserver`."""
        self._put("note", text)

    def stage(self, text: str) -> None:
        """See `RunObserver`."""
        self._put("stage", text)

    def progress(self, what: str, done: int, total: int) -> None:
        """See `RunObserver`; not more often than anybody can read."""
        if done == total or time.monotonic() - self._last > _EVERY_S:
            self._last = time.monotonic()
            self._put("progress", what, done, total)

    def _put(self, word: str, *values: object) -> None:
        self._news.actor.put_nowait.remote((self._seed, word, values))  # nobody waits for it

    def round_done(self, row: Mapping[str, Any], *, rounds: int) -> None:
        """See `RunObserver`."""
        self.progress("rounds of the federation", row["round"], rounds)


def _coordinate(
    study: SimulationConfig, seed: int, *, out: Path, workers: int, gpus: float, threads: int, news: Any
) -> dict[str, Any] | SticError:
    """A seed in a worker of Ray: its result, or the error that a user is to read."""
    # The last bits of a sum depend on the number of threads: everywhere as many as where it was started.
    torch.set_num_threads(threads)
    reporter = _Reporter(news, seed)
    try:
        with _workplaces(study, workers=workers, gpus=gpus, threads=threads, observer=reporter) as places:
            return run_seed(study, seed, out=out, workplaces=places, observer=reporter)
    except SticError as error:
        told = SticError(str(error))  # some kinds cannot be pickled
        told.exit_code = error.exit_code
        return told


def _place(study: SimulationConfig, *, gpus: float, threads: int, observer: RunObserver) -> Workplace:
    torch.set_num_threads(threads)
    compute = ComputeConfig(pick_device("cuda" if gpus else "cpu"), weights=study.weights)
    return Workplace(policy=POLICY, compute=compute, progress=observer.progress)


class _Worker:
    """A workplace as an actor."""

    def __init__(self, study: SimulationConfig, *, gpus: float, threads: int, observer: RunObserver) -> None:
        self._place = _place(study, gpus=gpus, threads=threads, observer=observer)

    def answer(self, site: str, dataset: SiteDataset, asked: str, weights: WireArray | None) -> SiteAnswer:
        """See `Workplace`."""
        return self._place.answer(site, dataset, asked, weights)

    def centralise(
        self, plan: RunPlan, initial: FlatArray, pooled: SiteDataset, *, run_id: str
    ) -> Centralised:
        """See `Workplace`."""
        return self._place.centralise(plan, initial, pooled, run_id=run_id)


@contextmanager
def _workplaces(
    study: SimulationConfig, *, workers: int, gpus: float, threads: int, observer: RunObserver
) -> Iterator[_RayWorkplaces]:
    """The workers of a seed; their memory and their GPUs are free when it is done."""
    import ray

    kind = ray.remote(_Worker).options(num_cpus=1, num_gpus=gpus)
    places = _RayWorkplaces(
        lambda: kind.remote(study, gpus=gpus, threads=threads, observer=observer), most=workers
    )
    try:
        yield places
    finally:
        for worker in places.workers:
            ray.kill(worker)


class _RayWorkplaces:
    """`Workplaces` of several workers, which are started as they are needed.

    The centralised model has a worker to itself, where there are two or more: it trains beside the rounds.

    Args:
        start: a new worker.
        most: how many at most.
    """

    def __init__(self, start: Callable[[], Any], *, most: int) -> None:
        self._start, self._most = start, most
        self.workers: list[Any] = []
        self._of_site: dict[str, Any] = {}
        self._datasets: dict[str, Any] = {}

    def ask(
        self, asked: Mapping[str, str], datasets: Datasets, weights: WireArray | None
    ) -> Mapping[str, SiteAnswer]:
        """See `Workplaces`; all workers at a time."""
        import ray

        sent = ray.put(weights)
        answers = {
            site: self._worker_of(site).answer.remote(site, self._dataset(site, datasets), text, sent)
            for site, text in asked.items()
        }
        return {site: _own(ray.get(answer)) for site, answer in answers.items()}

    def centralise(
        self, plan: RunPlan, initial: FlatArray, pooled: SiteDataset, *, run_id: str
    ) -> Callable[[], Centralised]:
        """See `Workplaces`."""
        import ray

        result = self._worker(0).centralise.remote(plan, initial, pooled, run_id=run_id)

        def found() -> Centralised:
            weights, about = ray.get(result)
            return weights.copy(), about

        return found

    def _worker_of(self, site: str) -> Any:
        if site not in self._of_site:
            others = max(1, self._most - 1)
            number = len(self._of_site) % others
            self._of_site[site] = self._worker(number if self._most == 1 else number + 1)
        return self._of_site[site]

    def _worker(self, number: int) -> Any:
        while len(self.workers) <= number:
            self.workers.append(self._start())
        return self.workers[number]

    def _dataset(self, site: str, datasets: Datasets) -> Any:
        import ray

        if site not in self._datasets:
            self._datasets[site] = ray.put(datasets[site])
        return self._datasets[site]


def _own(answer: SiteAnswer) -> SiteAnswer:
    """An answer whose arrays may be written: Ray's are views of its shared memory."""
    return SiteAnswer(
        answer.said,
        None if answer.weights is None else answer.weights.copy(),
        None if answer.scores is None else (answer.scores[0].copy(), answer.scores[1].copy()),
    )
