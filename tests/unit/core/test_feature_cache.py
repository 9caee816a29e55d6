"""Cached features and training over them."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stic_core.config import TrainingConfig
from stic_core.data.dataset import SiteDataset, load_dataset
from stic_core.errors import NoRoomError
from stic_core.models.parameters import get_flat
from stic_core.models.pretrained import load_backbone
from stic_core.models.stic import build_head, extract
from stic_core.tasks import TASKS
from stic_core.training import feature_cache
from stic_core.training.batches import FeatureBatches, batches_of
from stic_core.training.feature_cache import FeatureCache, load_or_build, sample_transforms, to_images, warp
from stic_core.training.objectives import class_weights
from stic_core.training.trainer import Trainer, predict
from support.federation_kit import write_site_dataset, write_tiny_weights
from support.small_disk import SmallDisk

CPU = torch.device("cpu")
TASK = TASKS["malignant"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SiteDataset:
    """A prepared site of random patients."""
    folder = tmp_path_factory.mktemp("site")
    write_site_dataset(folder / "prepared", seed=0, counts={"train": 9, "val": 3, "test": 3})
    write_tiny_weights(folder / "tiny.safetensors")
    return load_dataset(folder / "prepared")


def _cache(dataset: SiteDataset, *, views: int = 2, **kwargs: object) -> FeatureCache:
    backbone = load_backbone("tiny", weights=dataset.folder.parent / "tiny.safetensors")
    return load_or_build(dataset, backbone, config=TrainingConfig(views=views), seed=3, device=CPU, **kwargs)


def test_cached_features_are_the_backbones(dataset: SiteDataset) -> None:
    """The plain view equals the backbone's output to float16's precision."""
    backbone = load_backbone("tiny", weights=dataset.folder.parent / "tiny.safetensors")
    with torch.inference_mode():
        direct = extract(backbone, to_images(dataset.images[:4], CPU))
    cached = torch.from_numpy(np.array(_cache(dataset).plain[:4])).float()
    torch.testing.assert_close(cached, direct, rtol=2e-3, atol=2e-3)


def test_a_second_task_uses_the_same_cache(dataset: SiteDataset) -> None:
    """Its batches are of its own patients: features, columns and labels of the same rows, in every view."""
    task = TASKS["hcc-icc"]
    cache = _cache(dataset)
    everyone = dataset.indices("train").tolist()
    rows = dataset.indices("train", task)
    assert len(rows) == 6 < len(everyone)
    batches = batches_of(dataset, cache, split="train", task=task)
    ((features, clinical, labels),) = batches.plain(batch_size=16, device=CPU)
    np.testing.assert_array_equal(features, cache.plain[rows].astype(np.float32))
    np.testing.assert_array_equal(clinical, dataset.clinical[rows])
    assert [task.classes[label] for label in labels] == [dataset.labels[row] for row in rows]
    for view, of_all in zip(batches.views[1:], cache.augmented, strict=True):
        places = [everyone.index(row) for row in rows]
        np.testing.assert_array_equal(view[batches.rows], of_all[places])
    told: list[int] = []
    _cache(dataset, progress=lambda done, total: told.append(done))
    assert told == []


def test_a_cache_is_built_once(dataset: SiteDataset) -> None:
    """The second call computes nothing; another seed, view count or augmentation has its own."""
    told: list[int] = []
    _cache(dataset, views=1, progress=lambda done, total: told.append(done))
    assert told == [1, 2]
    _cache(dataset, views=1, progress=lambda done, total: told.append(done))
    assert told == [1, 2]


def test_an_interrupted_build_goes_on(dataset: SiteDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the plain view, the rest is built and equals an uninterrupted build."""
    config = TrainingConfig(views=3, rotation_degrees=7)
    backbone = load_backbone("tiny", weights=dataset.folder.parent / "tiny.safetensors")

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        load_or_build(dataset, backbone, config=config, seed=3, device=CPU, progress=stop)
    told: list[int] = []
    resumed = load_or_build(
        dataset, backbone, config=config, seed=3, device=CPU, progress=lambda done, total: told.append(done)
    )
    assert told == [3, 4]
    monkeypatch.setattr(feature_cache, "FORMAT", 999)  # another key: built from the beginning
    whole = load_or_build(dataset, backbone, config=config, seed=3, device=CPU)
    np.testing.assert_array_equal(resumed.plain, whole.plain)
    np.testing.assert_array_equal(resumed.augmented, whole.augmented)


