"""STIC: SpatialExtractor, TemporalEncoder, Integration, Classifier (Gao et al. 2021, figure 2).

A CNN a phase, a GRU over the phases in the order of time, the clinical columns beside the
GRU's last state, and a softmax layer. Layer sizes are those of the authors' Keras code:
3,227,007 trainable parameters for three classes with VGG16 frozen.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stic_core.backbones import GRID, Backbone
from stic_core.clinical import COLUMNS
from stic_core.tensor_types import Clinical, Embedding, Features, Images, Logits

EMBEDDING = 128
"""Outputs of the 7 x 7 convolution a phase."""

HIDDEN = 32
"""Units of the GRU."""

Recurrent = Literal["sigmoid", "hard_sigmoid"]


class SpatialExtractor(nn.Module):
    """A phase's feature map to 128 numbers: one 7 x 7 convolution, linear.

    Args:
        channels: of the backbone's feature map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, EMBEDDING, GRID)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, features: Features) -> Embedding:
        # The convolution covers the whole map, so it is a matrix product; as one it runs
        # several times faster on a CPU, in both directions.
        weight = self.project.weight.flatten(1)
        return functional.linear(features.flatten(2), weight, self.project.bias)


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
        self.recurrent_activation = recurrent_activation
        nn.init.xavier_uniform_(self.kernel)
        nn.init.orthogonal_(self.recurrent)

    def _gate(self, value: Tensor) -> Tensor:
        if self.recurrent_activation == "sigmoid":
            return torch.sigmoid(value)
        return torch.clamp(0.2 * value + 0.5, 0.0, 1.0)

    def forward(self, phases: Embedding) -> Float[Tensor, "n 32"]:
        inputs = phases @ self.kernel + self.bias
        state = phases.new_zeros(len(phases), HIDDEN)
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
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(HIDDEN + len(COLUMNS), classes)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, fused: Float[Tensor, "n 52"]) -> Logits:
        return self.output(fused)


class STICHead(nn.Module):
    """All of STIC that trains: feature maps and clinical columns to logits.

    Args:
        channels: of the backbone's feature map.
        classes: how many the task has.
        recurrent_activation: see `TemporalEncoder`.
    """

    def __init__(self, *, channels: int, classes: int, recurrent_activation: Recurrent = "sigmoid") -> None:
        super().__init__()
        self.spatial_extractor = SpatialExtractor(channels)
        self.temporal_encoder = TemporalEncoder(recurrent_activation=recurrent_activation)
        self.integration = Integration()
        self.classifier = Classifier(classes)

    def forward(self, features: Features, clinical: Clinical) -> Logits:
        state = self.temporal_encoder(self.spatial_extractor(features))
        return self.classifier(self.integration(state, clinical))


class STIC(nn.Module):
    """The whole model, from grey images to logits.

    Args:
        backbone: frozen, in evaluation mode.
        head: what trains.
    """

    def __init__(self, backbone: Backbone, head: STICHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Images, clinical: Clinical) -> Logits:
        return self.head(extract(self.backbone, images), clinical)


def extract(backbone: Backbone, images: Images) -> Features:
    """Each phase's feature map."""
    phases, size = len(images) * 3, images.shape[-2:]
    maps = backbone(images.reshape(phases, 1, *size))
    return maps.reshape(len(images), 3, *maps.shape[1:])


def build_head(
    *, channels: int, classes: int, seed: int, recurrent_activation: Recurrent = "sigmoid"
) -> STICHead:
    """A head with fresh weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return STICHead(channels=channels, classes=classes, recurrent_activation=recurrent_activation)
