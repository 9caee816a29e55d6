"""What a run left: its report, comparisons, the log of its messages, its model for other programs."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stic_core.errors import UsageError
from stic_core.tasks import task_named
from stic_server.cli.options import ConfigOption, app, existing_federation_file, model_folder, run_folder

if TYPE_CHECKING:
    from stic_core.evaluation import Evaluation


class Guideline(enum.StrEnum):
    """Reporting checklists that can be filled; `stic_server.report.checklist` reads them."""

    TRIPOD_AI = "tripod-ai"
    CLAIM = "claim"
    STARD_AI = "stard-ai"


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its id.")],
    readers: Annotated[
        list[Path] | None,
        typer.Option(help="A reader study that a site exported; repeatable. It is kept with the run."),
    ] = None,
    checklist: Annotated[
        list[Guideline] | None,
        typer.Option(help="Also fill this reporting checklist for the run; repeatable."),
    ] = None,
    config_file: ConfigOption = None,
) -> None:
    """Rewrite a run's report and model card."""
    run = run_folder(run, config_file)
    from stic_server.report import write_report
    from stic_server.report.model_card import write_model_card

    print(write_report(run, readers=readers or ()))
    if (run / "evaluation.json").exists():
        print(write_model_card(run))
    for one in checklist or ():
        from stic_server.report.checklist import write_checklist

        print(write_checklist(run, one.value))


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders or ids of two or more runs evaluated on the same held-out patients."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Also write the figures as CSV, one row per figure.")
    ] = None,
    config_file: ConfigOption = None,
) -> None:
    """Show the held-out figures of several runs side by side."""
    from stic_core.evaluation.run_results import compare_runs, load_run, names_of

    found = [load_run(run_folder(run, config_file)) for run in runs]
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

    print(
        describe(
            AuditLog(existing_federation_file(config_file).parent / "audit.jsonl"), run=run, as_json=as_json
        )
    )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run or of a model, or a run's id.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write one ONNX file, backbone included.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: model.onnx in the model's folder.")
    ] = None,
    backbone_weights: Annotated[
        Path | None, typer.Option(help="The backbone's weights file, if it is not in torchvision's cache.")
    ] = None,
    config_file: ConfigOption = None,
) -> None:
    """Export a run's model for other programs; scores agree within 1e-4."""
    if not onnx:
        raise UsageError("no format is named", advice="Add --onnx.")
    import torch

    from stic_core.models.onnx_export import export_onnx
    from stic_core.models.saved import read_model
    from stic_core.training.setup import ComputeConfig, restore

    folder = model_folder(run, config_file)
    folder = folder / "model" if (folder / "model").is_dir() else folder
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

    backbone = save_keras(file, out=out, task=task_named(task))
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
