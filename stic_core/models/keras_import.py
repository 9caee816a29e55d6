"""The authors' Keras model (`.h5`) as ours: names, layouts, and the GRU's variant.

Keras keeps convolutions as height, width, in, out and dense layers as in, out, and flattens a
feature map as height, width, channel; torch has out, in, height, width and flattens channel
first. A nested model (their SpatialExtractor) is a group within the group of its layer.
The file is read as data: layers are recognised by name, nothing of its configuration runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from stic_core.config import ImageConfig, ModelConfig
from stic_core.errors import UsageError, WeightsError
from stic_core.models.backbones import SHAPES, build_backbone
from stic_core.models.parameters import get_flat, trainable_specs
from stic_core.models.pretrained import backbone_digest
from stic_core.models.saved import write_model
from stic_core.models.stic import HIDDEN, NAIVE, NaiveHead, Network, Recurrent, head_of
from stic_core.tasks import Task

if TYPE_CHECKING:
    import h5py

_LAYER = re.compile(r"(block\d_conv\d|fc1to_conv|gru(?:_\d+)?|dense(?:_\d+)?)$")
_TENSOR = re.compile(r"(kernel|recurrent_kernel|bias)(?::0)?$")

# Keras' block b, convolution c is torchvision's features.i.
_VGG16 = {
    f"block{block + 1}_conv{conv + 1}": index
    for block, indices in enumerate(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)))
    for conv, index in enumerate(indices)
}


@dataclass(frozen=True, slots=True)
class _KerasFile:
    """What an `.h5` holds: tensors by (layer, tensor), and the GRU's settings where it says them."""

    tensors: Mapping[tuple[str, str], np.ndarray]
    gru: Mapping[str, Any]


def load_keras(path: Path) -> Network:
    """The authors' STIC, naive joint or naive RGB model, frozen backbone and head.

    Args:
        path: a whole saved model or its weights alone.

    Returns:
        Our model with their weights, in evaluation mode; `hard_sigmoid` gates unless the file
        says otherwise (Keras 2.2's default, which the authors used).

    Raises:
        UsageError: h5py is not installed.
        WeightsError: not such a file, or a GRU that resets after the product.
    """
    found = _read(path)
    backbone = build_backbone("vgg16")
    state: dict[str, Tensor] = {}
    for layer, index in _VGG16.items():
        state[f"features.{index}.weight"] = _convolution(found, layer)
        state[f"features.{index}.bias"] = _tensor(found, layer, "bias")
    backbone.load_state_dict(_fitting(state, backbone.state_dict(), path=path))
    backbone.unfreeze(0)
    config, tensors = _stic(found) if ("fc1to_conv", "kernel") in found.tensors else _naive(found)
    head = head_of(config, classes=len(tensors["classifier.output.bias"]), seed=0)
    head.load_state_dict(_fitting(tensors, head.state_dict(), path=path))
    return Network(backbone, head).eval()


def config_of(network: Network) -> ModelConfig:
    """The configuration of a model that `load_keras` made."""
    if isinstance(network.head, NaiveHead):
        joint = network.head.integration is not None
        return ModelConfig(architecture="naive-joint" if joint else "naive-rgb")
    gates: Recurrent = network.head.temporal_encoder.recurrent_activation
    return ModelConfig(recurrent_activation=gates)


def save_keras(path: Path, *, out: Path, task: Task) -> Path:
    """Write a Keras model as a model's folder, and its backbone as a weights file.

    Returns:
        The backbone's file, `vgg16.safetensors` in the folder.

    Raises:
        WeightsError: not a file of the authors' models, or one of another number of classes.
    """
    network = load_keras(path)
    classes = network.head.classifier.output.out_features
    if classes != len(task.classes):
        raise WeightsError(
            f"{path.name} has {classes} classes", expected=f"{len(task.classes)}, as task {task.name} has"
        )
    write_model(
        out,
        get_flat(network.head),
        tensors=trainable_specs(network.head),
        task=task,
        model=config_of(network),
        image=ImageConfig(),
        backbone_digest=backbone_digest(network.backbone),
        source="imported from Keras",
    )
    save_file(network.backbone.state_dict(), out / "vgg16.safetensors")
    return out / "vgg16.safetensors"


