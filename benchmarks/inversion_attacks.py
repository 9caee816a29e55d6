"""What a curious server tries with one update: closed forms, and dummy patients whose gradient matches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from stic_core.models.stic import HIDDEN

Tensors = Mapping[str, Tensor]
"""By parameter name."""

RATE = 1e-3
BOUND, SIGMA = 1.0, 1.0
"""Norm at which a patient's gradient is cut, and the noise's deviation in units of it."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What leaves a site.

    Args:
        patients, steps: of the round, all patients in each step.
        kind: `gradient` is plain descent, the textbook's case; `adam` is the product's optimiser; `dp` is that
            with each patient's gradient cut and Gaussian noise on the sum; `masked` is a masked update.
    """

    kind: str
    patients: int
    steps: int


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """What trains."""
    return {name: one.detach().clone() for name, one in module.named_parameters() if one.requires_grad}


def gradients(
    module: nn.Module,
    weights: Tensors,
    inputs: Tensor,
    clinical: Tensor,
    labels: Tensor,
    *,
    graph: bool = False,
) -> dict[str, Tensor]:
    """Of the mean cross-entropy; with `graph` they can be differentiated again."""
    leaves = {name: one.detach().requires_grad_() for name, one in weights.items()}
    loss = functional.cross_entropy(functional_call(module, leaves, (inputs, clinical)), labels)
    found = torch.autograd.grad(loss, list(leaves.values()), create_graph=graph)
    return dict(zip(leaves, found, strict=True))


def _noisy(
    module: nn.Module,
    weights: Tensors,
    inputs: Tensor,
    clinical: Tensor,
    labels: Tensor,
    *,
    noise: torch.Generator,
) -> dict[str, Tensor]:
    """The Gaussian mechanism on patients' gradients (Abadi et al. 2016)."""

    def loss(leaves: dict[str, Tensor], x: Tensor, c: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(module, leaves, (x[None], c[None])), y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0))(dict(weights), inputs, clinical, labels)
    norms = torch.stack([one.flatten(1).norm(dim=1) for one in each.values()]).norm(dim=0)
    kept = (BOUND / norms).clamp(max=1.0)
    return {
        name: (
            torch.einsum("n,n...->...", kept, one)
            + SIGMA * BOUND * torch.randn(one.shape[1:], generator=noise)
        )
        / len(labels)
        for name, one in each.items()
    }


def update_of(
    module: nn.Module, arm: Arm, inputs: Tensor, clinical: Tensor, labels: Tensor, *, seed: int
) -> dict[str, Tensor]:
    """What the server sees, with the other sign: where training went, seen from behind."""
    before = parameters_of(module)
    noise = torch.Generator().manual_seed(seed)
    if arm.kind == "masked":
        ring = np.random.default_rng(seed)
        return {
            name: torch.from_numpy(
                (ring.integers(0, 2**32, one.numel(), dtype=np.uint32).view(np.int32) / 2.0**31).astype(
                    np.float32
                )
            ).reshape(one.shape)
            for name, one in before.items()
        }
    weights = {name: one.clone() for name, one in before.items()}
    optimiser = (
        torch.optim.SGD(list(weights.values()), lr=RATE)
        if arm.kind == "gradient"
        else torch.optim.AdamW(list(weights.values()), lr=RATE, weight_decay=0.0)
    )
    for _ in range(arm.steps):
        if arm.kind == "dp":
            found = _noisy(module, weights, inputs, clinical, labels, noise=noise)
        else:
            found = gradients(module, weights, inputs, clinical, labels)
        for name, one in weights.items():
            one.grad = found[name]
        optimiser.step()
    return {name: before[name] - weights[name] for name in before}


# ---- closed forms for one patient --------------------------------------------------------------


def clinical_of_one(update: Tensors, *, prefix: str = "") -> Tensor:
    """The clinical columns of one patient, (20,): a column that is 0 has no gradient, so its weights stay."""
    moved = update[f"{prefix}classifier.output.weight"][:, HIDDEN:].abs().sum(dim=0)
    return (moved > 1e-9).float()


def features_of_one(update: Tensors) -> Tensor:
    """What one patient gave a first linear layer: the gradient of a row of weights over that of its bias."""
    weight, bias = update["first.weight"], update["first.bias"]
    row = bias.abs().argmax()
    return weight[row] / bias[row]


def span_of_one(update: Tensors, features: Tensor) -> float:
    """How much of one patient's features lies in three directions of the update, as a cosine.

    The gradient of a layer that all three phases share is a sum of three products: its rows are mixtures of the
    three feature maps, and nothing else.

    Args:
        features: (3, channels, grid, grid), the truth.
    """
    weight = update["spatial_extractor.project.weight"].flatten(1).double()
    rows = torch.linalg.svd(weight, full_matrices=False).Vh[:3]
    flat = features.flatten(1).double()
    return float(functional.cosine_similarity(flat @ rows.T @ rows, flat, dim=1).mean())


