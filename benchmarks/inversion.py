"""What a curious server gets out of one update: gradient inversion on phantoms, with and without protection.

    python benchmarks/inversion.py [--out benchmarks/results/inversion.json] [--picture docs/images/inversion.png]

One hospital's update of one round: 1, 4 or 16 patients, all of them in each of 1 or 10 local steps, from
the first round's weights, with the demo's backbone frozen (features and clinical columns are recovered) or
training (images of 64 x 64 pixels are, which the backbone turns into maps of 2 x 2). The attacker knows the
model, the weights before, the labels, and what phantoms look like in general; the same attack is tried on
every arm. Each figure stands beside what the attacker has without any update: the mean of other patients.
Training takes plain views here, without augmentation, which favours the attacker. Iterations are few (one
CPU core, minutes in all), so figures are what this attack achieved and no bound on better ones.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inversion_attacks import (
    BOUND,
    SIGMA,
    Arm,
    clinical_of_one,
    cosine,
    features_of_one,
    image_of_features,
    match,
    paired,
    psnr,
    span_of_one,
    ssim,
    update_of,
)
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from stic_core.config import ModelConfig
from stic_core.data.clinical import encode
from stic_core.models.stic import Network, build_head, extract, network_of
from stic_core.phantom.centres import CENTRES
from stic_core.phantom.patient import draw_patient
from stic_core.phantom.prepared import image_of

CLASSES = ("HCC", "ICC", "META")
COUNTS, OTHERS = (1, 4, 16), 16
DELTA = 1e-3
STEPS = {"features": 200, "true image": 300, "image": 50}
"""Iterations of the attacks on features, on an image from the true features, and from recovered ones."""

TRUE = "true features"
SMALL = 64
IMAGE_STEPS = {1: 200, 4: 60, 16: 20}
"""Iterations of the attack on images, by patients: about the same time for each."""


CAPTIONS = ["1 patient, 1 step,\nplain gradient", "16 patients, 10 steps,\nAdam"]
EXACT = "1 patient, 1 step,\nexact features"
"""Above the image from the true features, which one patient's plain gradient gives."""


@dataclass(frozen=True, slots=True)
class Patients:
    """Phantoms: those who train first, then others, of whom the attacker knows the mean.

    Args:
        images: (n, 3, 224, 224), 0 to 1.
        clinical: (n, 20).
        labels: (n,).
    """

    images: Tensor
    clinical: Tensor
    labels: Tensor


def draw(count: int, *, seed: int) -> Patients:
    """Phantom patients of the demo's first centre, classes in turn."""
    centre = CENTRES["center1"]
    patients = [draw_patient(centre=centre, label=CLASSES[i % 3], seed=seed, index=i) for i in range(count)]
    images = np.stack([image_of(one, crop_mm=160.0) for one in patients]).astype(np.float32) / 255
    return Patients(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.concatenate([encode(one.clinical) for one in patients]).astype(np.float32)),
        torch.tensor([i % 3 for i in range(count)]),
    )


