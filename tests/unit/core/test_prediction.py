"""A model that is restored from its folder scores patients as its network does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stic_core.data.dataset import SiteDataset, load_dataset
from stic_core.errors import DataError, WeightsError
from stic_core.models.saved import read_model
from stic_core.prediction import RestoredModel, logits, predict, restore_model
from support.federation_kit import CLASSES, write_site_dataset, write_small_model, write_tiny_weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RestoredModel:
    """A small model, restored."""
    folder = tmp_path_factory.mktemp("model")
    backbone = write_tiny_weights(folder / "tiny.safetensors")
    saved = read_model(write_small_model(folder / "model", backbone=backbone))
    return restore_model(saved, device="cpu", backbone_weights=backbone)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SiteDataset:
    """Forty patients: more than one batch."""
    folder = tmp_path_factory.mktemp("prepared")
    write_site_dataset(folder, seed=1, counts={"train": 34, "test": 6})
    return load_dataset(folder)


def test_probabilities_are_the_networks(model: RestoredModel, dataset: SiteDataset) -> None:
    """A row for each patient in order, across batches, a column for each class; images stay on disk."""
    scores = predict(model, dataset.images, dataset.clinical)
    assert list(scores.columns) == list(CLASSES)
    pixels = torch.from_numpy(np.array(dataset.images)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = model.network(pixels, torch.from_numpy(np.array(dataset.clinical))).double()
    np.testing.assert_allclose(scores.to_numpy(), expected.softmax(1).numpy(), atol=1e-6)
    np.testing.assert_allclose(logits(model, dataset.images, dataset.clinical), expected.numpy(), atol=1e-5)
    assert predict(model, dataset.images[:0], dataset.clinical[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("images", "clinical"),
    [
        (np.zeros((2, 224, 224, 3), dtype=np.float32), np.zeros((2, 20))),
        (np.zeros((2, 64, 64, 3), dtype=np.uint8), np.zeros((2, 20))),
        (np.zeros((224, 224, 3), dtype=np.uint8), np.zeros((1, 20))),
        (np.zeros((2, 224, 224, 3), dtype=np.uint8), np.zeros((3, 20))),
        (np.zeros((2, 224, 224, 3), dtype=np.uint8), np.zeros((2, 9))),
        (np.zeros((1, 224, 224, 3), dtype=np.uint8), np.full((1, 20), 61.0)),
        (np.zeros((1, 224, 224, 3), dtype=np.uint8), np.full((1, 20), np.nan)),
    ],
    ids=["floats", "small", "one-image", "rows", "columns", "raw-values", "nan"],
)
def test_what_does_not_fit_is_refused(model: RestoredModel, images: np.ndarray, clinical: np.ndarray) -> None:
    """Shape and kind are checked before anything is computed."""
    with pytest.raises(DataError):
        predict(model, images, clinical)


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    """The model names its backbone's digest; one that does not fit would give other scores without a word."""
    backbone = write_tiny_weights(tmp_path / "tiny.safetensors")
    folder = write_small_model(tmp_path / "model", backbone=backbone, backbone_digest="0" * 64)
    with pytest.raises(WeightsError):
        restore_model(read_model(folder), device="cpu", backbone_weights=backbone)
