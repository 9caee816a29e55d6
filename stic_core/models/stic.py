"""STIC: SpatialExtractor, TemporalEncoder, Integration, Classifier (Gao et al. 2021, figure 2).

A CNN a phase, a GRU over the phases in the order of time, the clinical columns beside the
GRU's last state, and a softmax layer. Beside it the paper's two naive models, for comparison:
one CNN over the three phases as red, green and blue, with the clinical columns (joint) or
without (RGB). Layer sizes are those of the authors' Keras code: 3,227,007 trainable
parameters for three classes with VGG16 frozen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stic_core.config import ModelConfig
from stic_core.data.clinical import COLUMNS
from stic_core.models.backbones import FEATURE_GRID, SHAPES, Backbone
from stic_core.models.devices import computing_in
from stic_core.models.pretrained import build_backbone, load_backbone
from stic_core.tensors.torch_types import Clinical, Embedding, Features, Images, Logits

EMBEDDING = 128
"""Outputs of the 7 x 7 convolution a phase."""

HIDDEN = 32
"""Units of the GRU, and of the naive models' last hidden layer."""

NAIVE = (512, 128, HIDDEN)
"""Units of the naive models' hidden layers."""

Recurrent = Literal["sigmoid", "hard_sigmoid"]


class WholeMapConvolution(nn.Conv2d):
    """A convolution whose kernel covers the whole map, computed as the matrix product that it is.

    As one it runs several times faster on a CPU, in both directions; the parameters keep a convolution's
    shape and names.
    """

    def forward(self, input: Features) -> Embedding:  # noqa: A002 - torch's name for it
        """Feature maps of (n, phases, channels, grid, grid) to (n, phases, outputs)."""
        return functional.linear(input.flatten(2), self.weight.flatten(1), self.bias)


class SpatialExtractor(nn.Module):
    """A phase's feature map to 128 numbers: one convolution over the whole map, linear.

    Args:
        channels: of the backbone's feature map.
        grid: its rows and columns.
    """

    def __init__(self, channels: int, grid: int = FEATURE_GRID) -> None:
        super().__init__()
        self.project = WholeMapConvolution(channels, EMBEDDING, grid)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, features: Features) -> Embedding:
        return self.project(features)


class TemporalEncoder(nn.Module):
    """A GRU over the phases that gives its last state; resets before the product.

    This is Keras' `GRU(reset_after=False)`: one bias a gate, and the reset gate acts on the
    state, not on its product, so torch.nn.GRU is not it. Gates in Keras' order: update,
    reset, candidate.

    Args:
        recurrent_activation: `hard_sigmoid` is Keras 2's default, clip(0.2 x + 0.5, 0, 1).
    """

    def __init__(self, *, recurrent_activation: Recurrent = "sigmoid") -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(EMBEDDING, 3 * HIDDEN))
        self.recurrent = nn.Parameter(torch.empty(HIDDEN, 3 * HIDDEN))
        self.bias = nn.Parameter(torch.zeros(3 * HIDDEN))
        self.recurrent_activation: Recurrent = recurrent_activation
        nn.init.xavier_uniform_(self.kernel)
        nn.init.orthogonal_(self.recurrent)

    def _gate(self, value: Tensor) -> Tensor:
        if self.recurrent_activation == "sigmoid":
            return torch.sigmoid(value)
        return torch.clamp(0.2 * value + 0.5, 0.0, 1.0)

    def forward(self, phases: Embedding) -> Float[Tensor, "n 32"]:
        inputs = phases @ self.kernel + self.bias
        state = phases.new_zeros(phases.shape[0], HIDDEN)
        for step in inputs.unbind(1):
            update_reset = step[:, : 2 * HIDDEN] + state @ self.recurrent[:, : 2 * HIDDEN]
            update, reset = self._gate(update_reset).chunk(2, dim=1)
            candidate = torch.tanh(step[:, 2 * HIDDEN :] + (reset * state) @ self.recurrent[:, 2 * HIDDEN :])
            state = update * state + (1 - update) * candidate
        return state


class Integration(nn.Module):
    """What the images say beside what the clinic says."""

    def forward(self, state: Float[Tensor, "n 32"], clinical: Clinical) -> Float[Tensor, "n 52"]:
        return torch.cat([state, clinical], dim=1)


class Classifier(nn.Module):
    """The softmax layer's logits.

    Args:
        classes: how many.
        inputs: HIDDEN, and the clinical columns where the model has them.
    """

    def __init__(self, classes: int, inputs: int = HIDDEN + len(COLUMNS)) -> None:
        super().__init__()
        self.output = _dense(inputs, classes)

    def forward(self, fused: Float[Tensor, "n i"]) -> Logits:
        return self.output(fused)


def _dense(inputs: int, outputs: int) -> nn.Linear:
    """Keras' Dense: Glorot's uniform weights, no bias at first."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class STICHead(nn.Module):
    """All of STIC behind the backbone: feature maps and clinical columns to logits.

    Args:
        channels: of the backbone's feature map.
        classes: how many the task has.
        recurrent_activation: see `TemporalEncoder`.
        grid: rows and columns of the feature map.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        recurrent_activation: Recurrent = "sigmoid",
        grid: int = FEATURE_GRID,
    ) -> None:
        super().__init__()
        self.spatial_extractor = SpatialExtractor(channels, grid)
        self.temporal_encoder = TemporalEncoder(recurrent_activation=recurrent_activation)
        self.integration = Integration()
        self.classifier = Classifier(classes)

    def forward(self, features: Features, clinical: Clinical) -> Logits:
        state = self.temporal_encoder(self.spatial_extractor(features))
        return self.classifier(self.integration(state, clinical))