def network(architecture: str, *, trains: bool, small: bool = False) -> Network:
    """The demo's model in evaluation mode, with fresh head weights; `small` takes images of 64 x 64 pixels."""
    config = ModelConfig.model_validate(
        {
            "architecture": architecture,
            "backbone": "tiny",
            "trainable_blocks": "all" if trains else 0,
            "batch_norm": "frozen",
        }
    )
    found = network_of(config, classes=3, seed=7)
    if small:
        found.head = build_head(channels=found.backbone.channels, classes=3, seed=7, grid=SMALL // 32)
    return found.eval()


def epsilon(steps: int) -> float:
    """What the noise is worth, by Opacus' accountant: every patient in every step."""
    from opacus.accountants import RDPAccountant

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best order lies at the end of its list
        accountant = RDPAccountant()
        accountant.history = [(SIGMA, 1.0, steps)]
        return float(accountant.get_epsilon(delta=DELTA))


def arms() -> list[Arm]:
    """Kinds, patients, steps; a masked update is the same noise whatever made it."""
    plain = [Arm("gradient", n, 1) for n in COUNTS]
    adam = [Arm("adam", n, steps) for n in COUNTS for steps in (1, 10)]
    return [*plain, *adam, Arm("dp", 1, 1), Arm("dp", 16, 10), Arm("masked", 1, 1)]


def closed_forms(people: Patients) -> dict[str, Any]:
    """One patient: features from a first linear layer, clinical columns from the last one."""
    naive = network("naive-joint", trains=False)
    with torch.no_grad():
        features = extract(naive.backbone, people.images[:1], colour=True).float()
    known = people.clinical[:1], people.labels[:1]
    update = update_of(naive.head, Arm("gradient", 1, 1), features, *known, seed=1)
    out: dict[str, Any] = {
        "features, first layer with a bias (naive-joint), plain gradient": cosine(
            features_of_one(update)[None].numpy(), features.flatten(1).numpy()
        )
    }
    stic = network("stic", trains=False)
    with torch.no_grad():
        features = extract(stic.backbone, people.images).float()
    for arm in (one for one in arms() if one.patients == 1):
        right, span = [], []
        for i in range(len(people.labels)):
            one = slice(i, i + 1)
            update = update_of(
                stic.head, arm, features[one], people.clinical[one], people.labels[one], seed=i
            )
            span.append(span_of_one(update, features[i]))
            right.append((clinical_of_one(update) == people.clinical[i]).float().mean().item())
        out[f"clinical columns right, {arm.kind}, {arm.steps} step(s), mean of {len(right)} patients"] = (
            float(np.mean(right))
        )
        out[f"features within three directions of the update (stic), {arm.kind}, {arm.steps} step(s)"] = (
            float(np.mean(span))
        )
    return out


def frozen(people: Patients, others: Patients) -> tuple[list[dict[str, Any]], dict[Arm, Tensor]]:
    """What is recovered of features and clinical columns; and the first patient's features of each arm."""
    model = network("stic", trains=False)
    with torch.no_grad():
        truth, known = (extract(model.backbone, one.images).float() for one in (people, others))
    mean, spread = known.mean(dim=0), known.std()
    majority = (others.clinical.mean(dim=0) > 0.5).float()
    rows, first = [], {}
    for arm in arms():
        n = arm.patients
        update = update_of(model.head, arm, truth[:n], people.clinical[:n], people.labels[:n], seed=3)
        torch.manual_seed(5)
        found, columns = match(
            model.head,
            update,
            signs=arm.kind != "gradient",
            labels=people.labels[:n],
            inputs=mean + 0.3 * spread * torch.randn_like(truth[:n]),
            clinical=None,
            steps=STEPS["features"],
            rate=0.03,
        )
        order = paired((found - mean).numpy(), (truth[:n] - mean).numpy())
        bits = (columns[order] > 0.5).float() == people.clinical[:n]
        rows.append(
            asdict(arm)
            | {
                "feature_cosine": cosine((found[order] - mean).numpy(), (truth[:n] - mean).numpy()),
                "clinical_right": bits.float().mean().item(),
                "clinical_right_by_majority": (majority == people.clinical[:n]).float().mean().item(),
                "patients_with_all_columns_right": int(bits.all(dim=1).sum()),
            }
        )
        first[arm] = found[order[0]]
        print(json.dumps(rows[-1]), flush=True)
    return rows, first


def features_to_images(
    people: Patients, others: Patients, wanted: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Whether an image can be had back from features: from the true ones, and from recovered ones."""
    model = network("stic", trains=False)
    start = others.images.mean(dim=0)[:, None]
    truth, rows, pictures = people.images[:1].numpy(), {}, {}
    for name, features in wanted.items():
        steps = STEPS["true image" if name == TRUE else "image"]
        found = image_of_features(model.backbone, features, steps=steps, start=start)[:, 0][None].numpy()
        rows[name] = _image_figures(found, truth, mean=start[:, 0].numpy()) | {"iterations": steps}
        pictures[name] = found[0]
        print(name, rows[name], flush=True)
    return rows, pictures


def _image_figures(found: np.ndarray, truth: np.ndarray, *, mean: np.ndarray) -> dict[str, float]:
    """Of images, beside those of the mean of other patients."""
    guess = np.broadcast_to(mean, truth.shape)
    return {
        "psnr": psnr(found, truth),
        "ssim": ssim(found, truth),
        "psnr_of_the_mean": psnr(guess, truth),
        "ssim_of_the_mean": ssim(guess, truth),
        "image_cosine": cosine(found - mean, truth - mean),
    }


def unfrozen(people: Patients, others: Patients) -> tuple[list[dict[str, Any]], dict[Arm, np.ndarray]]:
    """What is recovered of images where the backbone trains; and the first patient's of each arm."""
    model = network("stic", trains=True, small=True)
    everyone, known = (functional.interpolate(one.images, SMALL, mode="area") for one in (people, others))
    mean = known.mean(dim=0)
    rows, first = [], {}
    for arm in arms():
        n = arm.patients
        truth = everyone[:n]
        update = update_of(model, arm, truth, people.clinical[:n], people.labels[:n], seed=3)
        torch.manual_seed(5)
        found, _ = match(
            model,
            update,
            signs=arm.kind != "gradient",
            labels=people.labels[:n],
            inputs=(mean + 0.02 * torch.randn_like(truth)).clamp(0, 1),
            clinical=people.clinical[:n],
            steps=IMAGE_STEPS[n],
            rate=0.02,
            variation=0.05,
            box=True,
            by_tensor=True,
        )
        order = paired((found - mean).numpy(), (truth - mean).numpy())
        rows.append(
            asdict(arm)
            | _image_figures(found[order].numpy(), truth.numpy(), mean=mean.numpy())
            | {"iterations": IMAGE_STEPS[n]}
        )
        first[arm] = found[order[0]].numpy()
        print(json.dumps(rows[-1]), flush=True)
    return rows, first


def draw_picture(path: Path, rows: list[tuple[str, list[tuple[str, np.ndarray]]]]) -> None:
    """The arterial phase of the first patient: one row per setting, a caption above each image."""
    side, gap, left, top = 176, 10, 118, 44
    wide = left + len(rows[0][1]) * (side + gap)
    sheet = Image.new("L", (wide, len(rows) * (side + top + gap) + 4), 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for r, (name, images) in enumerate(rows):
        y = r * (side + top + gap)
        pen.multiline_text((6, y + top + 6), name, fill=0, font=font)
        for column, (caption, image) in enumerate(images):
            x = left + column * (side + gap)
            pen.multiline_text((x, y + 6), caption, fill=0, font=font)
            grey = Image.fromarray((255 * np.clip(image[1], 0, 1)).astype(np.uint8)).resize((side, side))
            sheet.paste(grey, (x, y + top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def main() -> None:
    """Run everything, write the JSON and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/inversion.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/inversion.png"))
    parser.add_argument("--seed", type=int, default=11)
    chosen = parser.parse_args()
    began = time.perf_counter()
    everyone = draw(max(COUNTS) + OTHERS, seed=chosen.seed)
    parts = [slice(0, max(COUNTS)), slice(max(COUNTS), None)]
    people, others = (Patients(everyone.images[p], everyone.clinical[p], everyone.labels[p]) for p in parts)
    closed = closed_forms(people)
    print(json.dumps(closed, indent=1), flush=True)
    on_features, features = frozen(people, others)
    model = network("stic", trains=False)
    with torch.no_grad():
        true = extract(model.backbone, people.images[:1]).float()[0]
    shown = [Arm("gradient", 1, 1), Arm("adam", 16, 10), Arm("dp", 1, 1), Arm("masked", 1, 1)]
    wanted = {TRUE: true} | {str(asdict(arm)): features[arm] for arm in shown}
    back, pictures = features_to_images(people, others, wanted)
    on_images, images = unfrozen(people, others)
    document = {
        "what": "inversion of one update on phantoms; see benchmarks/inversion.py",
        "images": "160 mm around the lesion; 224 x 224 pixels with the backbone frozen, 64 x 64 where it trains",
        "seed": chosen.seed,
        "dp": {
            "max_grad_norm": BOUND,
            "noise_multiplier": SIGMA,
            "delta": DELTA,
            "epsilon": {"1 step": epsilon(1), "10 steps": epsilon(10)},
        },
        "one patient, closed forms": closed,
        "frozen backbone": on_features,
        "images from features": back,
        "training backbone": on_images,
        "seconds": round(time.perf_counter() - began),
        "torch": torch.__version__,
    }
    chosen.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    captions = [*CAPTIONS, f"1 patient, noise,\nepsilon {epsilon(1):.1f}", "masked"]
    small = functional.interpolate(people.images[:1], SMALL, mode="area")[0].numpy()
    of_features = [pictures[TRUE], *(pictures[str(asdict(arm))] for arm in shown[1:])]
    of_images = [images[arm] for arm in shown]
    draw_picture(
        chosen.picture,
        [
            (
                "frozen\nbackbone:\nfeatures, then\nan image",
                [
                    ("original", people.images[0].numpy()),
                    *zip([EXACT, *captions[1:]], of_features, strict=True),
                ],
            ),
            (
                "backbone\ntrains:\nimages",
                [("original,\n64 x 64 pixels", small), *zip(captions, of_images, strict=True)],
            ),
        ],
    )
    print(f"written: {chosen.out}, {chosen.picture}")


if __name__ == "__main__":
    main()
