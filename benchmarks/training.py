"""Patients a second: building features, training with and without the cache, prediction.

    python benchmarks/training.py [--backbone vgg16] [--batches 3]

Random images and random backbone weights: speed does not depend on either. Whole epochs are
reckoned from a few steps; an epoch is 499 patients, the paper's centre 1. `plain` is the
obvious port of the authors' code: three grey copies a phase, frozen parameters, float32,
layout as torch has it by default. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from stic_core.config import ImageConfig, ModelConfig, TrainingConfig
from stic_core.data.dataset import SiteDataset, Split, write_dataset
from stic_core.models.backbones import Backbone, build_backbone
from stic_core.models.devices import pick_precision
from stic_core.models.stic import Network, build_head, extract
from stic_core.tasks import TASKS
from stic_core.training.augmentation import sample_transforms, to_images, warp
from stic_core.training.batches import FeatureBatches, image_batches_of
from stic_core.training.setup import ComputeConfig, assemble
from stic_core.training.trainer import Trainer

PATIENTS = 499
TASK = TASKS["malignant"]


def seconds(work: Callable[[], object], *, repeats: int, device: torch.device) -> float:
    """Shortest wall time of a piece of work, after one that does not count; others share the machine."""
    times = []
    for number in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            times.append(time.perf_counter() - began)
    return min(times)


def random_dataset(folder: Path, *, patients: int, seed: int = 0) -> SiteDataset:
    """A prepared dataset of noise, all of it to train on."""
    rng = np.random.default_rng(seed)
    splits: list[Split] = ["train"] * patients
    labels = [TASK.classes[number % len(TASK.classes)] for number in range(patients)]
    return write_dataset(
        folder,
        images=(rng.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8) for _ in range(patients)),
        clinical=(rng.random((patients, 20)) < 0.3).astype(np.float32),
        labels=labels,
        splits=splits,
        subjects=[f"P{number}" for number in range(patients)],
        image=ImageConfig(),
        phantom=True,
    )


class Plain:
    """One training step as a plain port would do it, for comparison; the same head and optimiser."""

    def __init__(self, backbone: Backbone, *, device: torch.device) -> None:
        self.backbone = backbone.to(device).eval()
        self.head = build_head(channels=backbone.channels, classes=3, seed=0, grid=backbone.grid).to(device)
        self.optimiser = torch.optim.AdamW(self.head.parameters(), lr=1e-3)
        self.device = device

    def step(self, images: torch.Tensor, clinical: torch.Tensor, target: torch.Tensor) -> None:
        """Forward through three copies of each phase, loss, step of the head."""
        images = images.contiguous()
        parts = [self.backbone(torch.cat([images[:, phase : phase + 1]] * 3, dim=1)) for phase in range(3)]
        loss = functional.cross_entropy(self.head(torch.stack(parts, dim=1), clinical), target)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


def measure(  # noqa: PLR0915 - a figure after the other
    name: str, *, device: torch.device, batches: int, batch_size: int, work: Path, skip_plain: bool
) -> dict[str, Any]:
    """Every figure on one device."""
    weights = work / f"{name}.safetensors"
    torch.manual_seed(0)
    random = build_backbone(name)  # pyright: ignore[reportArgumentType] - checked by the command line
    save_file(random.state_dict(), weights)
    model = ModelConfig.model_validate({"backbone": name})
    training = TrainingConfig(batch_size=batch_size, views=1)
    compute = ComputeConfig(device, weights=weights)
    dtype = pick_precision("auto", device, backbone=name)
    rng = np.random.default_rng(0)

    # Features of a few patients, and an epoch over the cached features of 499 (tiled: as many bytes to read).
    small = random_dataset(work / "small", patients=batch_size)
    setup = assemble(small, model=model, training=training, task=TASK, seed=0, compute=compute)
    network: Network = setup.network

    def build() -> None:
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            features = extract(network.backbone, to_images(small.images[:16], device))
            features.to("cpu", torch.float16).numpy()

    building = seconds(build, repeats=batches, device=device) / 16
    print(f"  features {1 / building:.2f} patients/s", flush=True)

    first = next(setup.batches["train"].plain(batch_size=batch_size, device=device))[0].cpu().numpy()
    views = np.memmap(work / "views.f16", dtype=np.float16, mode="w+", shape=(PATIENTS, *first.shape[1:]))
    for start in range(0, PATIENTS, batch_size):
        views[start : start + batch_size] = first[: PATIENTS - start]
    views.flush()
    trainer = Trainer(network.head, cached_examples(views, rng), config=training, seed=[0], device=device)
    cached_epoch = seconds(lambda: trainer.run(1), repeats=10, device=device)
    print(f"  cached epoch {cached_epoch:.3f} s", flush=True)

    # Steps without the cache: augmentation, frozen backbone, head.
    images = image_batches_of(small, split="train", task=TASK, augmentation=training)
    uncached = Trainer(network, images, config=training, seed=[0], device=device)
    uncached_step = seconds(lambda: uncached.run(1), repeats=batches, device=device)
    uncached_epoch = uncached_step * PATIENTS / batch_size
    print(f"  uncached epoch {uncached_epoch:.1f} s", flush=True)
    reading = seconds(
        lambda: [small.images[images.rows[part]] for part in [rng.permutation(batch_size)]],
        repeats=5,
        device=device,
    )
    out: dict[str, Any] = {
        "device": describe(device),
        "dtype": str(dtype).removeprefix("torch."),
        "patients_per_second": {
            "feature_building": round(1 / building, 2),
            "cached_training": round(PATIENTS / cached_epoch, 1),
            "uncached_training": round(PATIENTS / uncached_epoch, 2),
        },
        "seconds": {
            "cached_epoch": round(cached_epoch, 3),
            "uncached_epoch": round(uncached_epoch, 1),
            "reading_a_batch": round(reading, 5),
            "uncached_step": round(uncached_step, 3),
        },
        "loading_share_of_a_step": round(reading / uncached_step, 4),
        "cached_over_uncached": round(uncached_epoch / cached_epoch, 1),
        # Building K + 1 views costs (K + 1) times 499 patients, once.
        "break_even_epochs": {
            f"{k}_views": round((k + 1) * PATIENTS * building / (uncached_epoch - cached_epoch), 2)
            for k in (0, 8)
        },
    }

    network.eval()
    for size in (1, 32):
        batch = to_images(small.images[np.arange(size) % batch_size], device)
        clinical = torch.zeros(size, 20, device=device)

        def forward(batch: torch.Tensor = batch, clinical: torch.Tensor = clinical) -> None:
            with torch.inference_mode():
                network(batch, clinical).softmax(1).cpu()

        took = seconds(forward, repeats=batches, device=device)
        out["patients_per_second"][f"prediction_batch_{size}"] = round(size / took, 2)

    # The whole backbone trains: forward and backward through everything.
    tuned = ModelConfig.model_validate({"backbone": name, "trainable_blocks": "all"})
    whole = assemble(small, model=tuned, training=training, task=TASK, seed=0, compute=compute)
    fine = Trainer(whole.module, whole.batches["train"], config=training, seed=[0], device=device)
    fine_step = seconds(lambda: fine.run(1), repeats=max(1, batches // 2), device=device)
    out["patients_per_second"]["fine_tuning"] = round(batch_size / fine_step, 2)
    print(f"  prediction and fine-tuning {out['patients_per_second']}", flush=True)
    del whole, fine

    if not skip_plain:
        theta = sample_transforms(batch_size, config=training, rng=rng)
        batch = warp(to_images(small.images[:batch_size], device), theta)
        clinical = torch.zeros(batch_size, 20, device=device)
        target = torch.tensor([TASK.index(label) for label in small.labels]).to(device)
        plain_backbone = build_backbone(name, colour=True)  # pyright: ignore[reportArgumentType]
        plain_backbone.requires_grad_(requires_grad=False)
        port = Plain(plain_backbone, device=device)
        took = seconds(
            lambda: port.step(batch, clinical, target), repeats=max(1, batches // 2), device=device
        )
        out["seconds"]["plain_step"] = round(took, 3)
        out["plain_over_uncached"] = round(took / uncached_step, 2)
        print(f"  plain step {took:.1f} s", flush=True)
    return out


def cached_examples(views: np.ndarray, rng: np.random.Generator) -> FeatureBatches:
    """499 patients over cached features."""
    return FeatureBatches(
        (views, views),
        (rng.random((PATIENTS, 20)) < 0.3).astype(np.float32),
        rng.integers(0, 3, PATIENTS),
    )


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--batches", type=int, default=3, help="steps a figure; the shortest counts")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--skip-plain", action="store_true", help="leave the plain port out")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    results = []
    for device in devices:
        print(describe(device), flush=True)
        with tempfile.TemporaryDirectory() as work:
            results.append(
                measure(
                    arguments.backbone,
                    device=device,
                    batches=arguments.batches,
                    batch_size=arguments.batch_size,
                    work=Path(work),
                    skip_plain=arguments.skip_plain,
                )
            )
    print(
        json.dumps(
            {
                "backbone": arguments.backbone,
                "patients": PATIENTS,
                "batch_size": arguments.batch_size,
                "torch": torch.__version__,
                "results": results,
            }
        )
    )


if __name__ == "__main__":
    main()
