"""The authors' Keras files: made here in Keras' layout, and computed by NumPy in Keras' own order of axes."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from stic_core.errors import WeightsError
from stic_core.models.keras_import import config_of, load_keras, save_keras
from stic_core.models.parameters import count_parameters
from stic_core.models.saved import read_model
from stic_core.tasks import TASKS
from stic_core.training.setup import ComputeConfig, restore

BLOCKS = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
"""VGG16: channels in, channels out, convolutions."""


def _draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    fan_in = int(np.prod(shape[:-1]))
    return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)


def _vgg(rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    layers = {}
    for number, (inputs, outputs, count) in enumerate(BLOCKS, start=1):
        for conv in range(1, count + 1):
            kernel = _draw(rng, 3, 3, inputs if conv == 1 else outputs, outputs)
            layers[f"block{number}_conv{conv}"] = {"kernel": kernel, "bias": _draw(rng, outputs) * 0.1}
    return layers


def _dense(rng: np.random.Generator, inputs: int, outputs: int) -> dict[str, np.ndarray]:
    return {"kernel": _draw(rng, inputs, outputs), "bias": _draw(rng, outputs) * 0.1}


def _write(group: h5py.Group, layer: str, tensors: dict[str, np.ndarray]) -> None:
    for name, array in tensors.items():
        group.create_dataset(f"{layer}/{name}:0", data=array)


@pytest.fixture(scope="module")
def vgg() -> dict[str, dict[str, np.ndarray]]:
    """Random weights of VGG16's convolutions in Keras' layout."""
    return _vgg(np.random.default_rng(0))


def _stic_file(path: Path, vgg: dict, *, gates: str | None, nested: bool = True) -> dict:
    rng = np.random.default_rng(1)
    layers = {
        "fc1to_conv": {"kernel": _draw(rng, 7, 7, 512, 128), "bias": _draw(rng, 128) * 0.1},
        "gru": {
            "kernel": _draw(rng, 128, 96),
            "recurrent_kernel": _draw(rng, 32, 96),
            "bias": _draw(rng, 96) * 0.1,
        },
        "dense": _dense(rng, 52, 3),
    }
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights")
        # The SpatialExtractor is a model within the model: its layers lie in one group.
        inner = root.create_group("model") if nested else root
        for layer, tensors in {**vgg, "fc1to_conv": layers["fc1to_conv"]}.items():
            _write(inner if nested else inner.create_group(layer), layer, tensors)
        for layer in ("gru", "dense"):
            _write(root.create_group(layer), layer, layers[layer])
        if gates:
            gru = {"class_name": "GRU", "config": {"recurrent_activation": gates, "reset_after": False}}
            file.attrs["model_config"] = json.dumps({"class_name": "Model", "config": {"layers": [gru]}})
        _write(file.create_group("optimizer_weights"), "dense", {"kernel": np.zeros((1, 1))})
    return vgg | layers


def _convolve(image: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, pad: int) -> np.ndarray:
    """Keras' Conv2D on height, width, channel."""
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    windows = sliding_window_view(padded, kernel.shape[:2], axis=(0, 1))  # h, w, in, kh, kw
    rows = windows.transpose(0, 1, 3, 4, 2).reshape(-1, kernel[..., 0].size)
    return (rows @ kernel.reshape(-1, kernel.shape[-1]) + bias).reshape(*windows.shape[:2], -1)


def _vgg_numpy(image: np.ndarray, layers: dict) -> np.ndarray:
    for number, (_, _, count) in enumerate(BLOCKS, start=1):
        for conv in range(1, count + 1):
            layer = layers[f"block{number}_conv{conv}"]
            image = np.maximum(_convolve(image, layer["kernel"], layer["bias"], pad=1), 0)
        height, width, channels = image.shape
        image = image.reshape(height // 2, 2, width // 2, 2, channels).max(axis=(1, 3))
    return image


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def _stic_numpy(rgb: np.ndarray, clinical: np.ndarray, layers: dict, *, gates: str) -> np.ndarray:
    def gate(value: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-value)) if gates == "sigmoid" else np.clip(0.2 * value + 0.5, 0, 1)

    gru, state = layers["gru"], np.zeros(32, dtype=np.float32)
    for phase in range(3):
        maps = _vgg_numpy(np.repeat(rgb[..., phase : phase + 1], 3, axis=-1), layers)
        step = _convolve(maps, layers["fc1to_conv"]["kernel"], layers["fc1to_conv"]["bias"], pad=0).ravel()
        x_z, x_r, x_h = np.split(step @ gru["kernel"] + gru["bias"], 3)
        u_z, u_r, u_h = np.split(gru["recurrent_kernel"], 3, axis=1)
        update, reset = gate(x_z + state @ u_z), gate(x_r + state @ u_r)
        candidate = np.tanh(x_h + (reset * state) @ u_h)
        state = update * state + (1 - update) * candidate
    fused = np.concatenate([state, clinical])
    return _softmax(fused @ layers["dense"]["kernel"] + layers["dense"]["bias"])