@pytest.mark.parametrize("counted", [True, False])
def test_a_full_disk_is_said_before_anything_is_built(
    dataset: SiteDataset, monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    """Whether the system counts too few free bytes or, for a quota, refuses to give them; nothing stays behind."""
    if counted:
        monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    else:
        SmallDisk(dataset.folder, monkeypatch).fill()
    before = set((dataset.folder / "features").iterdir())
    told: list[int] = []
    with pytest.raises(NoRoomError) as raised:
        _cache(dataset, views=5, announce=told.append)
    assert raised.value.expected == "0.6 MB"  # (15 + 5 * 9) * 3 maps of 32 x 7 x 7 float16
    assert not told
    assert set((dataset.folder / "features").iterdir()) == before


def test_a_disk_that_is_full_in_a_build_is_an_error_and_no_signal(
    dataset: SiteDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems take new room for old blocks; with room again it goes on where it was."""
    config = TrainingConfig(views=2, rotation_degrees=4)
    backbone = load_backbone("tiny", weights=dataset.folder.parent / "tiny.safetensors")
    told: list[int] = []

    def build() -> FeatureCache:
        return load_or_build(
            dataset, backbone, config=config, seed=3, device=CPU, progress=lambda done, _: told.append(done)
        )

    with pytest.MonkeyPatch.context() as patch:
        flush = os.fsync

        def full(descriptor: int) -> None:
            if len(told) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            flush(descriptor)

        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            build()
    cache = build()
    assert told == [1, 2, 3]
    monkeypatch.setattr(feature_cache, "FORMAT", 998)
    whole = build()
    np.testing.assert_array_equal(cache.plain, whole.plain)
    np.testing.assert_array_equal(cache.augmented, whole.augmented)


def test_a_file_that_was_lost_is_computed_again(dataset: SiteDataset) -> None:
    """A build that was interrupted, and a file that is gone: its place on the disk would hold zeros."""
    config = TrainingConfig(views=2, rotation_degrees=5)
    backbone = load_backbone("tiny", weights=dataset.folder.parent / "tiny.safetensors")
    before = set((dataset.folder / "features").glob("*"))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_build(dataset, backbone, config=config, seed=3, device=CPU, progress=stop)
    (folder,) = set((dataset.folder / "features").glob("*")) - before
    (folder / "plain.f16").unlink()
    cache = load_or_build(dataset, backbone, config=config, seed=3, device=CPU)
    assert np.abs(cache.plain).sum(axis=(1, 2, 3, 4)).all()


def test_augmentation_stays_in_its_ranges() -> None:
    """Rotation within 10 degrees, zoom and shift within 0.1; and without ranges it is the identity."""
    theta = sample_transforms(500, config=TrainingConfig(), rng=np.random.default_rng(0)).numpy()
    zoom = np.hypot(theta[:, 0, 0], theta[:, 1, 0])
    angle = np.degrees(np.arctan2(theta[:, 1, 0], theta[:, 0, 0]))
    assert 0.9 <= zoom.min() < 0.92
    assert 1.08 < zoom.max() <= 1.1
    assert -10 <= angle.min() < -9
    assert 9 < angle.max() <= 10
    assert 0.18 < np.abs(theta[:, :, 2]).max() <= 0.2  # the grid spans 2
    still = TrainingConfig(rotation_degrees=0, shift=0, zoom=0)
    images = torch.rand(2, 3, 16, 16)
    same = warp(images, sample_transforms(2, config=still, rng=np.random.default_rng(0)))
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)


def test_one_transform_serves_all_three_phases() -> None:
    """Equal phases stay equal after the warp."""
    image = torch.rand(1, 1, 32, 32).expand(1, 3, 32, 32)
    theta = sample_transforms(1, config=TrainingConfig(), rng=np.random.default_rng(1))
    warped = warp(image, theta)
    assert torch.equal(warped[:, 0], warped[:, 1])
    assert torch.equal(warped[:, 0], warped[:, 2])
    assert not torch.equal(warped[:, 0], image[:, 0])


def _trained(dataset: SiteDataset, *, seed: list[int], epochs: int = 45, **config: object) -> tuple:
    examples = batches_of(dataset, _cache(dataset), split="train", task=TASK)
    head = build_head(channels=32, classes=3, seed=0)
    training = TrainingConfig(batch_size=4, **config)
    outcome = Trainer(head, examples, config=training, seed=seed, device=CPU).run(epochs)
    return head, examples, outcome


def test_training_fits_its_patients_and_repeats_bit_for_bit(dataset: SiteDataset) -> None:
    """The loss falls below that of guessing; equal seeds give equal bits, others do not."""
    head, examples, outcome = _trained(dataset, seed=[1])
    assert outcome.loss is not None
    assert outcome.loss < 0.6 * np.log(3)
    assert (outcome.examples, outcome.steps) == (9, 45 * 3)
    logits = predict(head, examples, device=CPU)
    assert (logits.argmax(axis=1) == examples.labels).mean() > 0.8
    np.testing.assert_array_equal(get_flat(head), get_flat(_trained(dataset, seed=[1])[0]))
    assert not np.array_equal(get_flat(head), get_flat(_trained(dataset, seed=[2])[0]))


def test_class_weights_have_mean_one_over_patients() -> None:
    """Two, one and no patients: the absent class weighs nothing, the patients' mean is 1."""
    labels = np.array([0, 0, 1])
    weights = class_weights(labels, classes=3).numpy()
    np.testing.assert_allclose(weights, [0.75, 1.5, 0.0])
    assert weights[labels].mean() == pytest.approx(1.0)


def test_no_patients_train_nothing() -> None:
    """An empty split gives no loss, no step, no logits and no error."""
    empty = np.empty((0, 3, 64, 7, 7), dtype=np.float16)
    examples = FeatureBatches((empty,), np.empty((0, 20), dtype=np.float32), np.empty(0, dtype=np.int64))
    head = build_head(channels=64, classes=3, seed=0)
    before = get_flat(head)
    outcome = Trainer(head, examples, config=TrainingConfig(), seed=[0], device=CPU).run(2)
    assert (outcome.loss, outcome.examples, outcome.steps) == (None, 0, 0)
    np.testing.assert_array_equal(get_flat(head), before)
    assert predict(head, examples, device=CPU).shape == (0, 3)
