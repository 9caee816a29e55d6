"""Setting up a federation and running it: `init`, `plan`, `start`, `evaluate`, `send-model`."""

from __future__ import annotations

import datetime as dt
import enum
import json
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from stic_core import config_files
from stic_core.config import FederationConfig
from stic_core.errors import UsageError
from stic_core.service import service_terminal
from stic_server.cli.options import ConfigOption, app, federation_file, model_folder, run_folder
from stic_server.cli.results import show_evaluation, show_notices

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from stic_core.system.terminal import Terminal
    from stic_server.federation.run_folder import RunFolder
    from stic_server.federation.sites import RunObserver
    from stic_server.flower_link import FleetServer


_SILENT_S = 900.0
"""A run that shows no sign of life for so long hangs; the systemd unit's WatchdogSec is the same."""


_STAY_S = 5.0


class ConfigKind(enum.StrEnum):
    """The configuration files."""

    FEDERATION = "federation"
    SITE = "site"


@app.command()
def init(
    name: Annotated[str, typer.Option(help="Prefix of the names of runs.")] = "stic",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every interface.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; the sites need no other.")] = 8443,
    names: Annotated[
        str, typer.Option(help="Host names and addresses that the sites use, separated by commas.")
    ] = "localhost,127.0.0.1",
    task: Annotated[str, typer.Option(help="malignant, hcc-icc or benign-malignant.")] = "malignant",
    backbone: Annotated[str, typer.Option(help="vgg16 (the paper's) or tiny (the demo's).")] = "vgg16",
    crop_mm: Annotated[float | None, typer.Option(help="Side of the square around the lesion, mm.")] = None,
    config_file: ConfigOption = None,
) -> None:
    """Create federation.yaml, the federation's CA and the server's certificate; run once."""
    from stic_server.setup import NewFederation, initialise

    new = NewFederation(
        name=name,
        host=host,
        port=port,
        names=[part.strip() for part in names.split(",") if part.strip()],
        task=task,
        backbone=backbone,
        crop_mm=crop_mm,
    )
    if config_file is not None and config_file.name != "federation.yaml":
        raise UsageError(
            "the configuration's name",
            got=config_file.name,
            expected="federation.yaml, in a folder of the federation's own",
        )
    path, fingerprint = initialise(federation_file(config_file).parent, new)
    print(f"configuration   {path}")
    print(f"CA certificate  {path.parent / 'ca.crt'}  (send this file to every site)")
    print(f"CA fingerprint  {fingerprint}  (read it to each site by telephone)")


@app.command()
def schema(
    kind: Annotated[
        ConfigKind, typer.Argument(help="Which file: federation or site.")
    ] = ConfigKind.FEDERATION,
) -> None:
    """Print the JSON Schema of federation.yaml or site.yaml, with which an editor completes and checks keys."""
    from stic_core.config_schema import schema as made

    print(json.dumps(made(kind.value), indent=1))


@app.command()
def start(
    stay: Annotated[
        bool,
        typer.Option(
            "--stay",
            help="Once the run is over, also if it was before, wait until stopped: for what restarts every "
            "program that ends, such as Kubernetes.",
        ),
    ] = False,
    config_file: ConfigOption = None,
) -> None:
    """Run the federation: wait for the sites, train, evaluate, write the report."""
    _federate(federation_file(config_file), stay=stay)


@app.command()
def health(config_file: ConfigOption = None) -> None:
    """Ask the running server whether it serves (monitoring.health_port); exit code 1 if it does not."""
    from stic_core.monitoring import ports

    answer = ports.health(config_files.load(federation_file(config_file), FederationConfig).monitoring)
    print(answer)
    raise typer.Exit(0 if answer == "serving" else 1)


@app.command()
def evaluate(
    model: Annotated[
        Path, typer.Option(help="A model's folder, such as runs/<run-id>/model, or a run's id.")
    ],
    config_file: ConfigOption = None,
) -> None:
    """Evaluate a model on each site's held-out patients, over the federation; nothing is trained."""
    from stic_core.models.saved import read_model

    model = model_folder(model, config_file)
    read_model(model)  # says what is wrong before anybody waits for a site
    _federate(federation_file(config_file), evaluate=model.resolve())