def _scores(network: torch.nn.Module, rgb: np.ndarray, clinical: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        images = torch.from_numpy(rgb).permute(2, 0, 1)[None]
        return network(images, torch.from_numpy(clinical)[None]).softmax(1)[0].numpy()


@pytest.fixture(scope="module")
def patient() -> tuple[np.ndarray, np.ndarray]:
    """A random image, and clinical columns."""
    rng = np.random.default_rng(2)
    return rng.random((224, 224, 3), dtype=np.float32), (rng.random(20) < 0.4).astype(np.float32)


@pytest.mark.parametrize(("gates", "nested"), [("hard_sigmoid", True), ("sigmoid", False)])
def test_stic_from_keras_scores_as_keras(
    tmp_path: Path, vgg: dict, patient: tuple, gates: str, nested: bool
) -> None:
    """The whole forward pass against NumPy in Keras' layout, to 1e-5."""
    layers = _stic_file(tmp_path / "stic.h5", vgg, gates=gates, nested=nested)
    network = load_keras(tmp_path / "stic.h5")
    assert config_of(network).recurrent_activation == gates
    assert count_parameters(network) == (3_227_007, 3_227_007 + 14_714_688)
    expected = _stic_numpy(*patient, layers, gates=gates)
    assert expected.max() < 0.999  # not saturated: a wrong layout would show
    np.testing.assert_allclose(_scores(network, *patient), expected, atol=1e-5)


@pytest.mark.parametrize("joint", [False, True])
def test_the_naive_models_from_keras_score_as_keras(
    tmp_path: Path, vgg: dict, patient: tuple, joint: bool
) -> None:
    """Flatten, three hidden layers, the clinical columns or none; to 1e-5."""
    rng = np.random.default_rng(3)
    sizes = [25_088, 512, 128, 32]
    dense = [_dense(rng, *sizes[n : n + 2]) for n in range(3)] + [_dense(rng, 52 if joint else 32, 2)]
    names = ["dense_4", "dense_5", "dense_6", "dense_10"]  # numbers of a session that made others before
    with h5py.File(tmp_path / "naive.h5", "w") as file:
        for layer, tensors in {**vgg, **dict(zip(names, dense, strict=True))}.items():
            _write(file.create_group(layer), layer, tensors)
    network = load_keras(tmp_path / "naive.h5")
    assert config_of(network).architecture == ("naive-joint" if joint else "naive-rgb")
    rgb, clinical = patient
    state = _vgg_numpy(rgb, vgg).ravel()
    for layer in dense[:3]:
        state = np.maximum(state @ layer["kernel"] + layer["bias"], 0)
    fused = np.concatenate([state, clinical]) if joint else state
    expected = _softmax(fused @ dense[3]["kernel"] + dense[3]["bias"])
    np.testing.assert_allclose(_scores(network, rgb, clinical), expected, atol=1e-5)


def test_without_settings_the_gates_are_keras_2s(tmp_path: Path, vgg: dict) -> None:
    """A file of weights alone says nothing: hard_sigmoid, as the authors' Keras."""
    _stic_file(tmp_path / "weights.h5", vgg, gates=None)
    assert config_of(load_keras(tmp_path / "weights.h5")).recurrent_activation == "hard_sigmoid"


def test_an_imported_model_is_one_of_ours(tmp_path: Path, vgg: dict, patient: tuple) -> None:
    """Written as a model's folder and a backbone file, it comes back with the same scores."""
    _stic_file(tmp_path / "stic.h5", vgg, gates="hard_sigmoid")
    backbone = save_keras(tmp_path / "stic.h5", out=tmp_path / "model", task=TASKS["malignant"])
    compute = ComputeConfig(torch.device("cpu"), precision="float32", weights=backbone)
    again = restore(read_model(tmp_path / "model"), compute=compute)
    expected = _scores(load_keras(tmp_path / "stic.h5"), *patient)
    np.testing.assert_allclose(_scores(again, *patient), expected, atol=1e-6)
    with pytest.raises(WeightsError, match="has 3 classes; expected 2"):
        save_keras(tmp_path / "stic.h5", out=tmp_path / "other", task=TASKS["hcc-icc"])


def test_what_cannot_be_imported_says_why(tmp_path: Path, vgg: dict) -> None:
    """Text, a file without our layers, a GRU of the other kind, a kernel of another shape."""
    path = tmp_path / "x.h5"
    path.write_text("no")
    with pytest.raises(WeightsError, match="cannot be read as an HDF5 file"):
        load_keras(path)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(WeightsError, match="lacks a tensor; expected block1_conv1/kernel"):
        load_keras(path)
    _stic_file(path, vgg, gates=None)
    with h5py.File(path, "a") as file:
        del file["model_weights/gru/gru/bias:0"]
        file["model_weights/gru/gru/bias:0"] = np.zeros((2, 96), dtype=np.float32)
    with pytest.raises(WeightsError, match="expected reset_after=False"):
        load_keras(path)
    _stic_file(path, vgg, gates=None)
    with h5py.File(path, "a") as file:
        del file["model_weights/dense/dense/kernel:0"]
        file["model_weights/dense/dense/kernel:0"] = np.zeros((32, 3), dtype=np.float32)
    with pytest.raises(WeightsError, match=r"classifier\.output\.weight has the wrong shape"):
        load_keras(path)
