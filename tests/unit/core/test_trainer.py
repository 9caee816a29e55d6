"""Training over cached features and over images: steps, rates, clipping, statistics, the best epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stic_core.config import ModelConfig, TrainingConfig
from stic_core.data.dataset import SiteDataset, load_dataset
from stic_core.errors import DataError
from stic_core.models.backbones import SHAPES
from stic_core.models.devices import pick_precision
from stic_core.models.parameters import get_flat, set_flat
from stic_core.models.stic import NaiveHead, Network
from stic_core.tasks import TASKS
from stic_core.training.batches import FeatureBatches, ImageBatches, prefetched
from stic_core.training.setup import ComputeConfig, TrainingSetup, assemble
from stic_core.training.trainer import Trainer, fit, predict
from support.federation_kit import write_site_dataset, write_tiny_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SiteDataset:
    """A prepared site of random patients."""
    folder = tmp_path_factory.mktemp("site")
    write_site_dataset(folder / "prepared", seed=0, counts={"train": 9, "val": 3, "test": 3})
    write_tiny_weights(folder / "tiny.safetensors")
    return load_dataset(folder / "prepared")


def _setup(
    dataset: SiteDataset,
    *,
    compute: dict | None = None,
    training: TrainingConfig | None = None,
    **model: object,
) -> TrainingSetup:
    return assemble(
        dataset,
        model=ModelConfig.model_validate({"backbone": "tiny"} | model),
        training=training or TrainingConfig(views=2, batch_size=4),
        task=TASKS["malignant"],
        seed=1,
        compute=ComputeConfig(CPU, weights=dataset.folder.parent / "tiny.safetensors", **(compute or {})),
    )


def _trainer(setup: TrainingSetup, *, seed: int = 0, **config: object) -> Trainer:
    training = TrainingConfig.model_validate({"batch_size": 4} | config)
    return Trainer(setup.module, setup.batches["train"], config=training, seed=[seed], device=CPU)


def test_a_frozen_backbone_is_cached_and_an_unfrozen_one_is_not(dataset: SiteDataset) -> None:
    """What trains decides; the naive models cache one map a patient."""
    frozen, tuned = _setup(dataset), _setup(dataset, trainable_blocks=1)
    assert isinstance(frozen.batches["train"], FeatureBatches)
    assert isinstance(tuned.batches["train"], ImageBatches)
    assert isinstance(tuned.module, Network)
    naive = _setup(dataset, architecture="naive-joint")
    assert naive.batches["train"].views[0].shape == (9, 1, 32, 7, 7)
    assert naive.batches["val"].views[0].shape == (3, 1, 32, 7, 7)


def test_cached_and_uncached_prediction_agree(dataset: SiteDataset) -> None:
    """The head over float16 features scores as the whole network over images, but for rounding."""
    frozen, tuned = _setup(dataset), _setup(dataset, trainable_blocks=1, batch_norm="frozen")
    set_flat(tuned.network.head, get_flat(frozen.network.head))
    one = predict(frozen.module, frozen.batches["test"], device=CPU)
    other = predict(tuned.module, tuned.batches["test"], device=CPU)
    np.testing.assert_allclose(one, other, atol=2e-2)


@pytest.mark.parametrize("blocks", [0, 2, "all"])
def test_training_repeats_bit_for_bit(dataset: SiteDataset, blocks: object) -> None:
    """Equal seeds give equal bits, with the reader's thread and with augmentation; other seeds do not."""
    flats = []
    for seed in (0, 0, 1):
        setup = _setup(dataset, trainable_blocks=blocks)
        outcome = _trainer(setup, seed=seed).run(2)
        assert (outcome.steps, outcome.examples) == (6, 9)
        flats.append(get_flat(setup.module))
    np.testing.assert_array_equal(flats[0], flats[1])
    assert not np.array_equal(flats[0], flats[2])


def test_an_unfrozen_backbone_learns(dataset: SiteDataset) -> None:
    """All blocks train, the loss falls, and the averaged statistics move."""
    setup = _setup(dataset, trainable_blocks="all")
    trainer = _trainer(setup)
    before = setup.network.backbone.features[0][1].running_mean.clone()
    first = trainer.run(1).loss
    assert min(trainer.run(1).loss for _ in range(6)) < first
    assert not torch.equal(before, setup.network.backbone.features[0][1].running_mean)


@pytest.mark.parametrize("architecture", ["naive-joint", "naive-rgb"])
def test_the_naive_models_learn(dataset: SiteDataset, architecture: str) -> None:
    """Both fit their few patients; the penalty pulls the last hidden layer towards nothing."""
    norms = []
    for l2 in (0.0, 10.0):
        setup = _setup(dataset, architecture=architecture)
        trainer = _trainer(setup, l2=l2)
        first = trainer.run(1).loss
        last = trainer.run(15).loss
        assert isinstance(setup.module, NaiveHead)
        norms.append(float(setup.module.third.weight.detach().norm()))
        if l2 == 0:
            assert last < first
    assert norms[1] < 0.8 * norms[0]


def test_local_steps_count_instead_of_epochs(dataset: SiteDataset) -> None:
    """Five steps of four patients over nine patients: an epoch of three, and two more."""
    outcome = _trainer(_setup(dataset)).run(1, steps=5)
    assert outcome.steps == 5


def test_the_servers_rate_is_the_one_that_counts(dataset: SiteDataset) -> None:
    """A hundredth of the rate moves the weights about a hundredth as far in one step of Adam."""
    moved = []
    for rate in (1e-3, 1e-5):
        setup = _setup(dataset)
        before = get_flat(setup.module)
        _trainer(setup).run(1, steps=1, learning_rate=rate)
        moved.append(float(np.abs(get_flat(setup.module) - before).max()))
    assert moved[0] / moved[1] == pytest.approx(100, rel=0.05)


