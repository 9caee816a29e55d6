"""`stic-server`: the command of the coordinating engineer."""

from __future__ import annotations

import datetime as dt
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stic_core import config_files
from stic_core.config import FederationConfig
from stic_core.errors import UsageError
from stic_core.system import command_errors
from stic_core.system.terminal import Terminal
from stic_core.tasks import TASKS
from stic_server.cli.keys import app as keys
from stic_server.cli.options import ConfigOption, federation_file

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from stic_core.evaluation import Evaluation
    from stic_server.federation.run_folder import RunFolder
    from stic_server.federation.sites import RunObserver

app = typer.Typer(
    name="stic-server",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The coordinator's side of STIC-Federated.",
)


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log and tracebacks.")] = False,
) -> None:
    """Options before a command."""
    del verbose  # read where errors are shown


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
    path, fingerprint = initialise(federation_file(config_file).parent, new)
    print(f"configuration   {path}")
    print(f"CA certificate  {path.parent / 'ca.crt'}  (send this file to every site)")
    print(f"CA fingerprint  {fingerprint}  (read it to each site by telephone)")


app.add_typer(keys)


@app.command()
def start(config_file: ConfigOption = None) -> None:
    """Run the federation: wait for the sites, train, evaluate, write the report."""
    _federate(federation_file(config_file))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="A model's folder, such as runs/<run-id>/model.")],
    config_file: ConfigOption = None,
) -> None:
    """Evaluate a model on each site's held-out patients, over the federation; nothing is trained."""
    from stic_core.models.saved import read_model

    read_model(model)  # says what is wrong before anybody waits for a site
    _federate(federation_file(config_file), evaluate=model.resolve())


@app.command("send-model")
def send_model(
    run: Annotated[Path, typer.Argument(help="The folder of a run that is complete.")],
    config_file: ConfigOption = None,
) -> None:
    """Send a run's final model to the sites that took part and have not stored it, as they come online."""
    from stic_server.federation.final_model import finished
    from stic_server.federation.run_folder import RunFolder

    folder = RunFolder(run.resolve())
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
    config_file: ConfigOption = None,
) -> None:
    """Show the plan that the sites will be asked to approve, and its hash."""
    from stic_core.protocol.plan_summary import described
    from stic_core.system.files import write_atomically
    from stic_server.admission.registry import public_keys
    from stic_server.federation.plan import propose

    path = federation_file(config_file)
    federation = config_files.load(path, FederationConfig)
    proposal = propose(federation, evaluate=evaluate, sites=public_keys(path.resolve().parent / "sites"))
    for name, value in described(proposal.plan):
        print(f"{name:21}{value}")
    if out is not None:
        write_atomically(out, proposal.plan.model_dump_json(indent=1) + "\n")
        print(f"{'written':21}{out}")


def _federate(path: Path, *, evaluate: Path | None = None) -> None:
    def work(grid: Grid, observer: RunObserver) -> RunFolder:
        from stic_server.flower_app import run_federation

        return run_federation(grid, path, observer=observer, evaluate=evaluate)

    run = _serve(path, work)
    show_evaluation(run.read_evaluation())
    show_notices({"": run.path})
    print(f"\nrun     {run.path}\nreport  {run.path / 'report.html'}")


