"""Pretrain the demo's backbone on phantom slices, with a task that is not the diagnosis.

    python scripts/pretrain_tiny.py --cache build/tiny --out stic_core/models/backbone_weights/tiny.safetensors

From one crop of one phase the network says what a radiographer could mark: where the liver
and the lesions lie, how much brighter or darker than the liver the lesion is from its middle
to its edge (which is also its rim), how patchy and how large it is, and which phase this is.
The answers are measured on the rendered slices before motion and noise; the class is drawn to
vary the images and is never shown. Seeds begin at 1,000,000, where no demo and no test goes,
and every patient comes from a scanner of its own, between and beyond those of the two centres.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from stic_core.config import TrainingConfig
from stic_core.data.ct import IMAGE_SIZE, PHASES, crop, resize, window
from stic_core.models.pretrained import FEATURE_GRID, TinyBackbone
from stic_core.phantom import (
    CENTRES,
    GENERATOR_VERSION,
    Centre,
    PhantomPatient,
    Scene,
    clean,
    draw_patient,
    render,
    scene,
)
from stic_core.phantom.lesion import SIGNS
from stic_core.phantom.shapes import depth
from stic_core.training.augmentation import sample_transforms, warp

FIRST_SEED = 1_000_000
CROP_MM = 160.0
RINGS = (0.0, 0.25, 0.5, 0.7, 0.85, 0.98)
"""Shares of the radius between which the lesion's contrast is averaged."""

MARKS = (*(f"contrast_{share}" for share in RINGS[1:]), "rim", "log_diameter", "patchiness")
MAPS = ("liver", "lesion", "contrast")
_HU = 20.0  # differences are given in units of this

FEATURE_SCALE = 0.015
"""Features leave the backbone scaled down by this.

Adam moves every weight of a head by about the learning rate whatever its gradient, so the 1,568
features a phase, at deviation 1, fit a hundred patients before the 20 clinical columns count
for anything. Macro AUC of `benchmarks/phantom_difficulty.py`, seeds 0 to 2, on which the scale
was also chosen: .91 at .25, .92 at .01 to .02.
"""


def random_centre(rng: np.random.Generator) -> Centre:
    """A scanner and protocol that no centre has, so that the backbone suits every one."""
    return replace(
        CENTRES["center1"],
        noise_hu=float(rng.uniform(5, 24)),
        kernel_mm=float(rng.uniform(1.2, 3.0)),
        blur_mm=float(rng.uniform(0.6, 1.4)),
        field_margin=(1.04, 1.3),
        iodine=(float(rng.uniform(0.6, 1.15)), 0.15),
        arterial_timing=(float(rng.uniform(-0.8, 0.8)), 0.3),
        portal_timing=(float(rng.uniform(-0.8, 0.8)), 0.3),
    )


def measure(patient: PhantomPatient, phase: str, *, drawn: Scene) -> tuple[np.ndarray, np.ndarray]:
    """What is true of the largest lesion in a phase: the marks, and three 7 x 7 maps."""
    hu = clean(patient, phase, drawn=drawn)
    alone = (drawn.liver > 0.95) & (drawn.lesion < 0.05)
    liver = float(np.median(hu[alone])) if alone.any() else patient.tissue["liver"][PHASES.index(phase)]
    lesion = patient.lesions[0]
    where = depth(lesion.outline, patient.grid)
    values = hu[where.window] - liver
    rings = [
        float(values[(where.share >= low) & (where.share < high)].mean()) / _HU
        for low, high in itertools.pairwise(RINGS)
    ]
    inside = where.share < RINGS[-1]
    spacing = patient.grid.pixel_mm
    place = patient.lesion_pixel("nc")

    def cells(values: np.ndarray) -> np.ndarray:
        part = crop(values.astype(np.float32), centre=place, side_mm=CROP_MM, spacing_mm=spacing)
        part = np.where(part < -900, 0, part)  # outside the slice
        return functional.adaptive_avg_pool2d(torch.from_numpy(part)[None], FEATURE_GRID)[0].numpy()

    marks = (
        *rings,
        max(rings[3:]) - rings[1],
        np.log(lesion.diameter_mm / 50),
        values[inside].std() / 10,
    )
    maps = (drawn.liver, drawn.lesion, drawn.lesion * np.clip(hu - liver, -60, 60) / _HU)
    return np.array(marks, dtype=np.float32), np.stack([cells(values) for values in maps])


