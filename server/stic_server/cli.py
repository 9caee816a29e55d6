"""`stic-server`: the command of the coordinating engineer."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stic_core import commands, config
from stic_core.config import FederationConfig
from stic_core.errors import UsageError
from stic_core.tasks import TASKS
from stic_core.terminal import Terminal

app = typer.Typer(
    name="stic-server",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The coordinator's side of STIC-Federated.",
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="federation.yaml; default $STIC_HOME/server/federation.yaml.")
]


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log and tracebacks.")] = False,
) -> None:
    """Options before a command."""
    del verbose  # read where errors are shown


def _path(config_file: Path | None) -> Path:
    return config_file or config.home() / "server" / "federation.yaml"


@app.command()
def init(
    name: Annotated[str, typer.Option(help="Begins the names of runs.")] = "stic",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every interface.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; the sites need no other.")] = 8443,
    names: Annotated[
        str, typer.Option(help="Host names and addresses that the sites use, with commas between.")
    ] = "localhost,127.0.0.1",
    task: Annotated[str, typer.Option(help="malignant, hcc-icc or benign-malignant.")] = "malignant",
    backbone: Annotated[str, typer.Option(help="vgg16 (the paper's) or tiny (the demo's).")] = "vgg16",
    crop_mm: Annotated[float | None, typer.Option(help="Crop around the lesion, mm.")] = None,
    config_file: ConfigOption = None,
) -> None:
    """Make federation.yaml, the federation's CA and the server's certificate; once."""
    from stic_server.initialise import NewFederation, initialise

    new = NewFederation(
        name=name,
        host=host,
        port=port,
        names=[part.strip() for part in names.split(",") if part.strip()],
        task=task,
        backbone=backbone,
        crop_mm=crop_mm,
    )
    path, fingerprint = initialise(_path(config_file).parent, new)
    print(f"configuration   {path}")
    print(f"CA certificate  {path.parent / 'ca.crt'}  (send this file to every site)")
    print(f"CA fingerprint  {fingerprint}  (tell it the sites by telephone)")


@app.command()
def admit(
    site: Annotated[str, typer.Argument(help="The name under which the site takes part.")],
    public_key: Annotated[Path, typer.Argument(help="The file site.pub that the site sent.")],
    config_file: ConfigOption = None,
) -> None:
    """Admit a site; compare the fingerprint with the site by telephone first."""
    from stic_server import sites

    admitted = sites.admit(_path(config_file).parent / "sites", name=site, public_key=public_key)
    print(f"{admitted.name} is admitted with key {admitted.fingerprint}")


@app.command("sites")
def list_sites(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Which sites are admitted."""
    from stic_server import sites

    found = sites.admitted(_path(config_file).parent / "sites")
    if as_json:
        print(json.dumps([{"site": site.name, "fingerprint": site.fingerprint} for site in found]))
        return
    for site in found:
        print(f"{site.name}  {site.fingerprint}")
    if not found:
        print("no site is admitted; see stic-server admit --help")


