"""The paper's three models beside each other on phantoms: STIC, naive joint, naive RGB.

    python benchmarks/arms.py --seeds 0 1 2 3 4

Each seed draws a phantom centre's patients anew; every arm trains on the same ones, from the
same backbone, as long, and the epoch with the best validation loss counts. The last line is
JSON. A phantom result is a phantom result, and says nothing of patients.

The demo's backbone was pretrained on grey slices. Frozen, its coloured first layer gives each
phase a third of the grey weights: it sees the mean of the three phases and cannot know which
was bright when. ImageNet's backbones see colours. So the naive arms are also trained with all
of the backbone unfrozen (`+`), where they can learn colours; that is the fairer comparison.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from phantom_difficulty import macro_auc, prepare

from stic_core.assembly import Means, assemble
from stic_core.config import ModelConfig, TrainingConfig
from stic_core.dataset import SiteDataset
from stic_core.statistics.calibration import log_loss_sum
from stic_core.tasks import TASKS
from stic_core.training import Trainer, fit, predict

TASK = TASKS["malignant"]
DEVICE = torch.device("cpu")

ARMS: dict[str, dict[str, Any]] = {
    "stic": {"architecture": "stic"},
    "naive-joint": {"architecture": "naive-joint"},
    "naive-rgb": {"architecture": "naive-rgb"},
    "naive-joint+": {"architecture": "naive-joint", "trainable_blocks": "all"},
    "naive-rgb+": {"architecture": "naive-rgb", "trainable_blocks": "all"},
}


def run(
    dataset: SiteDataset, changes: dict[str, Any], *, training: TrainingConfig, epochs: int, seed: int
) -> float:
    """Macro AUC of one arm on the held-out patients."""
    model = ModelConfig.model_validate({"backbone": "tiny"} | changes)
    bench = assemble(dataset, model=model, training=training, task=TASK, seed=seed, means=Means(DEVICE))
    trainer = Trainer(bench.module, bench.examples["train"], config=training, seed=[seed], device=DEVICE)
    val, test = bench.examples["val"], bench.examples["test"]

    def validate() -> float:
        return log_loss_sum(predict(bench.module, val, device=DEVICE), labels=val.labels) / len(val)

    bench.put(fit(trainer, rounds=epochs, validate=validate).best)
    return macro_auc(predict(bench.module, test, device=DEVICE), test.labels)[0]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=40, help="of the arms with a frozen backbone")
    parser.add_argument("--tuned-epochs", type=int, default=15, help="of the arms marked +")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--full", action="store_true", help="cohorts of the paper's size")
    parser.add_argument("--centre", default="center1")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    training = TrainingConfig(views=arguments.views, schedule="plateau", plateau_rounds=5)
    table: dict[str, list[float]] = {arm: [] for arm in arguments.arms}
    patients: dict[str, int] = {}
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as work:
            began = time.perf_counter()
            dataset = prepare(Path(work), centre=arguments.centre, seed=seed, full=arguments.full)
            patients = {split: len(dataset.indices(split)) for split in ("train", "val", "test")}
            line = [f"PHANTOM seed {seed}, made in {time.perf_counter() - began:.0f} s:"]
            for arm in arguments.arms:
                began = time.perf_counter()
                epochs = arguments.tuned_epochs if arm.endswith("+") else arguments.epochs
                score = run(dataset, ARMS[arm], training=training, epochs=epochs, seed=seed)
                table[arm].append(round(score, 4))
                line.append(f"{arm} {score:.3f} ({time.perf_counter() - began:.0f} s)")
        print(" ".join(line), flush=True)
    for arm, scores in table.items():
        print(f"  {arm:13} mean {np.mean(scores):.3f}  sd {np.std(scores, ddof=min(1, len(scores) - 1)):.3f}")
    print(
        json.dumps(
            {
                "phantom": True,
                "centre": arguments.centre,
                "patients": patients,
                "seeds": arguments.seeds,
                "macro_auc": table,
                "mean_macro_auc": {arm: round(float(np.mean(scores)), 4) for arm, scores in table.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
