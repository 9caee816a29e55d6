"""The paper's three models beside each other on phantoms: STIC, naive joint, naive RGB.

    python benchmarks/architectures.py --work build/architectures --out benchmarks/results/architectures.json
    python benchmarks/architectures.py --choose --setups paper --work build/architectures

Each seed draws a phantom centre's patients anew; every arm trains on the same ones, from the
same backbone, as long, and the epoch with the best validation loss counts. A phantom result
is a phantom result, and says nothing of patients.

Learning rate and batch size of a set-up marked `chosen` are each arm's own, those with the
lowest validation loss on patients of two other seeds (`--choose` prints them); no test
patient was looked at for them. `clinic` is naive joint with the images zeroed, trained the
same way. Every trained model is also judged with the clinical columns exchanged among the test
patients, and a naive one with the three phases replaced by their mean: what is lost is what it
had learned from them.

The demo's backbone was pretrained on grey slices. Frozen, its coloured first layer gives each
phase a third of the grey weights: it sees the mean of the three phases and cannot know which
was bright when. ImageNet's backbones see colours. So there are set-ups with the whole backbone
trained too, in all three arms (`paper-unfrozen`: about five minutes of a core a seed), and with the
three phases' frozen maps side by side for the naive heads (`paper-phases`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from phantom_difficulty import macro_auc, prepare, without_images

from stic_core.config import ModelConfig, TrainingConfig
from stic_core.data.ct import PHASES
from stic_core.data.dataset import SiteDataset, Split, load_dataset
from stic_core.errors import DataError
from stic_core.models.stic import NaiveHead, extract
from stic_core.statistics.calibration import log_loss_sum
from stic_core.tasks import TASKS
from stic_core.training.augmentation import to_images
from stic_core.training.batches import AnyBatches, FeatureBatches, ImageBatches
from stic_core.training.setup import ComputeConfig, TrainingSetup, assemble
from stic_core.training.trainer import Trainer, fit, predict

TASK = TASKS["malignant"]
DEVICE = torch.device("cpu")
ARMS = ("stic", "naive-joint", "naive-rgb")
CLINIC = "clinic"
"""Naive joint that sees no image."""

DEVELOPMENT_SEEDS = (100, 101)
"""Whose validation patients rates are chosen on; no figure is reported of them."""

Rates = tuple[float, int]
"""Learning rate and batch size."""

DEFAULT: Rates = (1e-3, 32)
GRID: tuple[Rates, ...] = ((3e-4, 32), (1e-3, 32), (1e-3, 8), (3e-3, 8))


@dataclass(frozen=True, slots=True)
class Setup:
    """How all arms are trained.

    Args:
        full: a cohort of the paper's size (499 and 113 patients) instead of the demo's.
        blocks: of the backbone that train.
        rates: by arm; an arm that is not named has the default.
        phases: the naive heads take the three phases' feature maps side by side instead of the
            one map of three colours. Not the paper's models: it tells what a backbone that cannot
            see colours costs them.
    """

    full: bool
    epochs: int
    blocks: Literal[0, "all"] = 0
    rates: Mapping[str, Rates] = field(default_factory=dict)
    phases: bool = False

    def rates_of(self, arm: str) -> Rates:
        """Learning rate and batch size of an arm."""
        return self.rates.get(arm, DEFAULT)


CHOSEN: Mapping[str, Rates] = {"stic": (3e-3, 8), "naive-joint": (3e-3, 8), "naive-rgb": (3e-4, 32)}
"""By `--choose --setups paper`: the lowest of each arm's mean validation losses."""

