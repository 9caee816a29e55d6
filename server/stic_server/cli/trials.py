"""A federation without hospitals: the demo, and simulations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stic_core import config_files
from stic_core.config import FederationConfig
from stic_core.system.terminal import Terminal
from stic_server.cli.options import app


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Seed of the phantom patients and of training.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Use as many patients as the paper's two centres.")
    ] = False,
    secure_aggregation: Annotated[
        bool,
        typer.Option("--secure-aggregation", help="Let the server see only the sum of the centres' updates."),
    ] = False,
    folder: Annotated[Path, typer.Option(help="Where the demo's files go.")] = Path(".stic"),
    runs: Annotated[Path, typer.Option(help="Where its runs go.")] = Path("runs"),
) -> None:
    """Run everything on this machine: two phantom centres, a real server, two real clients."""
    from stic_server.demo import run_demo

    run_demo(
        folder.resolve(),
        runs=runs.resolve(),
        seed=seed,
        full=full,
        secure_aggregation=secure_aggregation,
    )


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
    engine: Annotated[
        str, typer.Option(help="What computes: process (this one) or ray (several, or a cluster).")
    ] = "process",
    ray_address: Annotated[
        str | None,
        typer.Option(help="With --engine ray: a cluster's address; default: RAY_ADDRESS, else this machine."),
    ] = None,
    gpus_per_task: Annotated[
        float, typer.Option(help="With --engine ray: share of a GPU per worker, such as 0.25; 0: CPU.")
    ] = 0.0,
) -> None:
    """Compare federated, centralised, ensemble and single-site training over several seeds."""
    from stic_server.simulation import simulate as run
    from stic_server.simulation.options import engine_of, study_of
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
    computes = engine_of(engine, ray_address=ray_address, gpus_per_task=gpus_per_task)
    with Terminal() as terminal:
        simulation = run(study, out, terminal=terminal, engine=computes)
    print(text(simulation))
    print(f"\nsimulation  {out / 'simulation.md'}")
