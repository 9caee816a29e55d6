"""Backbone features computed once and kept on disk: what makes an epoch cost milliseconds.

A frozen backbone gives the same features in every epoch. They are computed for the plain
image of every patient, and for K augmented views of every training patient, and lie as
float16 in memory maps under a key of all that determines them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stic_core.config import TrainingConfig
from stic_core.data.dataset import SiteDataset
from stic_core.errors import DataError, NoRoomError
from stic_core.models.devices import computing_in
from stic_core.models.pretrained import FEATURE_GRID, Backbone, backbone_digest
from stic_core.models.stic import extract
from stic_core.system.files import write_atomically
from stic_core.system.room import allocate, free_in, is_full, readable
from stic_core.tensors.array_types import AugmentedFeatures, PlainFeatures
from stic_core.training.augmentation import sample_transforms, to_images, warp

__all__ = [
    "FeatureCache",
    "Recipe",
    "cache_bytes",
    "load_or_build",
    "sample_transforms",
    "to_images",
    "warp",
]

FORMAT = 2
_BATCH = 16  # patients; 48 slices of 224 x 224 keep VGG16 below 1 GB

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


@dataclass(frozen=True, slots=True)
class FeatureCache:
    """A site's features.

    Args:
        plain: of every patient of the dataset, in its order.
        augmented: K views of the training patients, in the order of `dataset.indices("train")`.
    """

    plain: PlainFeatures
    augmented: AugmentedFeatures


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the features are computed, beside the backbone and the augmentation.

    Args:
        colour: one map of the phases as red, green and blue instead of one a phase.
        dtype: the backbone's arithmetic.
        normalise: see `ModelConfig`; for the key, the backbone does it.
        limit_bytes: most that a cache may take; None is as much as the disk has.
    """

    colour: bool = False
    dtype: torch.dtype = torch.float32
    normalise: str = "none"
    limit_bytes: int | None = None


def cache_bytes(
    *, patients: int, train: int, channels: int, views: int, grid: int = FEATURE_GRID, images: int = 3
) -> int:
    """Size on disk of a cache.

    Args:
        grid: rows and columns of a feature map.
        images: feature maps a patient.
    """
    return (patients + views * train) * images * channels * grid * grid * 2


def load_or_build(
    dataset: SiteDataset,
    backbone: Backbone,
    *,
    config: TrainingConfig,
    seed: int,
    device: torch.device,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
    announce: Callable[[int], None] | None = None,
) -> FeatureCache:
    """The features of a dataset, from disk where they are there already.

    Args:
        dataset: prepared; the cache lies in its folder under `features/`.
        backbone: frozen.
        config: views and the augmentation's ranges.
        seed: of the augmentation.
        progress: told the slices' sets that are done.
        announce: told how many bytes will be written, before the first of them.

    Raises:
        DataError: more than the limit.
        NoRoomError: not enough room on the disk.
    """
    recipe = recipe or Recipe()
    train = dataset.indices("train")
    folder = dataset.folder / "features" / _key(dataset, backbone, config=config, seed=seed, recipe=recipe)
    images = 1 if recipe.colour else 3
    feature = (images, backbone.channels, backbone.grid, backbone.grid)
    shapes = {
        "plain": (len(dataset.images), *feature),
        "augmented": (config.views, len(train), *feature),
    }
    if not (folder / "complete").exists():
        needed = cache_bytes(
            patients=len(dataset.images),
            train=len(train),
            channels=backbone.channels,
            views=config.views,
            grid=backbone.grid,
            images=images,
        )
        _make_room(folder, needed, shapes, limit=recipe.limit_bytes)
        if announce:
            announce(needed)
        _build(
            folder,
            dataset,
            backbone,
            config=config,
            seed=seed,
            device=device,
            recipe=recipe,
            progress=progress,
        )
        (folder / "complete").touch()
    return FeatureCache(**{name: _open(folder / f"{name}.f16", shape) for name, shape in shapes.items()})