def test_gradients_are_clipped(dataset: SiteDataset) -> None:
    """To the norm that the configuration names."""
    setup = _setup(dataset)
    _trainer(setup, gradient_clip=1e-3).run(1, steps=1)
    norm = torch.stack([p.grad.norm() for p in setup.module.parameters()]).norm()
    assert float(norm) <= 1.001e-3


def test_fit_keeps_the_best_epoch_and_stops(dataset: SiteDataset) -> None:
    """Losses that turn: the weights of the turn come back, and training stops two epochs later."""
    setup = _setup(dataset)
    losses, seen = iter([3.0, 1.0, 2.0, 2.5, 9.0, 9.0]), []

    def validate() -> float:
        seen.append(get_flat(setup.module))
        return next(losses)

    outcome = fit(_trainer(setup, local_epochs=1, early_stopping=2), rounds=6, validate=validate)
    assert (outcome.best_epoch, outcome.best_loss, outcome.losses) == (2, 1.0, (3.0, 1.0, 2.0, 2.5))
    np.testing.assert_array_equal(outcome.best, seen[1])


def test_own_statistics_are_estimated_anew(dataset: SiteDataset) -> None:
    """With `local`, what arrives is judged with this site's statistics, the same ones each time."""
    setup = _setup(dataset, trainable_blocks="all", batch_norm="local")
    weights = get_flat(setup.module)
    norm = setup.network.backbone.features[0][1]
    setup.load_weights(weights)
    first = norm.running_mean.clone()
    with torch.inference_mode():
        images = next(iter(setup.batches["train"].plain(batch_size=9, device=CPU)))[0]
        convolved = setup.network.backbone.features[0][0](images.reshape(27, 1, 224, 224))
    torch.testing.assert_close(first, convolved.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    _trainer(setup).run(1)
    setup.load_weights(weights)
    assert torch.equal(first, norm.running_mean)
    assert norm.momentum == 0.1


def test_bfloat16_stays_near(dataset: SiteDataset) -> None:
    """The head's input differs by bfloat16's rounding and no more; `auto` spares the tiny backbone."""
    one, other = (_setup(dataset, compute={"precision": p}) for p in ("float32", "bfloat16"))
    exact, rounded = (setup.batches["test"].views[0].astype(np.float32) for setup in (one, other))
    assert not np.array_equal(exact, rounded)
    assert np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()
    assert pick_precision("auto", CPU, backbone="tiny") is torch.float32
    assert pick_precision("bfloat16", CPU, backbone="tiny") is torch.bfloat16


def test_the_caches_size_is_said_and_limited(dataset: SiteDataset) -> None:
    """Before anything is written: the bytes that will lie there, and an error beyond the limit."""
    training = TrainingConfig(views=3, rotation_degrees=3)
    with pytest.raises(DataError, match=r"got 0\.00 GB; expected at most 0\.0001 GB \(cache_limit_gb\)"):
        _setup(dataset, training=training, compute={"cache_limit_bytes": 100_000})
    told: list[int] = []
    setup = _setup(dataset, training=training, compute={"announce": told.append})
    assert told == [(15 + 3 * 9) * 3 * SHAPES["tiny"].channels * 49 * 2]
    files = setup.batches["train"].views[1].base
    assert files is not None
    assert _setup(dataset, training=training, compute={"announce": told.append})
    assert len(told) == 1


def test_a_subset_keeps_its_patients(dataset: SiteDataset) -> None:
    """Positions of positions: features, clinical values and labels stay together."""
    for blocks in (0, 1):
        whole = _setup(dataset, trainable_blocks=blocks).batches["train"]
        part = whole.subset(np.array([7, 2, 5])).subset(np.array([2, 0]))
        assert len(part) == 2
        np.testing.assert_array_equal(part.labels, whole.labels[[5, 7]])
        inputs, clinical, labels = next(iter(part.plain(batch_size=8, device=CPU)))
        everyone = next(iter(whole.plain(batch_size=9, device=CPU)))
        assert torch.equal(inputs, everyone[0][[5, 7]])
        assert torch.equal(clinical, everyone[1][[5, 7]])
        assert torch.equal(labels, everyone[2][[5, 7]])


def test_prefetching_keeps_order_and_errors() -> None:
    """The same items in the same order; an error is raised where they are used; leaving early is fine."""
    assert list(prefetched(iter(range(50)))) == list(range(50))

    def broken():
        yield 1
        raise ValueError("torn")

    read = prefetched(broken())
    assert next(read) == 1
    with pytest.raises(ValueError, match="torn"):
        next(read)
    started = prefetched(iter(range(10**9)))
    assert next(started) == 0
    started.close()


def test_a_dataset_without_training_patients(tmp_path: Path) -> None:
    """Nothing trains, the fresh weights are the best ones, and nobody is told of an epoch."""
    write_site_dataset(tmp_path / "prepared", seed=0, counts={"test": 3})
    write_tiny_weights(tmp_path / "tiny.safetensors")
    setup = _setup(load_dataset(tmp_path / "prepared"), trainable_blocks="all", batch_norm="local")
    before = get_flat(setup.module)
    setup.load_weights(before)
    outcome = fit(_trainer(setup), rounds=3, validate=lambda: None)
    assert (outcome.best_epoch, outcome.losses, outcome.best_loss) == (0, (), None)
    np.testing.assert_array_equal(outcome.best, before)