class NaiveHead(nn.Module):
    """The naive models behind the backbone: three hidden layers, then the clinical columns or none.

    Args:
        channels: of the backbone's feature map.
        classes: how many the task has.
        clinical: the joint model's; false is the RGB model's.
        grid: rows and columns of the feature map.
    """

    def __init__(self, *, channels: int, classes: int, clinical: bool, grid: int = FEATURE_GRID) -> None:
        super().__init__()
        sizes = (channels * grid * grid, *NAIVE)
        self.first, self.second, self.third = (_dense(*sizes[n : n + 2]) for n in range(3))
        self.integration = Integration() if clinical else None
        self.classifier = Classifier(classes, HIDDEN + (len(COLUMNS) if clinical else 0))

    def forward(self, features: Features, clinical: Clinical) -> Logits:
        state = features.flatten(1)
        for layer in (self.first, self.second, self.third):
            state = functional.relu(layer(state))
        return self.classifier(state if self.integration is None else self.integration(state, clinical))


Head: TypeAlias = STICHead | NaiveHead


class Network(nn.Module):
    """A whole model, from images to logits.

    Args:
        backbone: frozen, partly or not at all; see `Backbone.unfreeze`.
        head: what stands behind it.
    """

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.dtype = torch.float32
        """The backbone's arithmetic; the head's is float32."""

    @property
    def images(self) -> int:
        """Images a patient that the backbone sees: each phase, or the one of three colours."""
        return images_a_patient(self.head)

    @property
    def trained(self) -> nn.Module:
        """What trains and travels: the head alone where the backbone is frozen."""
        return self if self.backbone.trains else self.head

    def forward(self, images: Images, clinical: Clinical) -> Logits:
        with computing_in(self.dtype, images.device):
            features = extract(self.backbone, images, colour=self.images == 1)
        return self.head(features.float(), clinical)


def images_a_patient(head: Head) -> int:
    """Feature maps that a head takes of each patient."""
    return 3 if isinstance(head, STICHead) else 1


def extract(backbone: Backbone, images: Images, *, colour: bool = False) -> Features:
    """Each phase's feature map, or with `colour` the one map of the phases as red, green and blue."""
    count, size = images.shape[0], images.shape[-2:]  # not len(): an export would fix it
    # One channel or three in rows: channels-last costs nothing here and saves much behind.
    batch = images if colour else images.reshape(count * 3, 1, *size)
    maps = backbone(batch.contiguous(memory_format=torch.channels_last))
    return maps.reshape(count, 1 if colour else 3, *maps.shape[1:])


def build_head(
    *,
    channels: int,
    classes: int,
    seed: int,
    recurrent_activation: Recurrent = "sigmoid",
    grid: int = FEATURE_GRID,
) -> STICHead:
    """STIC's head with fresh weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return STICHead(
            channels=channels, classes=classes, recurrent_activation=recurrent_activation, grid=grid
        )


def head_of(config: ModelConfig, *, classes: int, seed: int) -> Head:
    """The head that a configuration describes, with fresh weights; no backbone is needed for it."""
    shape = SHAPES[config.backbone]
    if config.architecture == "stic":
        return build_head(
            channels=shape.channels,
            classes=classes,
            seed=seed,
            recurrent_activation=config.recurrent_activation,
            grid=shape.grid,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clinical = config.architecture == "naive-joint"
        return NaiveHead(channels=shape.channels, classes=classes, clinical=clinical, grid=shape.grid)


def network_of(config: ModelConfig, *, classes: int, seed: int, weights: Path | None = None) -> Network:
    """The whole model that a configuration describes, with its frozen and its trainable blocks.

    Args:
        classes: how many the task has.
        seed: of the fresh weights.
        weights: the backbone's file, where it is not in its usual place.

    Raises:
        WeightsError: a pretrained backbone whose file is missing or wrong.
        ConfigError: more trainable blocks than the backbone has.
    """
    colour = config.architecture != "stic"
    if config.pretrained:
        backbone = load_backbone(config.backbone, weights=weights, colour=colour, normalise=config.normalise)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = build_backbone(config.backbone, colour=colour, normalise=config.normalise)
            for part in backbone.modules():
                if isinstance(part, nn.Conv2d):
                    nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub lacks it
    backbone.unfreeze(config.trainable_blocks, batch_norm=config.batch_norm)
    return Network(backbone, head_of(config, classes=classes, seed=seed))


def initial_module(config: ModelConfig, *, classes: int, seed: int, weights: Path | None = None) -> nn.Module:
    """What trains and travels, with its first weights: for the server, which needs no frozen backbone.

    Raises:
        WeightsError: a pretrained backbone trains, and its file is missing or wrong.
    """
    if config.trainable_blocks == 0:
        return head_of(config, classes=classes, seed=seed)
    return network_of(config, classes=classes, seed=seed, weights=weights)


def head_in(module: nn.Module) -> Head:
    """The head of a network, or the head itself."""
    head = module.head if isinstance(module, Network) else module
    assert isinstance(head, Head)
    return head