# ---- matching ---------------------------------------------------------------------------------


def _seen(found: Tensors, *, signs: bool) -> list[Tensor]:
    """Gradients as an update shows them: Adam's first steps keep little more than signs."""
    if not signs:
        return list(found.values())
    return [one / (one.abs() + 0.1 * one.detach().square().mean().sqrt() + 1e-12) for one in found.values()]


def match(
    module: nn.Module,
    update: Tensors,
    *,
    signs: bool,
    labels: Tensor,
    inputs: Tensor,
    clinical: Tensor | None,
    steps: int,
    rate: float,
    variation: float = 0.0,
    box: bool = False,
    by_tensor: bool = True,
) -> tuple[Tensor, Tensor]:
    """Dummy patients whose gradient points where the update does (Geiping et al. 2020).

    Args:
        signs: the update is Adam's.
        labels: known to the attacker, the better case for it.
        inputs: first guess.
        clinical: known columns; None recovers them too.
        variation: weight of the images' total variation.
        box: keep inputs in 0 to 1 and descend by signs, as for images.
        by_tensor: weigh each tensor alike, so that small ones (clinical columns) count.

    Returns:
        Inputs, and clinical columns as probabilities.
    """
    weights = parameters_of(module)
    target = [update[name] for name in weights]
    x = inputs.clone().requires_grad_()
    c = torch.zeros(len(labels), 20, requires_grad=clinical is None)
    free = [x] if clinical is not None else [x, c]
    optimiser = torch.optim.Adam(free, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=rate / 20)
    for _ in range(steps):
        columns = clinical if clinical is not None else torch.sigmoid(c)
        found = _seen(gradients(module, weights, x, columns, labels, graph=True), signs=signs)
        if by_tensor:
            loss = torch.stack(
                [
                    1 - functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
                    for a, b in zip(found, target, strict=True)
                ]
            ).mean()
        else:
            flat = [torch.cat([one.flatten() for one in part]) for part in (found, target)]
            loss = 1 - functional.cosine_similarity(flat[0], flat[1], dim=0)
        if variation:
            loss = loss + variation * (x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean())
        moves = torch.autograd.grad(loss, free)
        for one, move in zip(free, moves, strict=True):
            one.grad = move.sign() if box else move
        optimiser.step()
        schedule.step()
        if box:
            with torch.no_grad():
                x.clamp_(0, 1)
    return x.detach(), (clinical if clinical is not None else torch.sigmoid(c)).detach()


def image_of_features(
    backbone: Callable[[Tensor], Tensor], features: Tensor, *, steps: int, start: Tensor
) -> Tensor:
    """Images whose features are these, through the public frozen backbone (Mahendran and Vedaldi 2015).

    Args:
        features: (p, channels, grid, grid).
        start: (p, 1, h, w) first guess.
    """
    x = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=0.002)
    for _ in range(steps):
        loss = (backbone(x) - features).square().sum() / features.square().sum()
        loss = loss + 0.3 * (x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return x.detach()


# ---- measures ---------------------------------------------------------------------------------


def paired(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """For each true patient the guess that is taken for it: the best pairing by cosine, which favours the attacker."""
    a, b = (one.reshape(len(one), -1) for one in (found, truth))
    a, b = (one / (np.linalg.norm(one, axis=1, keepdims=True) + 1e-12) for one in (a, b))
    rows, columns = linear_sum_assignment(-(b @ a.T))
    return columns[np.argsort(rows)]


def cosine(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean cosine of patients, row by row."""
    a, b = (one.reshape(len(one), -1).astype(np.float64) for one in (found, truth))
    return float(np.mean((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) + 1e-12)))


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean over patients, dB, for values of 0 to 1."""
    errors = np.square(found - truth).reshape(len(truth), -1).mean(axis=1)
    return float(np.mean(-10 * np.log10(errors + 1e-12)))


def ssim(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean structural similarity (Wang et al. 2004) of (n, 3, h, w) for values of 0 to 1; Gaussian of 1.5 pixels."""

    def smooth(one: np.ndarray) -> np.ndarray:
        return gaussian_filter(one, sigma=(0, 0, 1.5, 1.5), truncate=3.5)

    a, b = found.astype(np.float64), truth.astype(np.float64)
    ma, mb = smooth(a), smooth(b)
    va, vb, ab = smooth(a * a) - ma**2, smooth(b * b) - mb**2, smooth(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * ma * mb + c1) * (2 * ab + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())
