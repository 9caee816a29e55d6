"""Backbone features computed once and kept on disk: what makes an epoch cost milliseconds.

A frozen backbone gives the same features in every epoch. They are computed for the plain
image of every patient, and for K augmented views of every training patient, and lie as
float16 in memory maps under a key of all that determines them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stic_core.backbones import GRID, Backbone, backbone_digest
from stic_core.config import TrainingConfig
from stic_core.dataset import SiteDataset
from stic_core.errors import DataError
from stic_core.model import extract
from stic_core.tensor_types import Images
from stic_core.types import AugmentedFeatures, PlainFeatures

FORMAT = 1
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


def to_images(batch: np.ndarray, device: torch.device) -> Images:
    """Prepared images (n, h, w, 3; 0 to 255) as the model takes them (n, 3, h, w; 0 to 1)."""
    # A copy: the dataset is mapped read-only, which torch does not take.
    return torch.from_numpy(np.array(batch)).to(device).permute(0, 3, 1, 2).float() / 255


def sample_transforms(count: int, *, config: TrainingConfig, rng: np.random.Generator) -> Tensor:
    """Random rotation, shift and zoom, as (count, 2, 3) matrices for `torch.affine_grid`."""
    angle = np.deg2rad(rng.uniform(-config.rotation_degrees, config.rotation_degrees, count))
    zoom = rng.uniform(1 - config.zoom, 1 + config.zoom, count)
    shift = 2 * rng.uniform(-config.shift, config.shift, (count, 2))  # the grid spans -1 to 1
    theta = np.empty((count, 2, 3))
    theta[:, 0, 0], theta[:, 0, 1] = zoom * np.cos(angle), -zoom * np.sin(angle)
    theta[:, 1, 0], theta[:, 1, 1] = zoom * np.sin(angle), zoom * np.cos(angle)
    theta[:, :, 2] = shift
    return torch.from_numpy(theta).float()


def warp(images: Images, theta: Tensor) -> Images:
    """The same transform for all three phases of a patient; what comes in from outside repeats the edge."""
    grid = functional.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def cache_bytes(*, patients: int, train: int, channels: int, views: int) -> int:
    """Size on disk of a cache."""
    return (patients + views * train) * 3 * channels * GRID * GRID * 2


def load_or_build(
    dataset: SiteDataset,
    backbone: Backbone,
    *,
    config: TrainingConfig,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
) -> FeatureCache:
    """The features of a dataset, from disk where they are there already.

    Args:
        dataset: prepared; the cache lies in its folder under `features/`.
        config: views and the augmentation's ranges.
        seed: of the augmentation.
        progress: told the slices' sets that are done.

    Raises:
        DataError: not enough room on the disk.
    """
    train = dataset.indices("train")
    key = _key(dataset, backbone, config=config, seed=seed)
    folder = dataset.folder / "features" / key
    shapes = {
        "plain": (len(dataset.images), 3, backbone.channels, GRID, GRID),
        "augmented": (config.views, len(train), 3, backbone.channels, GRID, GRID),
    }
    if not (folder / "complete").exists():
        _make_room(
            folder,
            cache_bytes(
                patients=len(dataset.images), train=len(train), channels=backbone.channels, views=config.views
            ),
        )
        _build(folder, shapes, dataset, backbone, config=config, seed=seed, device=device, progress=progress)
        (folder / "complete").touch()
    return FeatureCache(**{name: _open(folder / f"{name}.f16", shape, "r") for name, shape in shapes.items()})


def _key(dataset: SiteDataset, backbone: Backbone, *, config: TrainingConfig, seed: int) -> str:
    ranges = config.model_dump(include={"views", "rotation_degrees", "shift", "zoom"})
    text = json.dumps([FORMAT, dataset.fingerprint, backbone_digest(backbone), ranges, seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _make_room(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05:
        raise DataError(
            "not enough room for the cached features",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{needed / 1e9:.1f} GB",
            advice="Free some, or lower training.views in the federation.",
        )


def _open(path: Path, shape: tuple[int, ...], mode: Literal["r", "r+", "w+"]) -> np.ndarray:
    if 0 in shape:  # a memory map cannot be empty
        return np.empty(shape, dtype=np.float16)
    return np.memmap(path, dtype=np.float16, mode=mode, shape=shape)


def _build(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    dataset: SiteDataset,
    backbone: Backbone,
    *,
    config: TrainingConfig,
    seed: int,
    device: torch.device,
    progress: Progress | None,
) -> None:
    """Write the maps; a restart goes on behind the last batch that is known to be on disk."""
    train = dataset.indices("train")
    arrays = {
        name: _open(folder / f"{name}.f16", shape, "r+" if (folder / f"{name}.f16").exists() else "w+")
        for name, shape in shapes.items()
    }
    jobs = [(None, start) for start in range(0, len(dataset.images), _BATCH)]
    jobs += [(view, start) for view in range(config.views) for start in range(0, len(train), _BATCH)]
    mark = folder / "done"
    done = int(mark.read_text()) if mark.exists() else 0
    backbone = backbone.to(device)
    with torch.inference_mode():
        for number, (view, start) in enumerate(jobs):
            if number < done:
                continue
            if view is None:
                part = slice(start, start + _BATCH)
                images = to_images(dataset.images[part], device)
                arrays["plain"][part] = extract(backbone, images).cpu().numpy()
            else:
                chosen = train[start : start + _BATCH]
                rng = np.random.default_rng([seed, view, start])
                theta = sample_transforms(len(chosen), config=config, rng=rng)
                images = warp(to_images(dataset.images[chosen], device), theta)
                arrays["augmented"][view, start : start + len(chosen)] = (
                    extract(backbone, images).cpu().numpy()
                )
            for array in arrays.values():
                if isinstance(array, np.memmap):
                    array.flush()
            mark.write_text(str(number + 1))
            if progress:
                progress(number + 1, len(jobs))
