"""The paper's augmentation on the device that trains: one rotation, shift and zoom for all three phases.

Drawing stands apart from applying: what is drawn is a matrix, and depends on the generator alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stic_core.config import TrainingConfig
from stic_core.tensors.torch_types import Images


def to_images(batch: np.ndarray, device: torch.device) -> Images:
    """Prepared images (n, h, w, 3; 0 to 255) as the model takes them (n, 3, h, w; 0 to 1).

    They cross to the device as bytes: a quarter of what floats would take.
    """
    # A copy: the dataset is mapped read-only, which torch does not take.
    tensor = torch.from_numpy(np.array(batch))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255


def sample_transforms(count: int, *, config: TrainingConfig, rng: np.random.Generator) -> Tensor:
    """Random rotation, shift and zoom, as (count, 2, 3) matrices for `torch.affine_grid`."""
    angle = np.deg2rad(rng.uniform(-config.rotation_degrees, config.rotation_degrees, count))
    zoom = rng.uniform(1 - config.zoom, 1 + config.zoom, count)
    shift = 2 * rng.uniform(-config.shift, config.shift, (count, 2))  # the grid spans -1 to 1
    theta = np.empty((count, 2, 3))
    theta[:, 0, 0], theta[:, 0, 1] = zoom * np.cos(angle), -zoom * np.sin(angle)
    theta[:, 1, 0], theta[:, 1, 1] = zoom * np.sin(angle), zoom * np.cos(angle)
    theta[:, :, 2] = shift
    return torch.from_numpy(theta).float()


def warp(images: Images, theta: Tensor) -> Images:
    """The same transform for all three phases of a patient; what comes in from outside repeats the edge."""
    grid = functional.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