def _serve(path: Path, work: Callable[[Grid, RunObserver], RunFolder]) -> RunFolder:
    """Listen while something is done with the sites, as the one server of this federation."""
    from stic_server.status.only_server import only_server

    federation, interval_scale = config_files.load(path, FederationConfig), config_files.interval_scale()
    with only_server(path.resolve().parent), Terminal() as terminal:
        terminal.stage("starting")
        from stic_server.admission import expiry, renewal

        folder, listen = path.resolve().parent, federation.listen
        renewal.check_keys(folder)
        for one in expiry.expiries(folder):
            if warning := one.warning(dt.datetime.now(dt.UTC)):
                terminal.note(f"warning: {warning}")
        # torch and flwr take seconds to import: errors of configuration come before.
        from stic_server.cli.console import ConsoleObserver
        from stic_server.flower_link import FleetServer, Listen
        from stic_server.status.file import StatusFile

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
                health_port=listen.health_port,
            ),
            note=terminal.note,
            interval_scale=interval_scale,
        )
        server.watch(folder / "sites")
        server.start()
        terminal.note(f"listening on https://{listen.host}:{listen.port}")
        try:
            with StatusFile(folder, ConsoleObserver(terminal), presence=server.presence) as observer:
                return server.execute(lambda grid: work(grid, observer))
        finally:
            server.stop()


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    readers: Annotated[
        list[Path] | None,
        typer.Option(help="A reader study that a site exported; repeatable. It is kept with the run."),
    ] = None,
) -> None:
    """Rewrite a run's report and model card."""
    from stic_server.report import write_report
    from stic_server.report.model_card import write_model_card

    print(write_report(run, readers=readers or ()))
    if (run / "evaluation.json").exists():
        print(write_model_card(run))


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of two or more runs evaluated on the same held-out patients."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Also write the figures as CSV, one row per figure.")
    ] = None,
) -> None:
    """Show the held-out figures of several runs side by side."""
    from stic_core.evaluation.run_results import compare_runs, load_run, names_of

    found = [load_run(run) for run in runs]
    figures = compare_runs(*found)
    show_comparison(
        {name: run.evaluation for name, run in zip(names_of(found), found, strict=True) if run.evaluation}
    )
    show_notices({f"{name}: ": run.path for name, run in zip(names_of(found), found, strict=True)})
    if out is not None:
        figures.to_csv(out, index=False)
        print(f"\nwritten  {out}")


@app.command()
def audit(
    run: Annotated[str | None, typer.Argument(help="A run's id; default: all runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every line as JSON, for programs.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Verify the log of every message in and out, and summarise it."""
    from stic_core.protocol.audit_log import AuditLog, describe

    print(describe(AuditLog(federation_file(config_file).parent / "audit.jsonl"), run=run, as_json=as_json))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Seed of the phantom patients and of training.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Use as many patients as the paper's two centres.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="Where the demo's files go.")] = Path(".stic"),
    runs: Annotated[Path, typer.Option(help="Where its runs go.")] = Path("runs"),
) -> None:
    """Run everything on this machine: two phantom centres, a real server, two real clients."""
    from stic_server.demo import run_demo

    run_demo(folder.resolve(), runs=runs.resolve(), seed=seed, full=full)


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="Folder of the simulation; an interrupted one is resumed.")],
    phantom: Annotated[
        bool, typer.Option("--phantom", help="Two phantom centres, drawn anew for each seed.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Phantom centres of the paper's size.")] = False,
    prepared: Annotated[
        list[Path] | None, typer.Option(help="A prepared dataset; repeat for each site.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="centre: sites as they are; dirichlet: patients redistributed by class.")
    ] = "centre",
    sites: Annotated[int, typer.Option(help="With --split dirichlet: the number of sites.")] = 0,
    alpha: Annotated[
        float, typer.Option(help="With --split dirichlet: the smaller, the more the sites differ.")
    ] = 0.5,
    seeds: Annotated[str, typer.Option(help="Such as 0-4 or 0,1,2.")] = "0-4",
    cohorts: Annotated[
        Path | None, typer.Option(help="Folder in which to keep drawn phantoms for later simulations.")
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="federation.yaml for model, training and rounds; default: the demo's."),
    ] = None,
) -> None:
    """Compare federated, centralised, ensemble and single-site training over several seeds, in one process."""
    from stic_server.simulation import simulate as run
    from stic_server.simulation.options import study_of
    from stic_server.simulation.tables import text

    study = study_of(
        seeds=seeds,
        split=split,
        federation=config_files.load(config_file, FederationConfig) if config_file else None,
        prepared=prepared or (),
        phantom=phantom,
        full=full,
        sites=sites,
        alpha=alpha,
        cohorts=cohorts,
    )
    with Terminal() as terminal:
        simulation = run(study, out, terminal=terminal)
    print(text(simulation))
    print(f"\nsimulation  {out / 'simulation.md'}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run or of a model.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write one ONNX file, backbone included.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: model.onnx in the model's folder.")
    ] = None,
    backbone_weights: Annotated[
        Path | None, typer.Option(help="The backbone's weights file, if it is not in torchvision's cache.")
    ] = None,
) -> None:
    """Export a run's model for other programs; scores agree within 1e-4."""
    if not onnx:
        raise UsageError("no format is named", advice="Add --onnx.")
    import torch

    from stic_core.models.onnx_export import export_onnx
    from stic_core.models.saved import read_model
    from stic_core.training.setup import ComputeConfig, restore

    folder = run / "model" if (run / "model").is_dir() else run
    saved = read_model(folder)
    network = restore(
        saved, compute=ComputeConfig(torch.device("cpu"), precision="float32", weights=backbone_weights)
    )
    print(export_onnx(network, out or folder / "model.onnx", description=saved.description))


