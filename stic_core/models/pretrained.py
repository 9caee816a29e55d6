"""A backbone's pretrained weights: where they come from, whether they fit, what digest they have.

Whatever of a backbone is frozen is installed once at each site and never travels; its digest
is part of the protocol.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import (
    ConvNeXt_Tiny_Weights,
    DenseNet121_Weights,
    EfficientNet_B0_Weights,
    Inception_V3_Weights,
    MobileNet_V3_Large_Weights,
    MobileNet_V3_Small_Weights,
    ResNet18_Weights,
    ResNet50_Weights,
    VGG16_Weights,
    WeightsEnum,
)

from stic_core.config import BackboneName, Normalise
from stic_core.errors import WeightsError
from stic_core.models.backbones import FEATURE_GRID, SHAPES, Backbone, TinyBackbone, build_backbone

__all__ = [
    "CHANNELS",
    "FEATURE_GRID",
    "Backbone",
    "TinyBackbone",
    "backbone_digest",
    "build_backbone",
    "load_backbone",
]

CHANNELS: Mapping[BackboneName, int] = MappingProxyType(
    {name: shape.channels for name, shape in SHAPES.items()}
)
"""Channels of the feature map, for those who need a head's shape and no backbone."""

PRETRAINED: Mapping[BackboneName, WeightsEnum] = MappingProxyType(
    {
        "vgg16": VGG16_Weights.IMAGENET1K_V1,
        "resnet18": ResNet18_Weights.IMAGENET1K_V1,
        "resnet50": ResNet50_Weights.IMAGENET1K_V2,
        "densenet121": DenseNet121_Weights.IMAGENET1K_V1,
        "mobilenet_v3_small": MobileNet_V3_Small_Weights.IMAGENET1K_V1,
        "mobilenet_v3_large": MobileNet_V3_Large_Weights.IMAGENET1K_V2,
        "efficientnet_b0": EfficientNet_B0_Weights.IMAGENET1K_V1,
        "inception_v3": Inception_V3_Weights.IMAGENET1K_V1,
        "convnext_tiny": ConvNeXt_Tiny_Weights.IMAGENET1K_V1,
    }
)
"""Which of torchvision's files is looked for; another one is named in the configuration."""

TINY_WEIGHTS = resources.files("stic_core") / "models" / "backbone_weights" / "tiny.safetensors"


def load_backbone(
    name: BackboneName, *, weights: Path | None = None, colour: bool = False, normalise: Normalise = "none"
) -> Backbone:
    """A frozen backbone with its pretrained weights, in evaluation mode, on the CPU.

    Nothing is downloaded: hospitals' networks are closed, and no process of ours contacts
    anything but its own server.

    Args:
        name: which one.
        weights: a weights file; None looks where the backbone's weights usually lie: for
            `tiny` this package, for the others torchvision's cache.
        colour: see `build_backbone`.
        normalise: see `build_backbone`.

    Raises:
        WeightsError: no file, or one that is not of this backbone.
    """
    with torch.random.fork_rng(devices=[]):
        backbone = build_backbone(name, colour=colour, normalise=normalise)
    backbone.load_state_dict(_fitting(_read(_locate(name, weights)), backbone, name=name))
    backbone.unfreeze(0)
    return backbone.eval()


def _locate(name: BackboneName, weights: Path | None) -> Path:
    if weights is not None:
        if not weights.is_file():
            raise WeightsError(
                f"the weights of backbone {name} are not at the configured path",
                got=weights,
                advice="Correct backbone_weights in the configuration.",
            )
        return weights
    if name == "tiny":
        with resources.as_file(TINY_WEIGHTS) as path:
            return path
    url = PRETRAINED[name].url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not cached.is_file():
        raise WeightsError(
            f"the ImageNet weights of {name} are not on this machine",
            expected=cached,
            advice=f"Nothing is downloaded automatically: fetch {url} on a machine with internet access, then put "
            f"the file there, or give its path under backbone_weights: {{{name}: FILE}} in site.yaml.",
        )
    # torchvision writes the first hexadecimal digits of the SHA-256 into the file's name.
    prefix = cached.stem.rsplit("-", 1)[1]
    found = hashlib.sha256(cached.read_bytes()).hexdigest()
    if not found.startswith(prefix):
        raise WeightsError(
            f"the weights file of {name} is damaged",
            got=f"SHA-256 {found[:8]}",
            expected=prefix,
            advice=f"Fetch {url} again.",
        )
    return cached


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # weights_only: a pickle that could run code is refused.
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError) as error:
        raise WeightsError(f"weights file {path.name} cannot be read", got=type(error).__name__) from None
    except Exception as error:  # noqa: BLE001  torch raises pickle's own errors for what is not a weights file
        raise WeightsError(f"{path.name} is not a weights file", got=type(error).__name__) from None


def _fitting(tensors: Mapping[str, Tensor], backbone: Backbone, *, name: str) -> dict[str, Tensor]:
    """The file's tensors that the backbone has (a full VGG16 file also holds its classifier)."""
    wanted = backbone.state_dict()
    if isinstance(backbone, TinyBackbone):
        tensors = _coloured(tensors, wanted)
    tensors = {_modern(key): tensor for key, tensor in tensors.items()} if name == "densenet121" else tensors
    missing = [
        key
        for key, tensor in wanted.items()
        # Old files lack the counter of batches, which nothing here reads.
        if not key.endswith("num_batches_tracked")
        and (key not in tensors or tensors[key].shape != tensor.shape)
    ]
    if missing:
        raise WeightsError(
            f"the weights file does not fit backbone {name}",
            got=f"{len(missing)} of {len(wanted)} tensors missing or with the wrong shape, the first {missing[0]}",
        )
    found = dict(wanted) | {key: tensors[key] for key in wanted if key in tensors}
    return {key: found[key].to(tensor.dtype) for key, tensor in wanted.items()}


def _coloured(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Grey weights for three channels: a third for each, so that equal channels give what grey gives."""
    first = "features.0.0.weight"
    out = dict(tensors)
    if first in out and out[first].shape[1:2] == (1,) and wanted[first].shape[1] == 3:
        out[first] = (out[first].float() / 3).expand(-1, 3, -1, -1)
    return out


def _modern(key: str) -> str:
    """DenseNet's file is older than PyTorch 0.4 and says `norm.1` where the module is `norm1`."""
    for part in ("norm", "relu", "conv"):
        for number in ("1", "2"):
            key = key.replace(f".{part}.{number}.", f".{part}{number}.")
    return key


def backbone_digest(backbone: Backbone) -> str:
    """SHA-256 over names, shapes and float32 values of what is frozen, which every site must share.

    Equal weights, equal digest, whatever the file. What trains travels and needs no digest.
    """
    travels = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    if backbone.batch_norm != "frozen":
        for name, norm in backbone.norms():
            travels |= {f"{name}.{buffer}" for buffer, _ in norm.named_buffers()}
    sha = hashlib.sha256()
    for key, tensor in sorted(backbone.state_dict().items()):
        if key not in travels:
            sha.update(f"{key}:{tuple(tensor.shape)};".encode())
            sha.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return sha.hexdigest()