def _key(
    dataset: SiteDataset, backbone: Backbone, *, config: TrainingConfig, seed: int, recipe: Recipe
) -> str:
    ranges = config.model_dump(include={"views", "rotation_degrees", "shift", "zoom"})
    how = [recipe.colour, str(recipe.dtype), recipe.normalise]
    text = json.dumps(
        [FORMAT, dataset.fingerprint, backbone_digest(backbone), ranges, seed, how], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _make_room(
    folder: Path, needed: int, shapes: Mapping[str, tuple[int, ...]], *, limit: int | None
) -> None:
    """Have the files on the disk at their full size; those of a build that was interrupted count."""
    if limit is not None and needed > limit:
        raise DataError(
            "the cached features would take more space than this site allows",
            got=f"{needed / 1e9:.2f} GB",
            expected=f"at most {limit / 1e9:g} GB (cache_limit_gb)",
            advice="Raise cache_limit_gb in site.yaml, or lower training.views in federation.yaml.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {
        folder / f"{name}.f16": math.prod(shape) * np.dtype(np.float16).itemsize
        for name, shape in shapes.items()
        if 0 not in shape
    }
    if any(not path.exists() or path.stat().st_size < size for path, size in sizes.items()):
        (folder / "done").unlink(missing_ok=True)  # a file was lost: what it held would be zeros
    there = sum(path.stat().st_blocks * 512 for path in folder.glob("*.f16"))
    try:
        if shutil.disk_usage(folder).free < (needed - there) * 1.05:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for path, size in sizes.items():
            allocate(path, size)
    except OSError as error:
        if not is_full(error):
            raise
        if not (folder / "done").exists():
            shutil.rmtree(folder)  # else what was found would be missing elsewhere
        raise NoRoomError(
            "not enough disk space for the cached features",
            got=free_in(folder.parent),
            expected=readable(needed - (there if folder.exists() else 0)),
            advice="Free some space, or lower training.views in federation.yaml.",
        ) from None


def _open(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if 0 in shape:  # a memory map cannot be empty
        return np.empty(shape, dtype=np.float16)
    return np.memmap(path, dtype=np.float16, mode="r", shape=shape)


def _write(path: Path, features: np.ndarray, *, row: int) -> None:
    """Write rows of an array's first axis, to the disk.

    As any file is written: through a memory map a full disk would end the process by a signal, on file
    systems that take new room for old blocks (btrfs, ZFS) even where room was taken before.

    Raises:
        OSError: the disk is full, for example.
    """
    with path.open("r+b") as file:
        file.seek(row * math.prod(features.shape[1:]) * features.itemsize)
        file.write(np.ascontiguousarray(features).data)
        file.flush()
        os.fsync(file.fileno())


def _build(
    folder: Path,
    dataset: SiteDataset,
    backbone: Backbone,
    *,
    config: TrainingConfig,
    seed: int,
    device: torch.device,
    recipe: Recipe,
    progress: Progress | None,
) -> None:
    """Write the maps; a restart goes on behind the last batch that is known to be on disk."""
    train = dataset.indices("train")
    jobs = [(None, start) for start in range(0, len(dataset.images), _BATCH)]
    jobs += [(view, start) for view in range(config.views) for start in range(0, len(train), _BATCH)]
    mark = folder / "done"
    done = int(mark.read_text()) if mark.exists() else 0
    backbone = backbone.to(device)

    def features_of(images: torch.Tensor) -> np.ndarray:
        return extract(backbone, images, colour=recipe.colour).to("cpu", torch.float16).numpy()

    with torch.inference_mode(), computing_in(recipe.dtype, device):
        for number, (view, start) in enumerate(jobs):
            if number < done:
                continue
            if view is None:
                images = to_images(dataset.images[start : start + _BATCH], device)
                _write(folder / "plain.f16", features_of(images), row=start)
            else:
                chosen = train[start : start + _BATCH]
                rng = np.random.default_rng([seed, view, start])
                theta = sample_transforms(len(chosen), config=config, rng=rng)
                images = warp(to_images(dataset.images[chosen], device), theta)
                _write(folder / "augmented.f16", features_of(images), row=view * len(train) + start)
            write_atomically(mark, str(number + 1))
            if progress:
                progress(number + 1, len(jobs))
