"""The coordinator's Flower ServerApp: a session's questions as Flower messages over any Grid.

`stic-server start` calls `run_federation`. On a stock SuperLink runs `app`, whose run configuration
names the federation's file under `federation` (docs/flower.md). In Flower's simulation it also names
the folder of the sites under `sites`; without that key, a node's name is the one it was registered with.
"""

from __future__ import annotations

import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from stic_core import config, config_files
from stic_core.errors import FederationError
from stic_core.models.saved import read_model
from stic_core.protocol.audit_log import AuditLog
from stic_server.admission.registry import admitted, public_keys, scan
from stic_server.federation.final_model import finished, send_model
from stic_server.federation.plan import propose
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import (
    AuditedSites,
    RunLimits,
    RunObserver,
)
from stic_server.flower_names import named
from stic_server.flower_sites import LOOK_S, FlowerSites
from stic_server.report import write_report
from stic_server.report.model_card import write_model_card
from stic_server.tracking.processes import observed, require_packages

_ASK_AGAIN_S = 5.0
_DESCRIBE_S = 30.0
_FINISH_ROOM_S = 120.0
_SEND_AGAIN_S = 60.0
_ADMITTED_S = 0.5  # between looks at who is admitted


app = ServerApp()
"""For a stock SuperLink; a plain assignment, which is what Flower's loader looks for."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run, from the configuration to its evaluation."""
    evaluate = context.run_config.get("evaluate")
    run_federation(
        named(grid) if context.run_config.get("sites") else grid,
        Path(str(context.run_config["federation"])),
        observer=RunObserver(),
        evaluate=Path(str(evaluate)) if evaluate else None,
        processes=True,
    )


def run_federation(
    grid: Grid,
    path: Path,
    *,
    observer: RunObserver,
    evaluate: Path | None = None,
    processes: bool = False,
) -> RunFolder:
    """Run a federation over a Grid, or go on with the run that was interrupted.

    Args:
        path: of federation.yaml.
        evaluate: folder of a model that is evaluated; nothing is trained then.
        processes: each message starts a process at the site, which answers once all is loaded: the
            description of a site takes as long as its features do, and is waited for.

    Returns:
        The run's folder, with its evaluation.

    Raises:
        FederationError: too few sites, or too long a wait.
        UsageError: another server has this run, or what `tracking` asks for is not installed.
    """
    federation, scale = config_files.load(path, config.FederationConfig), config_files.interval_scale()
    require_packages(federation.tracking)
    folder = path.resolve().parent / "sites"
    proposal = propose(
        federation, evaluate=evaluate, sites=enough_admitted(folder, federation, observer=observer)
    )
    if proposal.note:
        observer.note(proposal.note)
    left = RunFolder.unfinished(federation)
    if left is not None and left.read_plan() is None:
        observer.note(
            f"warning: run {left.run_id} is not finished, and its plan is not of this version; a new run begins"
        )
    run = RunFolder.begin(federation, proposal.plan, origin=proposal.origin)
    plan = run.read_plan() or proposal.plan
    following = observed(federation.tracking, run=run.path, folder=path.resolve().parent, observer=observer)
    with run.locked(), following:
        observer.note(f"plan {plan.digest[:12]}")
        names = tuple(spec.name for spec in plan.tensors)
        sites = _reach(grid, path, federation, run, names=names, observer=observer)
        limits = RunLimits(
            min_sites=federation.min_sites,
            join_timeout_s=federation.join_timeout_s,
            round_timeout_s=federation.round_timeout_s,
            grace_s=federation.join_grace_s,
            describe_s=federation.round_timeout_s
            if processes
            else _DESCRIBE_S * max(1.0, scale),  # a client's own 3 s do not shrink either
            ask_again_s=_ASK_AGAIN_S * scale,
            finish_room_s=_FINISH_ROOM_S * scale,
            max_patients=federation.max_patients,
            max_update_ratio=federation.max_update_ratio,
        )
        run.update_record(report="owed")
        execute(plan, proposal.weights, run=run, sites=sites, limits=limits, observer=observer)
        observer.stage("writing the report")
        write_report(run.path)
        write_model_card(run.path)
        run.update_record(report="written")
    return run


