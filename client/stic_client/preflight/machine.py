"""The machine: room on the disk, the frozen backbone, and a trial of one batch on the device."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch

from stic_client.preflight.outcome import Check, worst
from stic_core.config import BackboneName, SiteConfig, TrainingConfig
from stic_core.data.ct import IMAGE_SIZE
from stic_core.data.dataset import SiteDataset
from stic_core.errors import UsageError, WeightsError
from stic_core.models.backbones import SHAPES
from stic_core.models.devices import computing_in, pick_device, pick_precision
from stic_core.models.pretrained import Backbone, backbone_digest, load_backbone
from stic_core.models.stic import extract
from stic_core.training.feature_cache import cache_bytes, to_images

VIEWS = TrainingConfig().views
"""Augmented views that a federation asks for unless it says otherwise."""

TRIAL_PATIENTS = {"cuda": 16, "cpu": 2}
"""A batch of features on a GPU is 16 patients; on a CPU two tell the pace as well."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A backbone whose weights are on this machine."""

    name: BackboneName
    backbone: Backbone
    digest: str


def check_backbone(config: SiteConfig, *, wanted: str | None) -> tuple[Installed | None, Check]:
    """Load the backbone that the federation will ask for.

    Args:
        wanted: its name, where the operator told it; else those that site.yaml names, else VGG16.

    Returns:
        The backbone to try the device with, None where there is none.

    Raises:
        UsageError: no such backbone.
    """
    known = get_args(BackboneName)
    names = [wanted] if wanted else sorted(config.backbone_weights) or ["vgg16"]
    if unknown := [name for name in names if name not in known]:
        raise UsageError("no such backbone", got=", ".join(unknown), expected=" or ".join(known))
    required = bool(wanted or config.backbone_weights)
    installed: list[Installed] = []
    parts: list[Check] = []
    for name in cast("list[BackboneName]", names):
        try:
            backbone = load_backbone(name, weights=config.backbone_weights.get(name))
        except WeightsError as error:
            # Which backbone the federation uses is not known here: its absence may not matter.
            found = error.what if required else f"{error.what}; needed if the federation uses {name}"
            parts.append(Check("backbone", "problem" if required else "warning", found, error.advice or _ASK))
        else:
            installed.append(Installed(name, backbone, backbone_digest(backbone)))
    found = ", ".join(f"{one.name} {one.digest[:12]}" for one in installed)
    return (installed[0] if installed else None), worst(
        "backbone", *parts, good=f"{found} (the digest is part of the protocol)"
    )


_ASK = "Ask the operator for the weights that the federation uses."


def check_disk(config: SiteConfig, dataset: SiteDataset | None, *, backbone: BackboneName) -> Check:
    """Is there room for the cached features?

    Args:
        backbone: whose features they will be.
    """
    place = _existing(config.dataset.prepared)
    free = shutil.disk_usage(place).free
    if dataset is None:
        return Check("disk", "skipped", f"{_gb(free)} free; what is needed follows from the prepared dataset")
    needed = cache_bytes(
        patients=len(dataset),
        train=len(dataset.indices("train")),
        channels=SHAPES[backbone].channels,
        grid=SHAPES[backbone].grid,
        views=VIEWS,
    )
    found = f"{_gb(free)} free, {_gb(needed)} for the features of {backbone} with {VIEWS} views"
    remedy = "Free some space, or set dataset.prepared in site.yaml to a folder on a larger disk and prepare again."
    if needed > config.cache_limit_gb * 1e9:
        return Check(
            "disk",
            "problem",
            f"{found}, more than cache_limit_gb {config.cache_limit_gb:g}",
            "Raise cache_limit_gb in site.yaml, or ask the operator for fewer views.",
        )
    # What is cached already is not subtracted: another federation's seed needs a cache of its own.
    if free < needed * 1.05:
        return Check("disk", "problem", found, remedy)
    if free < needed * 2:
        return Check("disk", "warning", found, remedy)
    return Check("disk", "ok", found)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.resolve().parents) if folder.is_dir())


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def check_device(config: SiteConfig, dataset: SiteDataset | None, *, installed: Installed | None) -> Check:
    """Run one batch through the backbone, as the features will be computed.

    Args:
        installed: None where no backbone could be loaded: the demo's, which comes with the
            package, still tells whether the device works.
    """
    device = pick_device(config.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        return Check(
            "device",
            "problem",
            f"site.yaml asks for {config.device}, but torch sees no GPU",
            "Install the GPU's driver, see what nvidia-smi says, or set device: auto in site.yaml.",
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        return Check(
            "device",
            "problem",
            f"site.yaml asks for {config.device}, but there are {torch.cuda.device_count()} GPUs",
            "Correct device in site.yaml; the first is cuda:0.",
        )
    what = _describe(device)
    installed = installed or Installed("tiny", load_backbone("tiny"), "")
    try:
        precision = pick_precision(config.precision, device, backbone=installed.name)
        seconds = _trial(installed.backbone, dataset, device=device, precision=precision)
    except RuntimeError as error:  # out of memory, and all that a driver may say, are RuntimeErrors
        memory = isinstance(error, torch.cuda.OutOfMemoryError)
        return Check(
            "device",
            "problem",
            f"{what}: the trial batch failed ({'out of memory' if memory else type(error).__name__})",
            "Use nvidia-smi to see what else uses the GPU, or set device: cpu in site.yaml."
            if device.type == "cuda"
            else "Close other programs: a batch needs about 2 GB of memory.",
        )
    found = f"{what}: {seconds:.2g} s per patient with {installed.name} in {str(precision).removeprefix('torch.')}"
    if dataset is not None:
        slices = len(dataset) + VIEWS * len(dataset.indices("train"))
        found += f", so {_duration(seconds * slices)} for all features, once"
    return Check("device", "ok", found)


def _describe(device: torch.device) -> str:
    if device.type != "cuda":
        return f"CPU, {torch.get_num_threads()} thread{'' if torch.get_num_threads() == 1 else 's'}"
    free, total = torch.cuda.mem_get_info(device)
    return f"{torch.cuda.get_device_name(device)}, {_gb(free)} of {_gb(total)} free"


def _trial(
    backbone: Backbone, dataset: SiteDataset | None, *, device: torch.device, precision: torch.dtype
) -> float:
    """Seconds a patient for features, after a first patient that warms up."""
    count = TRIAL_PATIENTS[device.type]
    shape = (count, IMAGE_SIZE, IMAGE_SIZE, 3)
    batch = np.zeros(shape, np.uint8) if dataset is None else np.resize(dataset.images[:count], shape)
    backbone = backbone.to(device)
    with torch.inference_mode(), computing_in(precision, device):
        extract(backbone, to_images(batch[:1], device)).cpu()
        began = time.perf_counter()
        extract(backbone, to_images(batch, device)).cpu()
        return (time.perf_counter() - began) / count


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
