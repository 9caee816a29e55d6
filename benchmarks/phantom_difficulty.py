"""How hard the phantom is: macro AUC of heads trained on all data, on one centre, without the clinic.

    python benchmarks/phantom_difficulty.py --seeds 0 1 2

One process and no federation: slices are rendered, aligned by the true transform, cropped
around the lesion and put through the demo's backbone; then only heads are trained. The last
line is JSON. A phantom result is a phantom result: it says how the demo behaves, and nothing
of patients.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stic_core.config import TrainingConfig
from stic_core.data.dataset import SiteDataset
from stic_core.models.pretrained import Backbone, load_backbone
from stic_core.models.stic import STICHead, build_head
from stic_core.phantom import DEMO_COUNTS, FULL_COUNTS
from stic_core.phantom.prepared import write_prepared
from stic_core.statistics.auc import Auc
from stic_core.statistics.calibration import log_loss_sum
from stic_core.statistics.multiclass import one_vs_rest
from stic_core.tasks import TASKS
from stic_core.training.batches import FeatureBatches, batches_of
from stic_core.training.feature_cache import load_or_build
from stic_core.training.schedules import should_stop
from stic_core.training.trainer import Trainer, predict

TASK = TASKS["malignant"]
CROP_MM = 160.0
DEVICE = torch.device("cpu")


def prepare(folder: Path, *, centre: str, seed: int, full: bool) -> SiteDataset:
    """A centre's prepared dataset without the way over DICOM."""
    counts = (FULL_COUNTS if full else DEMO_COUNTS)[centre]
    return write_prepared(folder, centre=centre, seed=seed, counts=counts, crop_mm=CROP_MM)


