"""One seed: every model trained with the same plan, and judged on every site's held-out patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stic_core.config import FederationConfig
from stic_core.data.dataset import SiteDataset
from stic_core.tensors.flat import FlatArray
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits, RunObserver
from stic_server.report import write_report
from stic_server.simulation.cohorts import Datasets
from stic_server.simulation.scores import Scores
from stic_server.simulation.sites import SimulatedSites
from stic_server.simulation.workplace import CENTRALISED, Centralised, Workplaces


def train_compared_models(
    federation: FederationConfig,
    datasets: Datasets,
    pooled: SiteDataset,
    *,
    workplaces: Workplaces,
    observer: RunObserver,
) -> tuple[RunFolder, Mapping[str, Scores]]:
    """Train and evaluate federated, each site alone, their ensemble, and centralised.

    Args:
        federation: with the seed and the folder of runs; its sites' own models are always trained.
        datasets: by site.
        pooled: training and validation patients of all of them.
        workplaces: where the sites and the centralised model are computed.
        observer: receives progress events.

    Returns:
        The run's folder, with its evaluation and its report; and each model's held-out scores.
    """
    federation = federation.model_copy(update={"local_only": True, "min_sites": len(datasets)})
    proposal = training_of(federation)
    run = RunFolder.begin(federation, proposal.plan)
    observer.stage("training one model on all patients, for comparison")
    centralised = _OnceNeeded(
        workplaces.centralise(proposal.plan, proposal.weights, pooled, run_id=run.run_id)
    )
    run.update_record(simulated=True)
    sites = SimulatedSites(datasets, workplaces=workplaces)
    execute(
        proposal.plan,
        proposal.weights,
        run=run,
        sites=sites,
        limits=RunLimits(
            min_sites=len(datasets),
            join_timeout_s=federation.join_timeout_s,
            round_timeout_s=federation.round_timeout_s,
            max_update_ratio=federation.max_update_ratio,
        ),
        observer=observer,
        others=centralised,
    )
    run.update_record(centralised=centralised.about)
    write_report(run.path)
    return run, sites.scores


class _OnceNeeded(Mapping[str, FlatArray]):
    """The centralised model by its name; it may still be training until somebody looks at it.

    Args:
        result: gives it, and waits for it.
    """

    def __init__(self, result: Callable[[], Centralised]) -> None:
        self._result = result

    @property
    def about(self) -> dict[str, Any]:
        """What the run's record says of it."""
        return self._result()[1]

    def __getitem__(self, name: str) -> FlatArray:
        if name != CENTRALISED:
            raise KeyError(name)
        return self._result()[0]

    def __iter__(self) -> Iterator[str]:
        yield CENTRALISED

    def __len__(self) -> int:
        return 1


def evaluation_folder(run: RunFolder, *, of: Path) -> str:
    """Where a run lies, relative to the simulation's folder."""
    return run.path.resolve().relative_to(of.resolve()).as_posix()
