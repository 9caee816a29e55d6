"""`crossval`: k-fold cross-validation in one site, as the paper's benign/malignant study; nothing is sent.

Features are computed once and serve every fold. The held-out patients of the site's own
split stay closed unless they are asked for: a federation opens them once a model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from stic_core.config import ModelConfig, SiteConfig, TrainingConfig
from stic_core.data.dataset import SiteDataset, load_dataset
from stic_core.errors import DataError
from stic_core.evaluation import auc_titles
from stic_core.evaluation.crossvalidation import Fold, FoldResult, judge, stratified_folds, summarise
from stic_core.models.devices import pick_device
from stic_core.models.parameters import get_flat, set_flat
from stic_core.models.stic import initial_module
from stic_core.statistics import log_loss_sum
from stic_core.system.files import write_atomically
from stic_core.tasks import Task
from stic_core.training.setup import ComputeConfig, TrainingSetup, assemble
from stic_core.training.trainer import Trainer, fit, predict

RESULT_FILE = "crossval.json"

# Keras' callbacks as the authors set them: divide the rate on a plateau, stop when it stays.
PAPER = TrainingConfig(schedule="plateau", plateau_rounds=5, early_stopping=15)


@dataclass(frozen=True, slots=True)
class CrossValidationConfig:
    """What is cross-validated.

    Args:
        folds: how many.
        epochs: at most.
        with_test: also use the site's held-out patients.
        seed: of folds, weights and shuffling.
    """

    task: Task
    model: ModelConfig
    training: TrainingConfig = PAPER
    folds: int = 5
    epochs: int = 50
    with_test: bool = False
    seed: int = 0


def crossval(
    config: SiteConfig,
    study: CrossValidationConfig,
    *,
    out: Path,
    progress: Callable[[str, int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Cross-validate, and write `crossval.json`.

    Args:
        out: its folder.
        progress: told what is done, how far, of how much.
        note: told what is worth a line.

    Returns:
        What the file holds.

    Raises:
        DataError: fewer patients of a class than folds, or labels that the task lacks.
    """
    tell = progress or _silent
    dataset = _all_train(load_dataset(config.dataset.prepared), with_test=study.with_test)
    torch.use_deterministic_algorithms(True)
    setup = assemble(
        dataset,
        model=study.model,
        training=study.training,
        task=study.task,
        seed=study.seed,
        compute=ComputeConfig(
            pick_device(config.device),
            precision=config.precision,
            weights=config.backbone_weights.get(study.model.backbone),
            cache_limit_bytes=int(config.cache_limit_gb * 1e9),
            progress=lambda done, total: tell("backbone features", done, total),
            announce=lambda size: (
                note(f"backbone features take {size / 1e6:.0f} MB on disk, computed once") if note else None
            ),
        ),
    )
    labels = setup.batches["train"].labels
    counts = np.bincount(labels, minlength=len(study.task.classes))
    if counts.min() < study.folds:
        few = study.task.classes[int(counts.argmin())]
        raise DataError(
            "too few patients for this many folds",
            got=f"{counts.min()} of {few}",
            expected=f"at least {study.folds} of each class",
            advice="Use fewer folds, or another task.",
        )
    folds = stratified_folds(labels, folds=study.folds, seed=study.seed, val_share=0.2)
    results = []
    for number, fold in enumerate(folds):
        fresh = initial_module(
            study.model,
            classes=len(study.task.classes),
            seed=study.seed * 1000 + number,
            weights=config.backbone_weights.get(study.model.backbone),
        )
        set_flat(setup.module, get_flat(fresh))
        results.append(_run(setup, fold, study=study, number=number, tell=tell))
    document: dict[str, Any] = {
        "schema": 1,
        "task": study.task.name,
        "classes": study.task.classes,
        "patients": dict(zip(study.task.classes, counts.tolist(), strict=True)),
        "phantom": dataset.phantom,
        "model": study.model.model_dump(mode="json"),
        "training": study.training.model_dump(mode="json"),
        "epochs": study.epochs,
        "seed": study.seed,
        "with_test": study.with_test,
        **summarise(results, classes=study.task.classes),
    }
    write_atomically(out / RESULT_FILE, json.dumps(document, indent=1) + "\n")
    return document


def described(document: dict[str, Any]) -> list[str]:
    """ComputeConfig over the folds, line by line for people."""
    lines = []
    if document["phantom"]:
        lines.append("PHANTOM DATA: synthetic patients; says nothing about real patients")
    counts = ", ".join(f"{name} {count}" for name, count in document["patients"].items())
    lines.append(f"{document['folds']} folds, patients: {counts}")
    rows = {"accuracy": document["accuracy"]}
    rows |= {title: document["auc"][name] for name, title in auc_titles(document["classes"]).items()}
    if len(document["classes"]) > 2:
        rows["AUC macro"] = document["auc_macro"]
    for name, value in rows.items():
        if value["mean"] is not None:
            lines.append(
                f"{name:16} {value['mean']:.3f}  (standard deviation over the folds {value['sd']:.3f})"
            )
    return lines


def _silent(what: str, done: int, total: int) -> None:
    """Shows nothing."""


def _all_train(dataset: SiteDataset, *, with_test: bool) -> SiteDataset:
    """The same patients with every one who takes part in `train`: each is trained on in some fold."""
    splits = tuple("train" if split != "test" or with_test else "test" for split in dataset.splits)
    changed = hashlib.sha256(json.dumps([dataset.fingerprint, Counter(splits), splits]).encode())
    return replace(dataset, splits=splits, fingerprint=changed.hexdigest())


def _run(
    setup: TrainingSetup,
    fold: Fold,
    *,
    study: CrossValidationConfig,
    number: int,
    tell: Callable[[str, int, int], None],
) -> FoldResult:
    """Train on a fold from the setup's fresh weights, and judge the best epoch on who was held out."""
    everyone = setup.batches["train"]
    train, val, test = (everyone.subset(rows) for rows in (fold.train, fold.val, fold.test))
    trainer = Trainer(
        setup.module, train, config=study.training, seed=[study.seed, number], device=setup.device
    )

    def validate() -> float | None:
        return log_loss_sum(predict(setup.module, val, device=setup.device), labels=val.labels) / len(val)

    outcome = fit(
        trainer,
        rounds=study.epochs,
        validate=validate,
        on_epoch=lambda done, total: tell(f"fold {number + 1} of {study.folds}", done, total),
    )
    set_flat(setup.module, outcome.best)
    logits = predict(setup.module, test, device=setup.device)
    return judge(softmax(logits, axis=1), test.labels)
