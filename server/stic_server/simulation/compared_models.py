"""One seed: every model trained with the same plan, and judged on every site's held-out patients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stic_core.config import FederationConfig, PolicyConfig
from stic_core.data.dataset import SiteDataset
from stic_core.protocol.messages import LocalReport, RunPlan, TrainLocal
from stic_core.site_run import LocalRun
from stic_core.system.observer import Observer
from stic_core.tensors.flat import FlatArray, digest
from stic_core.training.setup import ComputeConfig
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits, RunObserver
from stic_server.report import write_report
from stic_server.simulation.cohorts import Datasets, Progress
from stic_server.simulation.scores import Scores
from stic_server.simulation.sites import SimulatedSites, seeded_privacy, setup_of

CENTRALISED = "centralised"


def train_compared_models(
    federation: FederationConfig,
    datasets: Datasets,
    pooled: SiteDataset,
    *,
    policy: PolicyConfig,
    compute: ComputeConfig,
    observer: RunObserver,
    progress: Progress,
) -> tuple[RunFolder, Mapping[str, Scores]]:
    """Train and evaluate federated, each site alone, their ensemble, and centralised.

    Args:
        federation: with the seed and the folder of runs; its sites' own models are always trained.
        datasets: by site.
        pooled: training and validation patients of all of them.
        policy: of every site.
        compute: what is computed with.
        observer: receives progress events.
        progress: told how far longer pieces of work are.

    Returns:
        The run's folder, with its evaluation and its report; and each model's held-out scores.
    """
    federation = federation.model_copy(update={"local_only": True, "min_sites": len(datasets)})
    proposal = training_of(federation)
    run = RunFolder.begin(federation, proposal.plan)
    observer.stage("training one model on all patients, for comparison")
    central, about = train_centralised(
        proposal.plan,
        proposal.weights,
        pooled,
        run_id=run.run_id,
        policy=policy,
        compute=compute,
        progress=progress,
    )
    run.update_record(simulated=True, centralised=about)
    sites = SimulatedSites(datasets, policy=policy, compute=compute, progress=progress)
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
        others={CENTRALISED: central},
    )
    write_report(run.path)
    return run, sites.scores


def train_centralised(
    plan: RunPlan,
    initial: FlatArray,
    pooled: SiteDataset,
    *,
    run_id: str,
    policy: PolicyConfig,
    compute: ComputeConfig,
    progress: Progress,
) -> tuple[FlatArray, dict[str, Any]]:
    """Train on all sites' patients in one place, as a site trains its own model.

    As many epochs as the federation's rounds have in all, one optimiser throughout, and the
    epoch with the best loss on all sites' validation patients.

    Returns:
        The weights, and what the run's record says of them.
    """
    setup = setup_of(pooled, plan, compute=compute, name="all patients", progress=progress)
    site = LocalRun(
        CENTRALISED,
        run_id,
        plan,
        pooled,
        setup,
        policy=policy,
        observer=_Told(progress),
        privacy=seeded_privacy(plan, CENTRALISED),
    )
    question = TrainLocal(
        run_id=run_id, plan_digest=plan.digest, weights_digest=digest(initial, plan.tensors)
    )
    report, weights = site.answer(question, initial)
    assert isinstance(report, LocalReport)  # that is what TrainLocal is answered with
    assert weights is not None
    about = {
        "patients": {split: len(pooled.indices(split, plan.task)) for split in ("train", "val")},
        "epochs": report.epochs,
        "best_epoch": report.best_epoch,
        "val_loss": report.validation_loss,
        "fingerprint": pooled.fingerprint,
        "weights_digest": report.weights_digest,
    }
    return weights, about


class _Told(Observer):
    """A local run's observer that passes on how far it is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def progress(self, what: str, done: int, total: int) -> None:
        """How far it is, under the name that a reader of a simulation expects."""
        del what
        self._progress("training one model on all patients, for comparison", done, total)


def evaluation_folder(run: RunFolder, *, of: Path) -> str:
    """Where a run lies, relative to the simulation's folder."""
    return run.path.resolve().relative_to(of.resolve()).as_posix()
