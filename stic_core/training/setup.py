"""A site's patients and a plan's model put together: cached features where the backbone is frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from stic_core.config import ModelConfig, TrainingConfig
from stic_core.data.dataset import SPLITS, SiteDataset, Split
from stic_core.errors import DataError, WeightsError
from stic_core.models.devices import Precision, pick_precision
from stic_core.models.parameters import set_flat, trainable_specs
from stic_core.models.pretrained import backbone_digest
from stic_core.models.saved import SavedModel
from stic_core.models.stic import Network, network_of
from stic_core.tasks import Task
from stic_core.tensors.flat import FlatArray
from stic_core.training.batch_norm import estimate_statistics
from stic_core.training.batches import AnyBatches, batches_of, image_batches_of
from stic_core.training.feature_cache import Progress, Recipe, load_or_build


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """What a site computes with.

    Args:
        device: where.
        precision: of the backbone.
        weights: the backbone's file; None where it usually lies.
        cache_limit_bytes: most that cached features may take; None is what the disk has.
        progress: told how far the features are.
        announce: told how many bytes of features will be written, before they are.
    """

    device: torch.device
    precision: Precision = "auto"
    weights: Path | None = None
    cache_limit_bytes: int | None = None
    progress: Progress | None = None
    announce: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """A model with the patients that it is trained and judged on.

    Args:
        network: the whole model.
        module: what trains and travels: the head, or the network.
        batches: by split, as the module takes them.
        backbone_digest: of what is frozen.
    """

    network: Network
    module: nn.Module
    batches: Mapping[Split, AnyBatches]
    backbone_digest: str
    device: torch.device

    def load_weights(self, weights: FlatArray) -> None:
        """Take weights that arrived; where batch-norm statistics are the site's own, estimate them."""
        set_flat(self.module, weights)
        if self.network.backbone.trains and self.network.backbone.batch_norm == "local":
            estimate_statistics(self.network, self.batches["train"], device=self.device)


def make_network(config: ModelConfig, *, classes: int, seed: int, compute: ComputeConfig) -> Network:
    """A model on its device, computing as precisely as asked.

    Raises:
        WeightsError: a pretrained backbone whose file is missing or wrong.
    """
    network = network_of(config, classes=classes, seed=seed, weights=compute.weights)
    network.dtype = pick_precision(compute.precision, compute.device, backbone=config.backbone)
    return network.to(compute.device)


def assemble(
    dataset: SiteDataset,
    *,
    model: ModelConfig,
    training: TrainingConfig,
    task: Task,
    seed: int,
    compute: ComputeConfig,
) -> TrainingSetup:
    """Build the model, and the features where they are not cached yet.

    Args:
        dataset: prepared; patients of other classes than the task's are left out.
        seed: of the fresh weights and of the cached views.

    Raises:
        WeightsError: a pretrained backbone whose file is missing or wrong.
        DataError: more features than the limit.
        NoRoomError: too little room on the disk for the features.
    """
    network = make_network(model, classes=len(task.classes), seed=seed, compute=compute)
    if network.backbone.trains:
        examples: dict[Split, AnyBatches] = {
            split: image_batches_of(dataset, split=split, task=task, augmentation=training)
            for split in SPLITS
        }
    else:
        recipe = Recipe(
            colour=network.images == 1,
            dtype=network.dtype,
            normalise=model.normalise,
            limit_bytes=compute.cache_limit_bytes,
        )
        cache = load_or_build(
            dataset,
            network.backbone,
            config=training,
            seed=seed,
            device=compute.device,
            recipe=recipe,
            progress=compute.progress,
            announce=compute.announce,
        )
        examples = {split: batches_of(dataset, cache, split=split, task=task) for split in SPLITS}
    return TrainingSetup(
        network, network.trained, examples, backbone_digest(network.backbone), compute.device
    )


def restore(saved: SavedModel, *, compute: ComputeConfig) -> Network:
    """A saved model whole again, with the frozen part from this machine, in evaluation mode.

    Raises:
        WeightsError: the backbone's file is missing, or not the one that the model was trained on.
        DataError: batch-norm statistics stayed at the sites.
    """
    description = saved.description
    if description.architecture.batch_norm == "local" and description.architecture.trainable_blocks != 0:
        raise DataError(
            "the model has no batch-norm statistics of its own",
            got="batch_norm: local",
            expected="average or frozen, for a model that is used outside its federation",
        )
    network = make_network(
        description.architecture, classes=len(description.classes), seed=0, compute=compute
    )
    found = backbone_digest(network.backbone)
    if description.backbone_digest is not None and found != description.backbone_digest:
        raise WeightsError(
            f"the weights of backbone {description.architecture.backbone} on this machine differ from the model's",
            got=found[:12],
            expected=description.backbone_digest[:12],
            advice="Under backbone_weights, give the file that the federation used.",
        )
    if trainable_specs(network.trained) != description.tensors:
        raise DataError("the model's tensors do not match its architecture in this version")
    set_flat(network.trained, saved.weights)
    return network.eval()
