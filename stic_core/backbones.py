"""The frozen CNNs that a phase goes through, and where their weights come from.

A backbone takes one grey channel, 0 to 1, and gives a 7 x 7 feature map. It is frozen, so it
is installed once at each site and never travels; its digest is part of the protocol.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import VGG16_Weights, vgg16

from stic_core.errors import WeightsError

BackboneName = Literal["vgg16", "tiny"]

GRID = 7
"""Rows and columns of a feature map for a 224 x 224 image."""


class VGG16(nn.Module):
    """The convolutional part of VGG16, as the paper uses it (Keras: `include_top=False`).

    The grey value serves as red, green and blue, /255 and without ImageNet's mean: the
    authors' choice.
    """

    channels = 512

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg16(weights=None).features

    def forward(self, grey: Float[Tensor, "n 1 224 224"]) -> Float[Tensor, "n 512 7 7"]:
        return self.features(grey.expand(-1, 3, -1, -1))


class TinyBackbone(nn.Module):
    """A small CNN for the demo: no download, 250 thousand parameters, milliseconds a slice.

    Its weights come from `scripts/pretrain_tiny.py`: a pretext task on phantom slices that is
    not the diagnosis. It stands in for ImageNet's VGG16 on the same path: frozen and cached.
    """

    channels = 64

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            )

        self.features = nn.Sequential(
            block(1, 16, kernel=7, stride=2),
            block(16, 32, stride=2),
            block(32, 64, stride=2),
            block(64, 64),
            block(64, 96, stride=2),
            block(96, 96),
            block(96, self.channels, stride=2),
        )

    def forward(self, grey: Float[Tensor, "n 1 224 224"]) -> Float[Tensor, "n 64 7 7"]:
        return self.features(grey)


Backbone = VGG16 | TinyBackbone

CHANNELS: Mapping[BackboneName, int] = MappingProxyType(
    {"vgg16": VGG16.channels, "tiny": TinyBackbone.channels}
)
"""Channels of the feature map, for those who need a head's shape and no backbone."""

TINY_WEIGHTS = resources.files("stic_core") / "backbone_weights" / "tiny.safetensors"


def load_backbone(name: BackboneName, *, weights: Path | None = None) -> Backbone:
    """A frozen backbone with its pretrained weights, in evaluation mode, on the CPU.

    Nothing is downloaded: hospitals' networks are closed, and no process of ours contacts
    anything but its own server.

    Args:
        name: which one.
        weights: a weights file; None looks where the backbone's weights usually lie: for
            VGG16 torchvision's cache, for `tiny` this package.

    Raises:
        WeightsError: no file, or one that is not of this backbone.
    """
    backbone: Backbone = VGG16() if name == "vgg16" else TinyBackbone()
    backbone.load_state_dict(_fitting(_read(_locate(name, weights)), backbone, name=name))
    return backbone.requires_grad_(False).eval()


def _locate(name: BackboneName, weights: Path | None) -> Path:
    if weights is not None:
        if not weights.is_file():
            raise WeightsError(
                f"weights of backbone {name} are not where the configuration says",
                got=weights,
                advice="Correct backbone_weights in site.yaml.",
            )
        return weights
    if name == "tiny":
        with resources.as_file(TINY_WEIGHTS) as path:
            return path
    url = VGG16_Weights.IMAGENET1K_V1.url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not cached.is_file():
        raise WeightsError(
            "the ImageNet weights of VGG16 are not on this machine",
            expected=cached,
            advice=f"Nothing is downloaded by itself: fetch {url} where there is a network, then put "
            "the file there, or name its path under backbone_weights: {vgg16: FILE} in site.yaml.",
        )
    # torchvision writes the first hexadecimal digits of the SHA-256 into the file's name.
    prefix = cached.stem.rsplit("-", 1)[1]
    found = hashlib.sha256(cached.read_bytes()).hexdigest()
    if not found.startswith(prefix):
        raise WeightsError(
            "the weights file of VGG16 is damaged",
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
        raise WeightsError(
            f"weights file {path.name} is not a weights file", got=type(error).__name__
        ) from None


def _fitting(tensors: Mapping[str, Tensor], backbone: Backbone, *, name: str) -> dict[str, Tensor]:
    """The file's tensors that the backbone has (a full VGG16 file also holds its classifier)."""
    wanted = backbone.state_dict()
    missing = [
        key for key, tensor in wanted.items() if key not in tensors or tensors[key].shape != tensor.shape
    ]
    if missing:
        raise WeightsError(
            f"the weights file is not of backbone {name}",
            got=f"{len(missing)} of {len(wanted)} tensors missing or of another shape, the first {missing[0]}",
        )
    return {key: tensors[key].to(tensor.dtype) for key, tensor in wanted.items()}


def backbone_digest(backbone: Backbone) -> str:
    """SHA-256 over names, shapes and float32 values: equal weights, equal digest, whatever the file."""
    sha = hashlib.sha256()
    for key, tensor in sorted(backbone.state_dict().items()):
        sha.update(f"{key}:{tuple(tensor.shape)};".encode())
        sha.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return sha.hexdigest()