SETUPS: dict[str, Setup] = {
    "demo": Setup(full=False, epochs=40),
    "demo-chosen": Setup(full=False, epochs=60, rates=CHOSEN),
    "paper": Setup(full=True, epochs=60),
    "paper-chosen": Setup(full=True, epochs=60, rates=CHOSEN),
    "paper-phases": Setup(full=True, epochs=60, phases=True),
    "paper-unfrozen": Setup(full=True, epochs=20, blocks="all"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm on one seed's patients.

    Args:
        auc: macro AUC on the test patients.
        val_loss: of the epoch that counts, `epoch`.
        steps: of the optimiser, until that epoch.
        exchanged: macro AUC with the clinical columns exchanged among the test patients; None
            where the model has none.
        grey: macro AUC with every phase replaced by the mean of the three; None for STIC.
    """

    auc: float
    by_class: list[float]
    val_loss: float
    epoch: int
    steps: int
    exchanged: float | None
    grey: float | None
    seconds: float


def dataset_of(work: Path, *, centre: str, seed: int, full: bool) -> SiteDataset:
    """A centre's patients, rendered unless they were."""
    folder = work / f"{'full' if full else 'demo'}-{centre}-{seed}"
    try:
        return load_dataset(folder)
    except DataError:
        return prepare(folder, centre=centre, seed=seed, full=full)


def training_of(rates: Rates) -> TrainingConfig:
    """The same for every arm but for the rates."""
    return TrainingConfig(
        views=8, schedule="plateau", plateau_rounds=5, learning_rate=rates[0], batch_size=rates[1]
    )


def exchanged(examples: AnyBatches, *, seed: int) -> AnyBatches:
    """Each patient's clinical columns are another one's."""
    order = np.random.default_rng(seed).permutation(len(examples))
    return replace(examples, clinical=examples.clinical[order])


def greyed(dataset: SiteDataset) -> SiteDataset:
    """The same patients, with the mean of the phases for each phase."""
    grey = np.asarray(dataset.images).mean(-1, keepdims=True).round().astype(np.uint8)
    return replace(dataset, images=np.repeat(grey, 3, axis=-1))


def test_of(dataset: SiteDataset, setup: TrainingSetup) -> AnyBatches:
    """The test patients as a trained model takes them, straight from the images."""
    rows, labels = dataset.indices("test", TASK), dataset.label_indices("test", TASK)
    clinical = np.asarray(dataset.clinical[rows])
    if setup.module is setup.network:
        return ImageBatches(dataset.images, rows, clinical, labels, TrainingConfig())
    colour = setup.network.images == 1
    with torch.inference_mode():
        maps = [
            extract(
                setup.network.backbone, to_images(dataset.images[rows[n : n + 16]], DEVICE), colour=colour
            )
            for n in range(0, len(rows), 16)
        ]
    return FeatureBatches((torch.cat(maps).half().numpy(),), clinical, labels)


def run(dataset: SiteDataset, arm: str, *, setup: Setup, rates: Rates, seed: int) -> Cell:
    """Train one arm with fresh weights and judge it on the test patients."""
    began = time.perf_counter()
    model = ModelConfig.model_validate(
        {
            "backbone": "tiny",
            "architecture": "stic" if setup.phases else "naive-joint" if arm == CLINIC else arm,
            "trainable_blocks": setup.blocks,
        }
    )
    training = training_of(rates)
    # bfloat16 halves the time of a tiny backbone that trains; the frozen one is cached anyway.
    compute = ComputeConfig(DEVICE, precision="bfloat16" if setup.blocks else "auto")
    made = assemble(dataset, model=model, training=training, task=TASK, seed=seed, compute=compute)
    if setup.phases and arm != "stic":
        channels = len(PHASES) * made.network.backbone.channels
        torch.manual_seed(seed)
        head = NaiveHead(channels=channels, classes=len(TASK.classes), clinical=arm == "naive-joint")
        made = replace(made, module=head)
    examples: Mapping[Split, AnyBatches] = made.batches
    if arm == CLINIC:
        examples = {
            k: without_images(part) for k, part in examples.items() if isinstance(part, FeatureBatches)
        }
    val, test = examples["val"], examples["test"]

    def validate() -> float:
        return log_loss_sum(predict(made.module, val, device=DEVICE), labels=val.labels) / len(val)

    def judge(part: AnyBatches) -> tuple[float, list[float]]:
        return macro_auc(predict(made.module, part, device=DEVICE), part.labels)

    trainer = Trainer(made.module, examples["train"], config=training, seed=[seed], device=DEVICE)
    found = fit(trainer, rounds=setup.epochs, validate=validate)
    made.load_weights(found.best)
    auc, by_class = judge(test)
    leaning = None
    if arm != "naive-rgb":
        leaning = float(np.mean([judge(exchanged(test, seed=number))[0] for number in range(5)]))
    sees_colours = arm.startswith("naive") and not setup.phases
    colourless = judge(test_of(greyed(dataset), made))[0] if sees_colours else None
    return Cell(
        auc=round(auc, 4),
        by_class=[round(value, 4) for value in by_class],
        val_loss=round(float("nan") if found.best_loss is None else found.best_loss, 4),
        epoch=found.best_epoch,
        steps=found.best_epoch * -(-len(examples["train"]) // training.batch_size),
        exchanged=None if leaning is None else round(leaning, 4),
        grey=None if colourless is None else round(colourless, 4),
        seconds=round(time.perf_counter() - began, 1),
    )


def choose(setups: Sequence[str], *, work: Path, centre: str) -> None:
    """Print each arm's validation loss at each point of the grid, on the development seeds."""
    for name in setups:
        for arm in ARMS:
            for rates in GRID:
                cells = [
                    run(
                        dataset_of(work, centre=centre, seed=seed, full=SETUPS[name].full),
                        arm,
                        setup=SETUPS[name],
                        rates=rates,
                        seed=seed,
                    )
                    for seed in DEVELOPMENT_SEEDS
                ]
                losses = [cell.val_loss for cell in cells]
                print(f"{name:14} {arm:12} {rates}: {np.mean(losses):.4f} {losses}", flush=True)


def summary(cells: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Of cells by arm and seed: means over the seeds, and in how many one arm is above another."""
    auc = {arm: [cell["auc"] for _, cell in sorted(row.items())] for arm, row in cells.items()}

    def wins(above: str, below: str) -> str:
        pairs = list(zip(auc[above], auc[below], strict=True))
        return f"{sum(one > other for one, other in pairs)} of {len(pairs)}"

    return {
        "macro_auc": auc,
        "mean_macro_auc": {arm: round(float(np.mean(row)), 4) for arm, row in auc.items()},
        "sd_macro_auc": {
            arm: round(float(np.std(row, ddof=min(1, len(row) - 1))), 4) for arm, row in auc.items()
        },
        "stic above naive-joint": wins("stic", "naive-joint"),
        "naive-joint above naive-rgb": wins("naive-joint", "naive-rgb"),
    }


def measure(name: str, *, seed: int, work: Path, centre: str) -> dict[str, Any]:
    """All arms of one set-up on one seed's patients, as the file has them."""
    setup = SETUPS[name]
    dataset = dataset_of(work, centre=centre, seed=seed, full=setup.full)
    cells: dict[str, dict[str, Any]] = {}
    line = [f"PHANTOM {name} seed {seed}:"]
    for arm in ARMS if setup.blocks or setup.phases else (*ARMS, CLINIC):
        rates = setup.rates_of("naive-joint" if arm == CLINIC else arm)
        cell = run(dataset, arm, setup=setup, rates=rates, seed=seed)
        cells[arm] = {str(seed): asdict(cell)}
        line.append(f"{arm} {cell.auc:.3f} (step {cell.steps}, {cell.seconds:.0f} s)")
    print(" ".join(line), flush=True)
    return {
        "centre": centre,
        "patients": {split: len(dataset.indices(split)) for split in ("train", "val", "test")},
        "epochs": setup.epochs,
        "trainable_blocks": setup.blocks,
        "rates": {arm: list(setup.rates_of(arm)) for arm in ARMS},
        "cells": cells,
    }


def merged(before: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A set-up with one more seed; of other patients or rates, what was there is dropped."""
    same = all(before.get(key) == value for key, value in found.items() if key != "cells")
    old = before["cells"] if same else {}
    cells = {arm: old.get(arm, {}) | row for arm, row in found["cells"].items()}
    return {**found, **summary(cells), "cells": cells}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setups", nargs="+", choices=list(SETUPS), default=list(SETUPS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--centre", default="center1")
    parser.add_argument("--choose", action="store_true", help="print validation losses over the grid instead")
    parser.add_argument("--work", type=Path, help="folder for patients and features; temporary by default")
    parser.add_argument("--out", type=Path, help="JSON file, written seed by seed; what else is in it stays")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out: Path | None = arguments.out
    results: dict[str, Any] = {}
    if out and out.exists():
        results = json.loads(out.read_text())["setups"]
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        if arguments.choose:
            choose(arguments.setups, work=work, centre=arguments.centre)
            return
        for name in arguments.setups:
            for seed in arguments.seeds:
                found = measure(name, seed=seed, work=work, centre=arguments.centre)
                results[name] = merged(results.get(name, {}), found)
                if out:
                    out.parent.mkdir(parents=True, exist_ok=True)
                    out.write_text(json.dumps({"phantom": True, "setups": results}, indent=1) + "\n")
            print(f"  {name}: {results[name]['mean_macro_auc']}", flush=True)
    print(json.dumps({"phantom": True, "setups": results}))


if __name__ == "__main__":
    main()