@app.command("send-model")
def send_model(
    run: Annotated[Path, typer.Argument(help="The folder or the id of a run that is complete.")],
    config_file: ConfigOption = None,
) -> None:
    """Send a run's final model to the sites that took part and have not stored it, as they come online."""
    from stic_server.federation.final_model import finished
    from stic_server.federation.run_folder import RunFolder

    folder = RunFolder(run_folder(run, config_file).resolve())
    record = finished(folder)
    if missing := sorted(set(record["sites"]) - set(record.get("model_at", ()))):
        path = federation_file(config_file)

        def work(grid: Grid, observer: RunObserver) -> RunFolder:
            from stic_server.flower_app import send_final_model

            observer.stage(f"sending the final model to {', '.join(missing)}")
            return send_final_model(grid, path, run=folder, observer=observer)

        _serve(path, work)
    record = folder.read_record()
    for site in sorted(record["sites"]):
        print(f"{site:12}{'has the model' if site in record.get('model_at', ()) else 'lacks the model'}")


@app.command()
def plan(
    out: Annotated[
        Path | None, typer.Option(help="Also write it to a file that the sites can review and approve.")
    ] = None,
    evaluate: Annotated[
        Path | None, typer.Option(help="Plan the evaluation of this model instead of training.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Show instead how wide the intervals of the results will be with so many held-out patients "
            "in all, such as HCC=60,ICC=40,META=50.",
        ),
    ] = None,
    config_file: ConfigOption = None,
) -> None:
    """Show the plan that the sites will be asked to approve, and its hash."""
    from stic_core.protocol.plan_summary import described
    from stic_core.system.files import write_atomically
    from stic_server.admission.registry import public_keys
    from stic_server.federation.plan import propose

    path = federation_file(config_file)
    federation = config_files.load(path, FederationConfig)
    if precision is not None:
        _show_precision(precision, classes=federation.task.classes)
        return
    if out is not None:
        _check_not_lost(out)
    evaluate = None if evaluate is None else model_folder(evaluate, config_file)
    proposal = propose(federation, evaluate=evaluate, sites=public_keys(path.resolve().parent / "sites"))
    for name, value in described(proposal.plan):
        print(f"{name:21}{value}")
    if out is not None:
        write_atomically(out, proposal.plan.model_dump_json(indent=1) + "\n")
        print(f"{'written':21}{out}")


def _show_precision(text: str, *, classes: Sequence[str]) -> None:
    """One row per class and figure: the interval to expect at each value that may come out."""
    from stic_core.evaluation.expected import HOPED_FOR, class_counts, expected_intervals
    from stic_core.statistics import Absent

    rows = expected_intervals(class_counts(text, classes=classes))
    print("95 % intervals to expect in the report, if the figure is\n")
    print(f"{'class':8}{'figure':14}{'patients':>10}" + "".join(f"{value:>18}" for value in HOPED_FOR))
    for row in rows:
        for figure, patients, intervals in (
            ("AUC", f"{row.patients} / {row.others}", row.auc),
            ("sensitivity", str(row.patients), row.sensitivity),
            ("specificity", str(row.others), row.specificity),
        ):
            cells = (
                "-" if isinstance(found, Absent) else f"{found[0]:.3f} to {found[1]:.3f}"
                for found in intervals.values()
            )
            print(f"{row.name:8}{figure:14}{patients:>10}" + "".join(f"{cell:>18}" for cell in cells))