def _stic(found: _KerasFile) -> tuple[ModelConfig, dict[str, Tensor]]:
    gru, dense = _layers(found, "gru"), _layers(found, "dense")
    if len(gru) != 1 or len(dense) != 1:
        raise WeightsError(
            "the Keras file does not contain a STIC model",
            got=f"{len(gru)} GRU and {len(dense)} dense layers",
            expected="1 of each",
        )
    bias = _tensor(found, gru[0], "bias")
    if bias.ndim != 1 or found.gru.get("reset_after", False):
        raise WeightsError(
            "the Keras file's GRU uses reset_after",
            got=f"a bias of shape {tuple(bias.shape)}",
            expected=f"reset_after=False, a bias of shape ({3 * HIDDEN},)",
        )
    gates = found.gru.get("recurrent_activation", "hard_sigmoid")
    if gates not in {"sigmoid", "hard_sigmoid"}:
        raise WeightsError("unsupported gates in the GRU", got=gates, expected="sigmoid or hard_sigmoid")
    return ModelConfig(recurrent_activation=gates), {
        "spatial_extractor.project.weight": _convolution(found, "fc1to_conv"),
        "spatial_extractor.project.bias": _tensor(found, "fc1to_conv", "bias"),
        "temporal_encoder.kernel": _tensor(found, gru[0], "kernel"),
        "temporal_encoder.recurrent": _tensor(found, gru[0], "recurrent_kernel"),
        "temporal_encoder.bias": bias,
        "classifier.output.weight": _tensor(found, dense[0], "kernel").T,
        "classifier.output.bias": _tensor(found, dense[0], "bias"),
    }


def _naive(found: _KerasFile) -> tuple[ModelConfig, dict[str, Tensor]]:
    dense = _layers(found, "dense")
    if len(dense) != len(NAIVE) + 1:
        raise WeightsError(
            "the Keras file is not one of the authors' models",
            got=f"no fc1to_conv, {len(dense)} dense layers",
            expected=f"fc1to_conv, or {len(NAIVE) + 1} dense layers",
        )
    first = _tensor(found, dense[0], "kernel")
    shape = SHAPES["vgg16"]
    # Keras flattened height, width, channel; torch flattens channel, height, width.
    first = first.reshape(shape.grid, shape.grid, shape.channels, -1).permute(3, 2, 0, 1).flatten(1)
    weights = [first, *(_tensor(found, layer, "kernel").T for layer in dense[1:])]
    joint = weights[-1].shape[1] > HIDDEN
    out: dict[str, Tensor] = {}
    for name, layer, weight in zip(
        ("first", "second", "third", "classifier.output"), dense, weights, strict=True
    ):
        out[f"{name}.weight"], out[f"{name}.bias"] = weight, _tensor(found, layer, "bias")
    return ModelConfig(architecture="naive-joint" if joint else "naive-rgb"), out


def _read(path: Path) -> _KerasFile:
    try:
        import h5py
    except ImportError:
        raise UsageError(
            "reading a Keras file needs h5py", advice="Install it: pip install 'stic-federated[server]'."
        ) from None
    tensors: dict[tuple[str, str], np.ndarray] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer_weights"):
            return
        *groups, last = name.split("/")
        match = _TENSOR.search(last)
        layers = [group for group in groups if _LAYER.match(group)]
        if match and layers:
            tensors[layers[-1], match[1]] = np.asarray(item, dtype=np.float32)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
            text = file.attrs.get("model_config")
    except OSError:
        raise WeightsError(f"{path.name} cannot be read as an HDF5 file") from None
    return _KerasFile(tensors, _gru_settings(text))


def _gru_settings(text: str | bytes | None) -> dict[str, Any]:
    """The GRU's entry in the model's configuration, wherever it is nested; {} where there is none."""
    if text is None:
        return {}
    waiting: list[Any] = [json.loads(text)]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if item.get("class_name") == "GRU":
                return dict(item.get("config", {}))
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return {}


def _layers(found: _KerasFile, kind: str) -> list[str]:
    """Layers of a kind in the order of their making: `dense`, `dense_1`, ..."""

    def number(layer: str) -> int:
        return int(layer.removeprefix(kind).removeprefix("_") or 0)

    return sorted({layer for layer, _ in found.tensors if layer.split("_")[0] == kind}, key=number)


def _tensor(found: _KerasFile, layer: str, name: str) -> Tensor:
    try:
        return torch.from_numpy(found.tensors[layer, name])
    except KeyError:
        raise WeightsError("the Keras file lacks a tensor", expected=f"{layer}/{name}") from None


def _convolution(found: _KerasFile, layer: str) -> Tensor:
    """Height, width, in, out to out, in, height, width."""
    return _tensor(found, layer, "kernel").permute(3, 2, 0, 1)


def _fitting(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor], *, path: Path) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise WeightsError(
                f"{path.name}: {name} has the wrong shape",
                got=tuple(tensor.shape),
                expected=tuple(wanted[name].shape),
            )
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
