"""Patients of one split as batches: over cached features, or over images augmented on the device."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from stic_core.config import TrainingConfig
from stic_core.data.dataset import SiteDataset, Split
from stic_core.tasks import Task
from stic_core.tensors.array_types import ClinicalMatrix, LabelVector
from stic_core.training.augmentation import sample_transforms, to_images, warp
from stic_core.training.feature_cache import FeatureCache

Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""What the model takes first (features or images), the clinical columns, the class indices."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FeatureBatches:
    """Patients over cached features, ready for the head.

    Args:
        views: feature maps, view 0 plain; float16, (views, patients, p, channels, grid, grid).
        clinical: the 20 columns.
        labels: class indices.
        rows: each patient's place in the views; None where they are in their order.
    """

    views: tuple[np.ndarray, ...]
    clinical: ClinicalMatrix
    labels: LabelVector
    rows: LabelVector | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, positions: LabelVector) -> FeatureBatches:
        """Some of the patients; the features stay where they are."""
        rows = positions if self.rows is None else self.rows[positions]
        return FeatureBatches(self.views, self.clinical[positions], self.labels[positions], rows)

    def epoch(self, rng: np.random.Generator, *, batch_size: int, device: torch.device) -> Iterator[Batch]:
        """Every patient once in a random order, each in a view drawn anew."""
        order = rng.permutation(len(self))
        chosen = rng.integers(len(self.views), size=len(self))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield self.lot(rows, views=chosen[rows], device=device)

    def lot(self, patients: LabelVector, *, views: LabelVector, device: torch.device) -> Batch:
        """Some patients, each in one view.

        Args:
            patients: their positions; one at least.
            views: of each.
        """
        pairs = zip(views, self._place(patients), strict=True)
        return self._batch(np.stack([self.views[view][place] for view, place in pairs]), patients, device)

    def plain(self, *, batch_size: int, device: torch.device) -> Iterator[Batch]:
        """Every patient once in order, as it is."""
        for start in range(0, len(self), batch_size):
            rows = np.arange(start, min(start + batch_size, len(self)))
            yield self._batch(np.array(self.views[0][self._place(rows)]), rows, device)

    def _place(self, rows: LabelVector) -> LabelVector:
        return rows if self.rows is None else self.rows[rows]

    def _batch(self, features: np.ndarray, rows: np.ndarray, device: torch.device) -> Batch:
        return (
            torch.from_numpy(features).to(device).float(),
            torch.from_numpy(self.clinical[rows]).to(device),
            torch.from_numpy(self.labels[rows]).to(device),
        )


@dataclass(frozen=True, slots=True)
class ImageBatches:
    """Patients over their images, for a backbone that trains.

    Args:
        images: of the whole dataset, mapped from disk.
        rows: which of them are this split's.
        clinical: the 20 columns, of these rows.
        labels: class indices, of these rows.
        augmentation: ranges of rotation, shift and zoom.
    """

    images: UInt8[np.ndarray, "everyone h w 3"]
    rows: LabelVector
    clinical: ClinicalMatrix
    labels: LabelVector
    augmentation: TrainingConfig

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, positions: LabelVector) -> ImageBatches:
        """Some of the patients."""
        return replace(
            self,
            rows=self.rows[positions],
            clinical=self.clinical[positions],
            labels=self.labels[positions],
        )

    def epoch(self, rng: np.random.Generator, *, batch_size: int, device: torch.device) -> Iterator[Batch]:
        """Every patient once in a random order, each under a transform drawn anew."""
        order = rng.permutation(len(self))
        parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        # Drawn before the thread begins: its pace must not decide who gets which number.
        drawn = [sample_transforms(len(part), config=self.augmentation, rng=rng) for part in parts]
        read = prefetched((part, self.images[self.rows[part]]) for part in parts)
        for (part, pixels), theta in zip(read, drawn, strict=True):
            images, clinical, labels = self._batch(pixels, part, device)
            yield warp(images, theta), clinical, labels

    def plain(self, *, batch_size: int, device: torch.device) -> Iterator[Batch]:
        """Every patient once in order, as it is."""
        for start in range(0, len(self), batch_size):
            part = np.arange(start, min(start + batch_size, len(self)))
            yield self._batch(self.images[self.rows[part]], part, device)

    def _batch(self, pixels: np.ndarray, part: np.ndarray, device: torch.device) -> Batch:
        return (
            to_images(pixels, device),
            torch.from_numpy(self.clinical[part]).to(device),
            torch.from_numpy(self.labels[part]).to(device),
        )


AnyBatches: TypeAlias = FeatureBatches | ImageBatches


def batches_of(dataset: SiteDataset, cache: FeatureCache, *, split: Split, task: Task) -> FeatureBatches:
    """A task's patients of one split over cached features; augmented views for `train` only."""
    rows, labels = dataset.indices(split, task), dataset.label_indices(split, task)
    clinical = np.asarray(dataset.clinical[rows])
    if split != "train":
        return FeatureBatches((cache.plain[rows],), clinical, labels)
    # Views are of all training patients, whatever the task: another task uses the same cache.
    everyone = dataset.indices(split)
    places = None if len(rows) == len(everyone) else np.searchsorted(everyone, rows)
    return FeatureBatches((cache.plain[everyone], *cache.augmented), clinical, labels, places)


def image_batches_of(
    dataset: SiteDataset, *, split: Split, task: Task, augmentation: TrainingConfig
) -> ImageBatches:
    """A task's patients of one split over their images."""
    rows = dataset.indices(split, task)
    return ImageBatches(
        dataset.images,
        rows,
        np.asarray(dataset.clinical[rows]),
        dataset.label_indices(split, task),
        augmentation,
    )


@dataclass(frozen=True, slots=True)
class _End:
    """Behind the last item, or in the place of the one that could not be read."""

    error: BaseException | None = None


def prefetched(items: Iterable[_T], *, ahead: int = 2) -> Iterator[_T]:
    """The same items in the same order, read by a thread while the one before is worked on."""
    waiting: queue.Queue[_T | _End] = queue.Queue(ahead)
    left = threading.Event()
    thread = threading.Thread(target=_read, args=(items, waiting, left), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = waiting.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        left.set()
        thread.join()


def _read(items: Iterable[_T], waiting: queue.Queue[_T | _End], left: threading.Event) -> None:
    """The thread: until the items end, or nobody wants more."""
    try:
        for item in items:
            if not _put(item, waiting, left):
                return
        _put(_End(), waiting, left)
    except BaseException as error:  # noqa: BLE001  it is raised again, where the items are used
        _put(_End(error), waiting, left)


def _put(item: _T | _End, waiting: queue.Queue[_T | _End], left: threading.Event) -> bool:
    while not left.is_set():
        try:
            waiting.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
