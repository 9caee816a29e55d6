"""A simulation from its registration to its table: a folder that a killed one goes on in, seed by seed."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stic_core.config import FederationConfig, PolicyConfig
from stic_core.errors import DataError, UsageError
from stic_core.evaluation import read_evaluation
from stic_core.models.devices import pick_device
from stic_core.phantom import GENERATOR_VERSION
from stic_core.statistics import MARGIN
from stic_core.system.files import write_atomically
from stic_core.system.terminal import Terminal
from stic_core.training.setup import ComputeConfig
from stic_server.federation.run_folder import now, versions
from stic_server.report.cues import cues_of
from stic_server.simulation.cohorts import Datasets, dealt_out, phantom_centres, prepared_sites, union
from stic_server.simulation.compared_models import evaluation_folder, train_compared_models
from stic_server.simulation.console import SeedObserver
from stic_server.simulation.summary import models_of_seed, pairs_of, summarise
from stic_server.simulation.tables import markdown, write_tables

SCHEMA = 1

POLICY = PolicyConfig()
"""Of every site: what hospitals release where they change nothing."""


@dataclass(frozen=True)
class Registered:
    """What is claimed and how it will be judged; written before the first seed runs."""

    hypothesis: str = (
        "The federated model is non-inferior to the model trained on all patients in one place (centralised)."
    )
    figure: str = "macro AUC over all sites' held-out patients together, federated minus centralised"
    margin: float = MARGIN
    rule: str = (
        "Non-inferior if the lower end of the two-sided 95 % t interval of the mean difference over the "
        "registered seeds lies above minus the margin."
    )


@dataclass(frozen=True)
class SimulationConfig:
    """What is simulated.

    Args:
        federation: model, training and rounds; its seed and its folder of runs are each seed's own.
        seeds: of phantoms, of dealing, and of training.
        prepared: folders of prepared datasets; none for the two phantom centres.
        full: phantom centres of the paper's size.
        split: sites as they are, or dealt out by class.
        sites, alpha: of the dealing.
        cohorts: where drawn phantoms and their features are kept for further simulations; None
            keeps none.
    """

    federation: FederationConfig
    seeds: tuple[int, ...]
    prepared: tuple[Path, ...] = ()
    full: bool = False
    split: Literal["centre", "dirichlet"] = "centre"
    sites: int = 0
    alpha: float = 0.5
    cohorts: Path | None = None

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(
                "unsuitable seeds of a simulation", got=self.seeds, expected="distinct numbers, 0 or above"
            )
        if self.split == "centre" and self.sites:
            raise UsageError("--sites", got=self.sites, advice="--sites goes with --split dirichlet only.")
        if self.split == "dirichlet" and self.sites < 2:
            raise UsageError(
                "too few sites to distribute patients to", got=self.sites, expected="2 or more (--sites)"
            )
        if self.full and self.prepared:
            raise UsageError("--full with prepared data", advice="--full is for the phantom centres only.")
        if not self.prepared and self.federation.image.crop_mm is None:
            raise UsageError(
                "image.crop_mm of the federation", got="null", expected="a size in mm: phantoms are cropped"
            )
        if self.federation.warm_start is not None:
            raise UsageError(
                "warm_start in a simulation",
                advice="Remove it: all models of a simulation start from fresh weights.",
            )
        if self.federation.secure_aggregation is not None:
            raise UsageError(
                "secure_aggregation in a simulation",
                advice="Remove it: all sites are in one process, and the sums are the same to a millionth.",
            )
        if self.split == "centre" and len(self.prepared) == 1:
            raise UsageError("only one prepared dataset", expected="2 or more, or --split dirichlet")

    def settings(self, sites: Datasets | None) -> dict[str, Any]:
        """All that determines the figures, as JSON.

        Args:
            sites: the prepared datasets; None for phantoms.
        """
        federation = self.federation.model_dump(
            mode="json",
            exclude={
                *("runs", "listen", "warm_start", "backbone_weights", "seed", "local_only", "min_sites"),
                "secure_aggregation",
            },
        )
        source: dict[str, Any] = {"kind": "phantom", "size": "full" if self.full else "demo"}
        source |= {"generator": GENERATOR_VERSION, "alignment": "true transform, no registration"}
        if sites is not None:
            source = {"kind": "prepared", "fingerprints": {n: d.fingerprint for n, d in sites.items()}}
        split: dict[str, Any] = {"kind": self.split}
        if self.split == "dirichlet":
            split |= {"sites": self.sites, "alpha": self.alpha}
        return {
            "source": source,
            "split": split,
            "seeds": list(self.seeds),
            "policy": {"min_cell": POLICY.min_cell, "min_class": POLICY.min_class},
            "federation": federation,
        }


def simulate(study: SimulationConfig, out: Path, *, terminal: Terminal | None = None) -> dict[str, Any]:
    """Run every seed that has no result yet, and sum up.

    Args:
        study: what is simulated.
        out: the simulation's folder; one of the same study goes on.
        terminal: shows how far it is; None shows nothing.

    Returns:
        The simulation, as `simulation.json` has it.

    Raises:
        UsageError: the folder holds a simulation of another study.
        SticError: what a federation may raise.
    """
    terminal = terminal or Terminal(quiet=True)
    given = prepared_sites(study.prepared) if study.prepared else None
    wrong = {name for name, dataset in (given or {}).items() if dataset.image != study.federation.image}
    if wrong:
        raise UsageError(
            f"images of {', '.join(sorted(wrong))} were not prepared as the federation asks",
            expected=study.federation.image,
            advice="Set image in federation.yaml to match how they were prepared.",
        )
    simulation = _registered(study, out, settings=study.settings(given))
    device = pick_device("auto")
    compute = ComputeConfig(
        device, weights=study.federation.backbone_weights.get(study.federation.model.backbone)
    )
    for place, seed in enumerate(study.seeds, start=1):
        result = out / "seeds" / f"seed-{seed}.json"
        which = f"seed {seed} ({place} of {len(study.seeds)})"
        if result.exists():
            terminal.note(f"{which}: already done")
        else:
            observer = SeedObserver(terminal, which=which)
            _write_json(
                result, _one_seed(study, seed, out=out, given=given, compute=compute, observer=observer)
            )
        simulation["results"][str(seed)] = json.loads(result.read_text(encoding="utf-8"))
    results = simulation["results"]
    summary = summarise(
        results,
        margin=simulation["registered"]["margin"],
        new_patients=given is None,
        same_sites=study.split == "centre",
    )
    simulation |= {
        "status": "complete",
        "finished": now(),
        "phantom": any(one["phantom"] for one in results.values()),
        "machine": {"device": device.type, "cores": os.cpu_count(), "processor": platform.machine()},
        "versions": versions(),
        "summary": summary,
    }
    _write_json(out / "simulation.json", simulation)
    write_tables(out, simulation)
    write_atomically(out / "simulation.md", markdown(simulation).encode())
    return simulation


def _one_seed(
    study: SimulationConfig,
    seed: int,
    *,
    out: Path,
    given: Datasets | None,
    compute: ComputeConfig,
    observer: SeedObserver,
) -> dict[str, Any]:
    """A seed's result; what it made on the way goes when it is done, but for cohorts that are kept."""
    work = out / "work" / f"seed-{seed}"
    pool = work / "all"
    if given is None:
        crop = study.federation.image.crop_mm
        assert crop is not None  # a study of phantoms has one
        sites = phantom_centres(
            study.cohorts or work, seed=seed, full=study.full, crop_mm=crop, progress=observer.progress
        )
        if study.cohorts and study.split == "centre":
            pool = next(iter(sites.values())).folder.parent / "all"
    else:
        # Features are cached in a dataset's folder: here in the simulation's, never in a hospital's.
        sites = {name: replace(dataset, folder=work / name) for name, dataset in given.items()}
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
        policy=POLICY,
        compute=compute,
        observer=observer,
        progress=observer.progress,
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


def _registered(study: SimulationConfig, out: Path, *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The simulation's record: found, or written before anything is computed."""
    path = out / "simulation.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("settings") != settings:
            raise UsageError(
                f"{out} contains a simulation with different settings or seeds",
                got=", ".join(_differences(found.get("settings", {}), settings)),
                advice="Choose another folder with --out; what was registered is not changed afterwards.",
            )
        return found
    simulation = {
        "schema": SCHEMA,
        "status": "running",
        "registered": {"at": now(), **asdict(Registered()), "seeds": list(study.seeds)},
        "settings": settings,
        "results": {},
    }
    _write_json(path, simulation)
    return simulation


def _differences(before: Mapping[str, Any], now_: Mapping[str, Any]) -> list[str]:
    """Settings that differ, as paths."""
    out = []
    for key in sorted({*before, *now_}):
        a, b = before.get(key), now_.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += [f"{key}.{inner}" for inner in _differences(a, b)]
        elif a != b:
            out.append(f"{key} {a} before and {b} now")
    return out


def _write_json(path: Path, value: object) -> None:
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
