"""The CNNs that an image goes through, cut behind their last feature map, with weights of nobody yet.

A backbone takes one grey channel (a phase) or three (the paper's naive models: the phases as
red, green and blue), 0 to 1. Its tensors have torchvision's names, so torchvision's files fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from stic_core.config import BackboneName, BatchNorm, Normalise
from stic_core.errors import ConfigError

FEATURE_GRID = 7
"""Rows and columns of most backbones' feature map for a 224 x 224 image."""

# Of ImageNet's images as red, green, blue, 0 to 1 (torchvision's documentation of its weights).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class GreyFoldedConv2d(nn.Conv2d):
    """A first layer for red, green and blue that takes one grey channel at a third of the cost.

    A grey image stands for three equal channels; the sum over the channels is then the same
    for every pixel, so the weights are added up instead. Gradients reach all three alike.

    With ImageNet's mean the constant part is not a bias: the layer pads with zeros *after* the
    subtraction. A second channel of ones carries it, and is padded as the first one is.
    """

    mean: Tensor | None
    std: Tensor | None

    @classmethod
    def of(cls, conv: nn.Conv2d, *, normalise: Normalise) -> GreyFoldedConv2d:
        """The same layer, with its weights."""
        assert isinstance(conv.padding, tuple)  # torchvision gives no names of paddings
        made = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # pyright: ignore[reportArgumentType] - pairs, which torch's stub calls tuples
            conv.stride,  # pyright: ignore[reportArgumentType]
            conv.padding,  # pyright: ignore[reportArgumentType]
            bias=conv.bias is not None,
        )
        made.weight, made.bias = conv.weight, conv.bias
        imagenet = normalise == "imagenet"
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            tensor = torch.tensor(values).view(1, 3, 1, 1) if imagenet else None
            made.register_buffer(name, tensor, persistent=False)
        return made

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name that torch gives it
        """Three channels as they are; one channel folded."""
        if input.shape[1] == self.in_channels:
            if self.mean is not None and self.std is not None:
                input = (input - self.mean) / self.std  # noqa: A001
            return super().forward(input)
        if self.mean is None or self.std is None:
            weight = self.weight.sum(1, keepdim=True)
        else:
            scaled = self.weight / self.std
            weight = torch.stack([scaled.sum(1), -(scaled * self.mean).sum(1)], dim=1)
            input = torch.cat([input, torch.ones_like(input)], dim=1)  # noqa: A001
        return self._conv_forward(input, weight, self.bias)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a backbone makes of a 224 x 224 image.

    Args:
        channels: of its feature map.
        grid: rows and columns of the map.
        blocks: parts that can be unfrozen one after the other, from the last.
        size: side that the image is resized to first, pixels.
    """

    channels: int
    grid: int
    blocks: int
    size: int = 224


SHAPES: Mapping[BackboneName, Shape] = MappingProxyType(
    {
        "vgg16": Shape(512, FEATURE_GRID, 5),
        "resnet18": Shape(512, FEATURE_GRID, 5),
        "resnet50": Shape(2048, FEATURE_GRID, 5),
        "densenet121": Shape(1024, FEATURE_GRID, 5),
        "mobilenet_v3_small": Shape(576, FEATURE_GRID, 13),
        "mobilenet_v3_large": Shape(960, FEATURE_GRID, 17),
        "efficientnet_b0": Shape(1280, FEATURE_GRID, 9),
        "inception_v3": Shape(2048, 8, 12, size=299),
        "convnext_tiny": Shape(768, FEATURE_GRID, 4),
        "tiny": Shape(32, FEATURE_GRID, 8),
    }
)

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_Norm = nn.BatchNorm1d | nn.BatchNorm2d


class Backbone(nn.Module):
    """A CNN as a row of blocks, of which the last ones may train.

    Whole and trainable as it is built; see `unfreeze`. Frozen blocks run without a graph and
    in evaluation mode whatever `train()` says: their batch-norm statistics are part of the
    frozen weights.

    Args:
        name: which one.
        layers: run one after the other, under the names that torchvision gives them.
        blocks: names of layers (`features.3` is one of a Sequential), block by block.
    """

    def __init__(
        self, name: BackboneName, layers: Mapping[str, nn.Module], blocks: Sequence[Sequence[str]]
    ) -> None:
        super().__init__()
        self.name, self.shape = name, SHAPES[name]
        self.channels, self.grid = self.shape.channels, self.shape.grid
        for key, layer in layers.items():
            self.add_module(key, layer)
        self._blocks = tuple(tuple(block) for block in blocks)
        assert len(self._blocks) == self.shape.blocks  # the table is what configurations are checked by
        self.frozen_blocks = 0
        self.batch_norm: BatchNorm = "average"

    @property
    def trains(self) -> bool:
        """Some block does."""
        return self.frozen_blocks < self.shape.blocks

    def unfreeze(self, blocks: int | Literal["all"], *, batch_norm: BatchNorm = "average") -> None:
        """Let the last blocks train, and no other.

        Args:
            batch_norm: what becomes of the statistics in those blocks; see `ModelConfig`.

        Raises:
            ConfigError: more blocks than there are.
        """
        there = self.shape.blocks
        count = there if blocks == "all" else blocks
        if not 0 <= count <= there:
            raise ConfigError(
                "model.trainable_blocks", got=blocks, expected=f"at most {there} with {self.name}, or all"
            )
        self.frozen_blocks, self.batch_norm = there - count, batch_norm
        for number, layer in self._layers():
            layer.requires_grad_(number >= self.frozen_blocks)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:  # noqa: FBT001, FBT002  torch's own signature
        """Training mode for what trains; the rest stays as it was pretrained."""
        super().train(mode)
        if mode:
            for number, layer in self._layers():
                layer.train(number >= self.frozen_blocks)
            if self.batch_norm == "frozen":
                for _, norm in self.norms():
                    norm.eval()
        return self

    def norms(self) -> Iterator[tuple[str, _Norm]]:
        """The batch-norm layers of the blocks that train, by name."""
        inside = {
            id(part)
            for number, layer in self._layers()
            if number >= self.frozen_blocks
            for part in layer.modules()
        }
        for name, part in self.named_modules():
            if isinstance(part, NORMS) and id(part) in inside:
                yield name, part

    def _layers(self) -> Iterator[tuple[int, nn.Module]]:
        for number, block in enumerate(self._blocks):
            for name in block:
                yield number, self.get_submodule(name)

    def forward(self, images: Float[Tensor, "n p h w"]) -> Float[Tensor, "n c g g"]:
        maps = images
        if maps.shape[-1] != self.shape.size and self.shape.size != 224:
            side = (self.shape.size, self.shape.size)
            maps = functional.interpolate(maps, side, mode="bilinear", align_corners=False)
        layers = list(self._layers())
        below = [layer for number, layer in layers if number < self.frozen_blocks]
        if self.trains and below:
            with torch.no_grad():
                for layer in below:
                    maps = layer(maps)
            layers = [item for item in layers if item[0] >= self.frozen_blocks]
        for _, layer in layers:
            maps = layer(maps)
        return maps


class TinyBackbone(Backbone):
    """A small CNN for the demo: no download, 310 thousand parameters, milliseconds a slice.

    Its weights come from `scripts/pretrain_tiny.py`: a pretext task on phantom slices that is
    not the diagnosis. It stands in for ImageNet's VGG16 on the same path: frozen and cached.

    Args:
        inputs: 1 for grey phases, 3 for the naive models.
    """

    channels = SHAPES["tiny"].channels

    def __init__(self, inputs: int = 1) -> None:
        def block(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            )

        features = nn.Sequential(
            block(inputs, 16, kernel=7, stride=2),
            block(16, 32, stride=2),
            block(32, 64, stride=2),
            block(64, 64),
            block(64, 96, stride=2),
            block(96, 96),
            block(96, 96, stride=2),
            # No ReLU behind the last one, and few channels: features around 0, of which a head
            # makes something with a hundred patients.
            block(96, SHAPES["tiny"].channels)[:2],
        )
        super().__init__("tiny", {"features": features}, _each(features))


def build_backbone(name: BackboneName, *, colour: bool = False, normalise: Normalise = "none") -> Backbone:
    """A backbone with random weights from torch's generator.

    Args:
        colour: the input is red, green and blue; only `tiny` is built otherwise for it.
        normalise: `imagenet` subtracts its mean and divides by its deviation.

    Raises:
        ConfigError: `tiny` with ImageNet's mean.
    """
    if name == "tiny":
        if normalise != "none":
            raise ConfigError(
                "model.normalise", got=normalise, expected="none with tiny, which was not trained on ImageNet"
            )
        return TinyBackbone(3 if colour else 1)
    layers, blocks = _torchvision(name)
    backbone = Backbone(name, layers, blocks)
    for key, part in list(backbone.named_modules()):
        if isinstance(part, nn.Conv2d):
            parent, _, last = key.rpartition(".")
            setattr(backbone.get_submodule(parent), last, GreyFoldedConv2d.of(part, normalise=normalise))
            break  # the first convolution in the order of registration is the one that sees the image
    return backbone


def _each(features: nn.Sequential) -> list[tuple[str]]:
    return [(f"features.{key}",) for key, _ in features.named_children()]


def _torchvision(name: BackboneName) -> tuple[dict[str, nn.Module], list[tuple[str, ...]]]:
    """The layers of a torchvision model up to its last feature map, and its blocks."""
    if name == "vgg16":
        # Not vgg16(): its classifier has 124 million weights, which take a second to draw.
        features = make_layers(cfgs["D"], batch_norm=False)
        blocks: list[list[str]] = [[]]
        for key, layer in features.named_children():
            blocks[-1].append(f"features.{key}")
            if isinstance(layer, nn.MaxPool2d):
                blocks.append([])
        return {"features": features}, [tuple(block) for block in blocks if block]
    if name in {"resnet18", "resnet50"}:
        whole = models.resnet18() if name == "resnet18" else models.resnet50()
        layers = {key: layer for key, layer in whole.named_children() if key not in {"avgpool", "fc"}}
        return layers, [("conv1", "bn1", "relu", "maxpool"), *((f"layer{n}",) for n in (1, 2, 3, 4))]
    if name == "inception_v3":
        # torchvision's own truncated-normal weights need a minute of scipy: PyTorch's serve from scratch.
        whole = models.inception_v3(aux_logits=False, transform_input=False, init_weights=False)
        layers = {
            key: layer for key, layer in whole.named_children() if key not in {"avgpool", "dropout", "fc"}
        }
        stem = tuple(key for key in layers if not key.startswith("Mixed"))
        return layers, [stem, *((key,) for key in layers if key.startswith("Mixed"))]
    if name == "densenet121":
        features = models.densenet121().features
        features.add_module("relu5", nn.ReLU(inplace=True))  # torchvision has it in forward()
        keys = [key for key, _ in features.named_children()]
        ends = [
            keys.index(key) + 1 for key in ("pool0", "transition1", "transition2", "transition3", "relu5")
        ]
        starts = [0, *ends[:-1]]
        return {"features": features}, [
            tuple(f"features.{key}" for key in keys[start:end])
            for start, end in zip(starts, ends, strict=True)
        ]
    if name == "convnext_tiny":
        features = models.convnext_tiny().features
        return {"features": features}, [(f"features.{n}", f"features.{n + 1}") for n in (0, 2, 4, 6)]
    build = {
        "mobilenet_v3_small": models.mobilenet_v3_small,
        "mobilenet_v3_large": models.mobilenet_v3_large,
        "efficientnet_b0": models.efficientnet_b0,
    }[name]
    features = build().features
    return {"features": features}, list(_each(features))