def join(parts: Sequence[FeatureBatches]) -> FeatureBatches:
    """The patients of several centres as if of one."""
    return FeatureBatches(
        tuple(np.concatenate(views) for views in zip(*(part.views for part in parts), strict=True)),
        np.concatenate([part.clinical for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def macro_auc(logits: np.ndarray, labels: np.ndarray) -> tuple[float, list[float]]:
    """Mean over the classes of the AUC against the others, of softmax probabilities."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    found = one_vs_rest(shifted / shifted.sum(1, keepdims=True), labels=labels)
    classes = [auc.value if isinstance(auc, Auc) else float("nan") for auc in found]
    return float(np.mean(classes)), classes


def fit(
    train: Sequence[FeatureBatches], val: FeatureBatches, *, config: TrainingConfig, rounds: int, seed: int
) -> STICHead:
    """FedAvg over `train`'s parts, which is plain training where there is one; the best round by `val`."""
    channels = train[0].views[0].shape[2]
    shared = build_head(channels=channels, classes=len(TASK.classes), seed=seed)
    sizes = [len(part) for part in train]
    kept = None
    trainer = None
    best, best_loss = {k: v.clone() for k, v in shared.state_dict().items()}, np.inf
    losses: list[float] = []
    for number in range(rounds):
        if should_stop(config, losses):
            break
        if len(train) == 1:
            kept = kept or Trainer(shared, train[0], config=config, seed=[seed], device=DEVICE)
            kept.run(config.local_epochs)
        else:
            states = []
            for part, examples in enumerate(train):
                head = build_head(channels=channels, classes=len(TASK.classes), seed=seed)
                head.load_state_dict(shared.state_dict())
                trainer = Trainer(head, examples, config=config, seed=[seed, number, part], device=DEVICE)
                trainer.run(config.local_epochs)
                states.append(head.state_dict())
            shared.load_state_dict(
                {
                    key: sum(
                        state[key] * (size / sum(sizes)) for state, size in zip(states, sizes, strict=True)
                    )
                    for key in states[0]
                }
            )
        loss = log_loss_sum(predict(shared, val, device=DEVICE), labels=val.labels)
        losses.append(loss)
        if loss < best_loss:
            best, best_loss = {k: v.clone() for k, v in shared.state_dict().items()}, loss
    shared.load_state_dict(best)
    return shared


def as_it_is(examples: FeatureBatches) -> FeatureBatches:
    """Images and clinical columns."""
    return examples


def without_clinic(examples: FeatureBatches) -> FeatureBatches:
    """Images alone."""
    return replace(examples, clinical=np.zeros_like(examples.clinical))


def without_images(examples: FeatureBatches) -> FeatureBatches:
    """Clinical columns alone."""
    return replace(examples, views=tuple(np.zeros_like(view) for view in examples.views))


def measure(
    work: Path, *, seed: int, backbone: Backbone, full: bool, config: TrainingConfig, heads: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Macro AUC over both test sets together, by what a head was trained on."""
    sites = []
    for centre in ("center1", "center2"):
        dataset = prepare(work / f"{centre}-{seed}", centre=centre, seed=seed, full=full)
        cache = load_or_build(dataset, backbone, config=config, seed=seed, device=DEVICE)
        sites.append(
            [batches_of(dataset, cache, split=split, task=TASK) for split in ("train", "val", "test")]
        )
    train, val, test = ([site[step] for site in sites] for step in range(3))
    tests = join(test)
    variants = {
        "all_data": ([join(train)], join(val), as_it_is),
        "federated": (train, join(val), as_it_is),
        "center1_alone": ([train[0]], val[0], as_it_is),
        "center2_alone": ([train[1]], val[1], as_it_is),
        "without_clinic": ([join(train)], join(val), without_clinic),
        "clinic_alone": ([join(train)], join(val), without_images),
    }
    out = {}
    for name, (parts, watch, change) in variants.items():
        scores, classes, own = [], [], []
        for number in range(heads):
            head = fit(
                [change(p) for p in parts],
                change(watch),
                config=config,
                rounds=rounds,
                seed=1000 * seed + number,
            )
            score, each = macro_auc(predict(head, change(tests), device=DEVICE), tests.labels)
            scores.append(score)
            classes.append(each)
            own.append(
                [macro_auc(predict(head, change(part), device=DEVICE), part.labels)[0] for part in test]
            )
        out[name] = {
            "macro_auc": round(float(np.mean(scores)), 4),
            "by_class": dict(zip(TASK.classes, np.mean(classes, axis=0).round(3).tolist(), strict=True)),
            "by_test_set": np.mean(own, axis=0).round(3).tolist(),
        }
    return out


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--heads", type=int, default=2, help="heads a variant, averaged")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--local-epochs", type=int, default=2)
    parser.add_argument("--early-stopping", type=int, help="rounds without a better loss; default: never")
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--full", action="store_true", help="cohorts of the paper's size")
    parser.add_argument(
        "--weights", type=Path, help="weights of the tiny backbone, other than the installed ones"
    )
    parser.add_argument(
        "--work", type=Path, help="folder for datasets and features; a temporary one by default"
    )
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    backbone = load_backbone("tiny", weights=arguments.weights)
    config = TrainingConfig(
        views=arguments.views,
        local_epochs=arguments.local_epochs,
        early_stopping=arguments.early_stopping,
    )
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in arguments.seeds:
            start = time.perf_counter()
            results[seed] = measure(
                arguments.work or Path(scratch),
                seed=seed,
                backbone=backbone,
                full=arguments.full,
                config=config,
                heads=arguments.heads,
                rounds=arguments.rounds,
            )
            print(f"PHANTOM seed {seed}, {time.perf_counter() - start:.0f} s")
            for name, row in results[seed].items():
                print(
                    f"  {name:15} {row['macro_auc']:.3f}  {row['by_class']}  test sets {row['by_test_set']}",
                    flush=True,
                )
    mean = {
        name: round(float(np.mean([result[name]["macro_auc"] for result in results.values()])), 4)
        for name in results[arguments.seeds[0]]
    }
    print(json.dumps({"phantom": True, "full": arguments.full, "mean_macro_auc": mean, "seeds": results}))


if __name__ == "__main__":
    main()
