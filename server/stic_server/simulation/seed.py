"""One seed of a simulation, from its patients to its figures: the task that engines spread."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from stic_core.errors import DataError
from stic_core.evaluation import read_evaluation
from stic_server.federation.sites import RunObserver
from stic_server.report.cues import cues_of
from stic_server.simulation.cohorts import dealt_out, phantom_centres, prepared_sites, union
from stic_server.simulation.compared_models import evaluation_folder, train_compared_models
from stic_server.simulation.settings import SimulationConfig
from stic_server.simulation.summary import models_of_seed, pairs_of
from stic_server.simulation.workplace import Workplaces


def run_seed(
    study: SimulationConfig, seed: int, *, out: Path, workplaces: Workplaces, observer: RunObserver
) -> dict[str, Any]:
    """A seed's result, whatever process this is, and wherever its sites compute.

    What it made on the way goes when it is done, but for cohorts that are kept.

    Args:
        out: the simulation's folder.
        workplaces: where its sites and the centralised model are computed.
        observer: receives progress events.

    Raises:
        SticError: what a federation may raise.
    """
    work = out / "work" / f"seed-{seed}"
    pool = work / "all"
    if not study.prepared:
        crop = study.federation.image.crop_mm
        assert crop is not None  # a study of phantoms has one
        sites = phantom_centres(
            study.cohorts or work, seed=seed, full=study.full, crop_mm=crop, progress=observer.progress
        )
        if study.cohorts and study.split == "centre":
            pool = next(iter(sites.values())).folder.parent / "all"
    else:
        # Features are cached in a dataset's folder: here in the simulation's, never in a hospital's.
        sites = {
            name: replace(dataset, folder=work / name)
            for name, dataset in prepared_sites(study.prepared).items()
        }
    for name, dataset in sites.items():
        try:
            dataset.require(study.federation.task)  # a site may lack a class, not all of them
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
    if study.split == "dirichlet":
        observer.stage("distributing patients to sites")
        sites = dealt_out(
            sites,
            work / "sites",
            task=study.federation.task,
            sites=study.sites,
            alpha=study.alpha,
            seed=seed,
        )
    federation = study.federation.model_copy(update={"seed": seed, "runs": out / "runs" / f"seed-{seed}"})
    run, scores = train_compared_models(
        federation,
        sites,
        union(sites, pool),
        workplaces=workplaces,
        observer=observer,
    )
    evaluation = read_evaluation(run.path / "evaluation.json")
    record, rounds = run.read_record(), run.read_rounds()
    shutil.rmtree(work, ignore_errors=True)  # where cohorts are kept, nothing may be in it
    return {
        "seed": seed,
        "run": evaluation_folder(run, of=out),
        "phantom": evaluation.phantom,
        "model_digest": evaluation.model_digest,
        "best_round": record["best_round"],
        "cues": [cue.headline for cue in cues_of(record, rounds=rounds, evaluation=evaluation)],
        "wall_seconds": record["wall_seconds"],
        "patients": {
            name: {split: len(dataset.indices(split, federation.task)) for split in ("train", "val", "test")}
            for name, dataset in sites.items()
        },
        "bytes_a_round": {
            "down": round(sum(row["bytes_down"] for row in rounds) / len(rounds)),
            "up": round(sum(row["bytes_up"] for row in rounds) / len(rounds)),
        },
        "models": models_of_seed(evaluation, scores),
        "pairs": pairs_of(scores),
    }
