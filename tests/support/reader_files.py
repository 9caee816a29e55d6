"""A site with held-out patients, a model's scores of them, and readers whose answers are drawn."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stic_core.config import ImageConfig, ModelConfig, SiteConfig
from stic_core.data.dataset import SiteDataset, load_dataset
from stic_core.models.parameters import get_flat, trainable_specs
from stic_core.models.saved import write_model
from stic_core.models.stic import network_of
from stic_core.tasks import TASKS
from support.federation_kit import site_config, write_site_dataset

TASK = TASKS["malignant"]
SKILL = {
    "Dr Wang": {"alone": 0.66, "aided": 0.84},
    "Dr Li": {"alone": 0.72, "aided": 0.86},
    "Dr Xu": {"alone": 0.60, "aided": 0.76},
    "consensus": {"alone": 0.74, "aided": 0.88},
}


def reader_site(folder: Path, *, site: str = "center1", test: int = 58) -> SiteConfig:
    """A site with so many held-out patients, and a model in `folder/model`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_site_dataset(folder / "prepared", seed=3, counts={"train": 6, "val": 6, "test": test})
    config = site_config(folder, site=site)
    model = ModelConfig(backbone="tiny")
    head = network_of(model, classes=3, seed=5, weights=config.backbone_weights["tiny"]).head
    write_model(
        folder / "model",
        get_flat(head),
        tensors=trainable_specs(head),
        task=TASK,
        model=model,
        image=ImageConfig(),
        phantom=True,
        run_id="20250607-101500-liver",
    )
    return config


def held_out_truth(dataset: SiteDataset) -> dict[str, str]:
    """Class by held-out subject."""
    return {dataset.subjects[row]: dataset.labels[row] for row in dataset.indices("test")}


def write_readings(path: Path, truth: Mapping[str, str], *, classes: Sequence[str], seed: int = 0) -> Path:
    """The readers' diagnoses; a patient who is hard for one reader is hard for all."""
    rng = np.random.default_rng(seed)
    hard = rng.random(len(truth))
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(("subject", "reader", "condition", "diagnosis"))
        for reader, by in SKILL.items():
            for condition, skill in by.items():
                luck = 0.6 * hard + 0.4 * rng.random(len(truth))
                for (subject, name), draw in zip(truth.items(), luck, strict=True):
                    others = [other for other in classes if other != name]
                    right = draw < skill * 0.98
                    writer.writerow(
                        (subject, reader, condition, name if right else others[int(rng.integers(2))])
                    )
    return path


def write_scores(path: Path, truth: Mapping[str, str], *, classes: Sequence[str], seed: int = 1) -> Path:
    """A table as `predict` writes it, of a good model, with a patient more than the held-out ones."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(("subject_id", *(f"score_{name}" for name in classes), "highest"))
        for subject, name in {**truth, "somebody-else": classes[0]}.items():
            logits = rng.normal(size=len(classes)) * 1.3
            logits[list(classes).index(name)] += 2.6
            p = np.exp(logits) / np.exp(logits).sum()
            writer.writerow((subject, *(f"{x:.6f}" for x in p), classes[int(p.argmax())]))
    return path


def dataset_of(config: SiteConfig) -> SiteDataset:
    """The site's prepared dataset."""
    return load_dataset(config.dataset.prepared)