@app.command("import-keras")
def import_keras(
    file: Annotated[Path, typer.Argument(help="The authors' .h5: a whole model, or its weights.")],
    out: Annotated[Path, typer.Option(help="Folder for the model; the backbone is written beside it.")],
    task: Annotated[str, typer.Option(help="malignant, hcc-icc or benign-malignant.")] = "malignant",
) -> None:
    """Convert a Keras model by the paper's authors, for predict or a warm start."""
    from stic_core.models.keras_import import save_keras

    if task not in TASKS:
        raise UsageError("no such task", got=repr(task), expected=" or ".join(TASKS))
    backbone = save_keras(file, out=out, task=TASKS[task])
    print(f"model     {out}")
    print(f"backbone  {backbone}  (name it under backbone_weights: {{vgg16: FILE}})")


def show_evaluation(document: dict[str, Any]) -> None:
    """The held-out table on stdout."""
    from stic_core.evaluation import evaluation_of, held_out_table

    # Intervals of every AUC are in the report; here a row fits a terminal's 80 columns.
    heading, *rows = held_out_table(evaluation_of(document), class_intervals=False)
    _show_held_out(heading, rows, phantom=document["phantom"], texts=2, width=104)


def show_notices(runs: Mapping[str, Path]) -> None:
    """What to know of a result before it is quoted, one paragraph each on stdout.

    Args:
        runs: folders by what stands before their notices.
    """
    from stic_server.report.notices import read_notices

    for before, run in runs.items():
        for notice in read_notices(run):
            print(f"\n{before}{notice}")


def show_comparison(evaluations: Mapping[str, Evaluation]) -> None:
    """The held-out tables of several runs on stdout, each model's and held-out set's rows together."""
    from stic_core.evaluation import held_out_table

    tables = {run: held_out_table(one, class_intervals=False) for run, one in evaluations.items()}
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for run, (_, *rows) in tables.items():
        for model, held_out_set, *figures in rows:
            groups.setdefault((model, held_out_set), []).append((run, *figures))
    together = [
        (*(group if number == 0 else ("", "")), *row)
        for group, members in groups.items()
        for number, row in enumerate(members)
    ]
    model, held_out_set, *figures = next(iter(tables.values()))[0]
    phantom = any(one.phantom for one in evaluations.values())
    _show_held_out((model, held_out_set, "Run", *figures), together, phantom=phantom, texts=3, width=140)


def _show_held_out(
    heading: Sequence[str], rows: Sequence[Sequence[str]], *, phantom: bool, texts: int, width: int
) -> None:
    """Print a held-out table.

    Args:
        texts: how many columns on the left are no numbers.
        width: of the table at least, in characters: a wrapped line is better than a cut figure.
    """
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    console.width = max(console.width, width)
    if phantom:
        console.print("\nPHANTOM DATA: synthetic patients; says nothing about real patients\n")
    table = Table(title="Held-out patients (95 % intervals)", title_justify="left", box=None, pad_edge=False)
    for index, name in enumerate(heading):
        table.add_column(name, justify="left" if index < texts else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def main() -> None:
    """Entry point."""
    # What a site did wrong is answered to the site, and is no error of the server.
    command_errors.adopt_log("flwr", name="flower", minor="[ApiError:")
    command_errors.run(app, name="stic-server")