@app.command()
def start(config_file: ConfigOption = None) -> None:
    """Run the federation: wait for the sites, train, evaluate, write the report."""
    path = _path(config_file)
    federation = config.load(path, FederationConfig)
    with Terminal() as terminal:
        terminal.stage("starting")
        # torch and flwr take seconds to import: errors of configuration come before.
        from stic_server import flower_app
        from stic_server.console import ConsoleObserver
        from stic_server.flower_link import FleetServer, Listen

        # A service manager stops with SIGTERM; leave as with Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        folder, listen = path.resolve().parent, federation.listen
        server = FleetServer(
            Listen(
                host=listen.host,
                port=listen.port,
                certificate=folder / "server.crt",
                key=folder / "server.key",
                ca=folder / "ca.crt",
                max_body_mb=listen.max_body_mb,
            )
        )
        server.watch(folder / "sites")
        server.start()
        terminal.note(f"listening on https://{listen.host}:{listen.port}")
        flower_app.surroundings.observer = ConsoleObserver(terminal)
        try:
            server.execute(flower_app.app, run_config={"federation": str(path)})
        finally:
            server.stop()
        run = flower_app.surroundings.run
        assert run is not None  # the app ran
        terminal.stage("writing the report")
        from stic_server.model_card import write_model_card
        from stic_server.report import write_report

        report = write_report(run.path)
        write_model_card(run.path)
    show_evaluation(run.read_evaluation())
    print(f"\nrun     {run.path}\nreport  {report}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Write a run's report and model card again."""
    from stic_server.model_card import write_model_card
    from stic_server.report import write_report

    print(write_report(run))
    print(write_model_card(run))


@app.command()
def audit(
    run: Annotated[str | None, typer.Argument(help="A run's id; default all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every line, for programs.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Verify the log of every message in and out, and sum it up."""
    from stic_core.audit import AuditLog, describe

    print(describe(AuditLog(_path(config_file).parent / "audit.jsonl"), run=run, as_json=as_json))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Of the phantom patients and of training.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="As many patients as the paper's two centres.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="Where the demo's files go.")] = Path(".stic"),
    runs: Annotated[Path, typer.Option(help="Where its runs go.")] = Path("runs"),
) -> None:
    """The whole of it on this machine: two phantom centres, a real server, two real clients."""
    from stic_server.demo import run_demo

    run_demo(folder.resolve(), runs=runs.resolve(), seed=seed, full=full)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a model's.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="As one ONNX file, backbone and all.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The file; default model.onnx in the model's folder.")
    ] = None,
    backbone_weights: Annotated[
        Path | None, typer.Option(help="The backbone's file, where it is not in torchvision's cache.")
    ] = None,
) -> None:
    """Write a run's model for other programs; its scores are ours within 1e-4."""
    if not onnx:
        raise UsageError("no format is named", advice="Add --onnx.")
    import torch

    from stic_core.assembly import Means, restore
    from stic_core.export import export_onnx
    from stic_core.model_files import read_model

    folder = run / "model" if (run / "model").is_dir() else run
    saved = read_model(folder)
    network = restore(saved, means=Means(torch.device("cpu"), precision="float32", weights=backbone_weights))
    print(export_onnx(network, out or folder / "model.onnx", description=saved.description))


@app.command("import-keras")
def import_keras(
    file: Annotated[Path, typer.Argument(help="The authors' .h5: a whole model, or its weights.")],
    out: Annotated[Path, typer.Option(help="Folder for the model; the backbone goes beside it.")],
    task: Annotated[str, typer.Option(help="malignant, hcc-icc or benign-malignant.")] = "malignant",
) -> None:
    """Turn a Keras model of the paper's authors into one of ours, for predict or a warm start."""
    from stic_core.keras_weights import save_keras

    if task not in TASKS:
        raise UsageError("no such task", got=repr(task), expected=" or ".join(TASKS))
    backbone = save_keras(file, out=out, task=TASKS[task])
    print(f"model     {out}")
    print(f"backbone  {backbone}  (name it under backbone_weights: {{vgg16: FILE}})")


def show_evaluation(document: dict[str, Any]) -> None:
    """The held-out table on stdout."""
    from stic_core.evaluation import held_out_table

    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 104)  # a wrapped line is better than a cut figure
    if document["phantom"]:
        console.print(
            "\nPHANTOM DATA: synthetic patients; nothing here says how the model does on real ones\n"
        )
    # Intervals of every AUC are in the report; here a row fits a terminal's 80 columns.
    heading, *rows = held_out_table(document, class_intervals=False)
    table = Table(title="Held-out patients (95 % intervals)", title_justify="left", box=None, pad_edge=False)
    for index, name in enumerate(heading):
        table.add_column(name, justify="left" if index < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def main() -> None:
    """Entry point."""
    commands.run(app, name="stic-server")