def _check_not_lost(out: Path) -> None:
    """A plan is written over an older one, and over nothing else."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder", expected="the file to write")
    if out.exists() and not out.read_bytes()[:1].startswith(b"{"):
        raise UsageError(f"{out} exists", got="no plan", advice="It is not overwritten; give another name.")


def _federate(path: Path, *, evaluate: Path | None = None, stay: bool = False) -> None:
    def work(grid: Grid, observer: RunObserver) -> RunFolder:
        from stic_server.flower_app import finished_run, run_federation

        if stay:
            run = finished_run(path)
            if run is None:
                run = _told(lambda: run_federation(grid, path, observer=observer), observer)
            _wait_to_be_stopped(run, observer)
        return _told(lambda: run_federation(grid, path, observer=observer, evaluate=evaluate), observer)

    run = _serve(path, work)
    show_evaluation(run.read_evaluation())
    show_notices({"": run.path})
    print(f"\nrun     {run.path}\nreport  {run.path / 'report.html'}")


def _serve(path: Path, work: Callable[[Grid, RunObserver], RunFolder]) -> RunFolder:
    """Listen while something is done with the sites, as the one server of this federation."""
    from stic_server.status.only_server import only_server

    federation, interval_scale = config_files.load(path, FederationConfig), config_files.interval_scale()
    with (
        only_server(path.resolve().parent),
        service_terminal(federation, folder=path.resolve().parent) as terminal,
    ):
        terminal.stage("starting")
        from stic_server.admission import expiry, renewal

        folder, listen = path.resolve().parent, federation.listen
        renewal.check_keys(folder)
        for one in expiry.expiries(folder):
            if warning := one.warning(dt.datetime.now(dt.UTC)):
                terminal.note(f"warning: {warning}")
        # torch and flwr take seconds to import: errors of configuration come before.
        from stic_core.monitoring.families import registry_of
        from stic_core.monitoring.ports import monitoring_ports
        from stic_server.cli.console import ConsoleObserver
        from stic_server.flower_link import FleetServer, Listen
        from stic_server.status.file import StatusFile
        from stic_server.status.metrics import Looks, ServerMetrics

        # A service manager stops with SIGTERM; leave as with Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        server = FleetServer(
            Listen(
                host=listen.host,
                port=listen.port,
                certificate=folder / "server.crt",
                key=folder / "server.key",
                ca=folder / "ca.crt",
                max_body_mb=listen.max_body_mb,
            ),
            note=terminal.note,
            interval_scale=interval_scale,
        )

        serving = partial(_serves, server, terminal)
        looks = Looks(
            presence=server.presence,
            serving=serving,
            silent_s=lambda: terminal.silent_s,
            refused_requests=server.guard.refused.copy,
            refused_connections=server.entrance.refused.copy,
        )
        metrics = ServerMetrics(
            ConsoleObserver(terminal), folder=folder, min_sites=federation.min_sites, looks=looks
        )
        server.watch(folder / "sites")
        server.start()
        try:
            with (
                monitoring_ports(federation.monitoring, serving=serving, registry=registry_of(metrics)),
                StatusFile(folder, metrics, presence=server.presence) as observer,
            ):
                terminal.note(f"listening on https://{listen.host}:{listen.port}")
                terminal.ready()
                return server.execute(lambda grid: work(grid, observer))
        finally:
            server.stop()


def _serves(server: FleetServer, terminal: Terminal) -> bool:
    """What health says: the sites' port answers, and the run goes on."""
    return server.answers() and terminal.silent_s < _SILENT_S


def _wait_to_be_stopped(run: RunFolder, observer: RunObserver) -> NoReturn:
    """Sites may connect, and wait for the next run; a configuration with another plan begins one at the next start."""
    observer.stage(f"run {run.run_id} is over; waiting to be stopped")
    while True:
        observer.alive()
        time.sleep(_STAY_S)


def _told(work: Callable[[], RunFolder], observer: RunObserver) -> RunFolder:
    """Whoever is notified learns how it ended; an operator who stops it knows."""
    try:
        run = work()
    except Exception as error:
        # Of the message only the kind: it may name a file of this machine.
        kind = type(error).__name__
        observer.event("run-failed", f"the run ended with {kind}; the server's log says why", error=kind)
        raise
    observer.event("run-over", f"run {run.run_id} is complete", run=run.run_id)
    return run