def render_cache(path: Path, *, patients: int) -> None:
    """Render every slice once: crops, marks, maps and phases in one file."""
    crops = np.empty((patients * 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    marks = np.empty((patients * 3, len(MARKS)), dtype=np.float32)
    maps = np.empty((patients * 3, len(MAPS), FEATURE_GRID, FEATURE_GRID), dtype=np.float32)
    for number in range(patients):
        seed = FIRST_SEED + number
        centre = random_centre(np.random.default_rng(seed))
        patient = draw_patient(centre=centre, label=tuple(SIGNS)[number % len(SIGNS)], seed=seed, index=0)
        drawn = scene(patient)
        for step, phase in enumerate(PHASES):
            hu = render(patient, phase, drawn=drawn)
            part = crop(
                hu,
                centre=patient.lesion_pixel(phase),
                side_mm=CROP_MM,
                spacing_mm=patient.grid.pixel_mm,
            )
            row = number * 3 + step
            crops[row] = resize(window(part))
            marks[row], maps[row] = measure(patient, phase, drawn=drawn)
        if (number + 1) % 200 == 0:
            print(f"rendered {number + 1}/{patients}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, crops=crops, marks=marks, maps=maps)


class Pretext(nn.Module):
    """The backbone with the heads of the pretext task, which are thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = TinyBackbone()
        self.maps = nn.Conv2d(TinyBackbone.channels, len(MAPS), 1)
        self.marks = nn.Linear(TinyBackbone.channels, len(MARKS))
        self.phase = nn.Linear(TinyBackbone.channels, len(PHASES))

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps, marks and phase of crops (n, 1, 224, 224), 0 to 1."""
        features = self.backbone(grey)
        # Linear heads: what they can say, the classifier's linear layer can read as well.
        middle = features[:, :, 2:5, 2:5].mean((2, 3))
        return self.maps(features), self.marks(middle), self.phase(middle)


def train(path: Path, *, epochs: int, batch: int, seed: int) -> TinyBackbone:
    """Train on the cached crops; a tenth of the patients is held out to watch."""
    data = np.load(path)
    crops, marks, maps = (torch.from_numpy(data[name]) for name in ("crops", "marks", "maps"))
    phases = torch.arange(len(crops)) % len(PHASES)
    spread = marks.std(0)
    held = len(crops) // 30 * 3
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Pretext().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * ((len(crops) - held) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.15)
    augmentation = TrainingConfig()

    def losses(rows: Tensor, *, augment: bool) -> Tensor:
        grey = crops[rows][:, None].float() / 255
        truth = maps[rows]
        if augment:
            theta = sample_transforms(len(rows), config=augmentation, rng=rng)
            grey, truth = warp(grey, theta), warp(truth, theta)
        found_maps, found_marks, found_phase = model(grey.contiguous(memory_format=torch.channels_last))
        return torch.stack(
            [
                functional.smooth_l1_loss(found_maps, truth, beta=0.2),
                functional.smooth_l1_loss(found_marks / spread, marks[rows] / spread, beta=0.5),
                functional.cross_entropy(found_phase, phases[rows]),
            ]
        )

    weights = torch.tensor([4.0, 1.0, 0.2])
    for epoch in range(epochs):
        model.train()
        order = torch.from_numpy(rng.permutation(np.arange(held, len(crops))))
        total = torch.zeros(3)
        for start in range(0, len(order) - batch + 1, batch):
            parts = losses(order[start : start + batch], augment=True)
            optimiser.zero_grad(set_to_none=True)
            (parts * weights).sum().backward()
            optimiser.step()
            schedule.step()
            total += parts.detach()
        model.eval()
        with torch.inference_mode():
            seen = torch.stack(
                [losses(torch.arange(s, min(s + 64, held)), augment=False) for s in range(0, held, 64)]
            )
        print(
            f"epoch {epoch + 1}/{epochs}: maps, marks, phase {(total / (len(order) // batch)).tolist()}, "
            f"held out {seen.mean(0).tolist()}",
            flush=True,
        )
    return model.backbone


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the rendered crops")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=FIRST_SEED)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    path = arguments.cache / f"crops-{arguments.patients}.npz"
    if not path.exists():
        render_cache(path, patients=arguments.patients)
    backbone = train(path, epochs=arguments.epochs, batch=arguments.batch, seed=arguments.seed)
    # The last batch norm's scale and shift are the last two parameters.
    last = {name for name, _ in list(backbone.named_parameters())[-2:]}
    tensors = {
        name: (tensor * (FEATURE_SCALE if name in last else 1)).half().contiguous()
        if tensor.is_floating_point()
        else tensor
        for name, tensor in backbone.state_dict().items()
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        tensors,
        arguments.out,
        metadata={
            "script": "scripts/pretrain_tiny.py",
            "seeds": f"{FIRST_SEED} to {FIRST_SEED + arguments.patients - 1}",
            "epochs": str(arguments.epochs),
            "feature_scale": str(FEATURE_SCALE),
            "phantom_generator": str(GENERATOR_VERSION),
            "training_seed": str(arguments.seed),
            "note": "pretrained on phantom slices with a pretext task that is not the diagnosis",
        },
    )


if __name__ == "__main__":
    main()