def finished_run(path: Path) -> RunFolder | None:
    """The run of the configuration's plan, if it was the last one and is over.

    Args:
        path: of federation.yaml.
    """
    federation = config_files.load(path, config.FederationConfig)
    plan = propose(federation, sites=public_keys(path.resolve().parent / "sites")).plan
    last = RunFolder.last_of(federation, plan)
    return last if last is not None and last.finished else None


def enough_admitted(
    folder: Path, federation: config.FederationConfig, *, observer: RunObserver
) -> dict[str, str]:
    """The admitted sites' keys by name, once they are as many as a run needs.

    The plan names them for the whole run: a site that it does not name is excluded, and in a plan that
    names none, no site can tell whose own model it is asked to evaluate.

    Raises:
        FederationError: too few were admitted in `join_timeout_s`.
        UsageError: a file in the folder is not a site's public key.
    """
    began, told = time.monotonic(), False
    while (count := len(keys := public_keys(folder))) < federation.min_sites:
        if not told:
            told = True
            observer.stage("waiting until enough sites are admitted")
            observer.note(
                f"too few sites are admitted for a plan; got {count}, expected at least {federation.min_sites} "
                "(min_sites). Admit every site that is to take part: stic-server admit SITE SITE.pub"
            )
        if time.monotonic() - began > federation.join_timeout_s:
            raise FederationError(
                "too few sites are admitted for a plan",
                got=f"{count} in {federation.join_timeout_s:g} s",
                expected=f"at least {federation.min_sites} (min_sites)",
                advice="Admit every site that is to take part: stic-server admit SITE SITE.pub",
            )
        observer.alive()
        time.sleep(_ADMITTED_S)
    return keys


def send_final_model(grid: Grid, path: Path, *, run: RunFolder, observer: RunObserver) -> RunFolder:
    """Send a run's final model to those of its sites that have not stored it, as they come online.

    Args:
        path: of federation.yaml.
        run: that is complete.

    Raises:
        UsageError: it is not, or another server has it.
    """
    federation, scale = config_files.load(path, config.FederationConfig), config_files.interval_scale()
    names = _tensors_of(run)
    with run.locked():
        record = finished(run)
        missing = set(record["sites"]) - set(record.get("model_at", ()))
        here = {site.name for site in admitted(path.resolve().parent / "sites")}
        for site in sorted(missing - here):
            observer.note(f"{site} is no longer admitted; the final model is not sent to it")
        send_model(
            run,
            missing & here,
            sites=_reach(grid, path, federation, run, names=names, observer=observer),
            observer=observer,
            patience_s=federation.join_timeout_s,
            ask_again_s=_SEND_AGAIN_S * scale,
        )
    return run


def _reach(
    grid: Grid,
    path: Path,
    federation: config.FederationConfig,
    run: RunFolder,
    *,
    names: tuple[str, ...],
    observer: RunObserver,
) -> AuditedSites:
    """The admitted sites; what is said to them and by them goes into the log.

    Args:
        names: of the tensors of this run; a model of an earlier one may be sent as well.
    """
    folder = path.resolve().parent / "sites"
    sites = FlowerSites(
        grid,
        expected=[site.name for site in admitted(folder)],
        grace_s=federation.join_grace_s,
        observer=observer,
        admitted_now=lambda: scan(folder).names,
        look_s=LOOK_S * config_files.interval_scale(),
    )

    def tensors(run_id: str) -> tuple[str, ...]:
        return names if run_id == run.run_id else _tensors_of(RunFolder(run.path.parent / run_id))

    return AuditedSites(sites, AuditLog(path.resolve().parent / "audit.jsonl"), tensors=tensors)


def _tensors_of(run: RunFolder) -> tuple[str, ...]:
    return tuple(spec.name for spec in read_model(run.path / "model").description.tensors)
