"""A run folder as a federation of two phantom centres leaves it, drawn through the real evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from stic_core.config import PolicyConfig
from stic_core.evaluation import (
    HeldOutReport,
    PairedReport,
    as_json,
    evaluation_document,
    paired_report,
    site_report,
)
from stic_core.evaluation.readers.release import numbered, release
from stic_core.evaluation.readers.study import evaluate_readers
from support.samples import held_out

CLASSES = ("HCC", "ICC", "META")
SPLITS = {
    "center1": {"train": (120, 60, 60), "val": (14, 7, 7), "test": (24, 17, 17)},
    "center2": {"train": (60, 52, 48), "val": (10, 9, 9), "test": (20, 19, 18)},
}
TINY = {"train": (1, 0, 0), "val": (0, 0, 0), "test": (0, 1, 0)}
"""A third site with hardly a patient: what it cannot give must be said."""


Scores = dict[str, tuple[np.ndarray, np.ndarray]]
"""Logits and labels of one model on each site's held-out patients."""


def scores(skill: Mapping[str, float], *, seed: int, splits: dict[str, dict[str, tuple[int, ...]]]) -> Scores:
    """One model's logits; patients are the same for every model, and hard for all or for none."""
    found = {}
    for i, (site, parts) in enumerate(splits.items()):
        patients, labels = held_out(900 + i, parts["test"], skill=0.0)
        own, _ = held_out(seed + i, parts["test"], skill=0.0)
        logits = 0.8 * patients + 0.6 * own
        logits[np.arange(len(labels)), labels] += 1.3 * skill.get(site, 1.0)
        found[site] = (logits, labels)
    return found


def ensemble(models: Sequence[Scores]) -> Scores:
    """The mean of the models' probabilities, as logits."""
    return {
        site: (
            logsumexp([log_softmax(model[site][0], axis=1) for model in models], axis=0)
            - np.log(len(models)),
            labels,
        )
        for site, (_, labels) in models[0].items()
    }


def reports(
    model: Scores, *, policy: PolicyConfig, classes: Sequence[str] = CLASSES
) -> dict[str, HeldOutReport]:
    """One model's report of each site."""
    return {
        site: site_report(logits, labels, classes=classes, policy=policy)
        for site, (logits, labels) in model.items()
    }


def paired(
    first: Scores, second: Scores, *, policy: PolicyConfig, classes: Sequence[str] = CLASSES
) -> dict[str, PairedReport]:
    """The first model against the second, by site."""
    return {
        site: compared(first[site][0], second[site][0], labels, policy=policy, classes=classes)
        for site, (_, labels) in first.items()
    }


def compared(
    first: npt.NDArray[np.floating],
    second: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    *,
    policy: PolicyConfig,
    classes: Sequence[str] = CLASSES,
) -> PairedReport:
    """Two models' logits on the same patients, each of which left on its own before."""
    return paired_report(
        first,
        second,
        labels,
        classes=classes,
        policy=policy,
        released=(
            site_report(first, labels, classes=classes, policy=policy),
            site_report(second, labels, classes=classes, policy=policy),
        ),
    )


FEDERATED_SKILL = {"center1": 1.9, "center2": 1.7}


def write_reader_release(run: Path, path: Path, *, site: str = "center1", min_cell: int = 5) -> Path:
    """A site's exported reader study of a sample run: three readers and their consensus, drawn."""
    record, evaluation = (
        json.loads((run / name).read_text(encoding="utf-8")) for name in ("record.json", "evaluation.json")
    )
    logits, labels = scores(FEDERATED_SKILL, seed=1, splits=SPLITS)[site]
    truth = {f"p{i}": CLASSES[label] for i, label in enumerate(labels)}
    rng = np.random.default_rng(5)
    hard = rng.random(len(truth))

    def draw(skill: float) -> dict[str, str]:
        right = 0.6 * hard + 0.4 * rng.random(len(truth)) < skill
        other = rng.integers(1, len(CLASSES), len(truth))
        return {
            subject: name if right[i] else CLASSES[(CLASSES.index(name) + int(other[i])) % len(CLASSES)]
            for i, (subject, name) in enumerate(truth.items())
        }

    skills = {"A": (0.62, 0.76), "B": (0.7, 0.78), "C": (0.55, 0.72), "consensus": (0.72, 0.8)}
    study = evaluate_readers(
        {name: {"alone": draw(alone), "aided": draw(aided)} for name, (alone, aided) in skills.items()},
        model={f"p{i}": CLASSES[k] for i, k in enumerate(logits.argmax(axis=1))},
        truth=truth,
        classes=CLASSES,
    )
    found = release(
        study,
        policy=PolicyConfig(min_cell=min_cell),
        names=numbered(list(skills)),
        classes=CLASSES,
        site=site,
        run_id=record["run_id"],
        model_digest=evaluation["model_digest"],
        test_fingerprint=record["sites"][site]["test_fingerprint"],
        task=evaluation["task"],
        phantom=evaluation["phantom"],
    )
    path.write_text(found.model_dump_json(indent=1), encoding="utf-8")
    return path


def digest(text: str) -> str:
    """A hash that looks like one."""
    return hashlib.sha256(text.encode()).hexdigest()


def split_counts(counts: Sequence[int], *, classes: Sequence[str] = CLASSES) -> dict[str, object]:
    """Patients of one split as `record.json` has them."""
    n = sum(counts)
    few = {"suppressed": "fewer than 5 patients"}
    return {"n": n, "classes": few if 0 < n < 5 else dict(zip(classes, counts, strict=True))}


def write_sample_run(
    folder: Path,
    *,
    phantom: bool = True,
    tiny_site: bool = False,
    min_cell: int = 5,
    rounds: int = 20,
    simulated: bool = False,
    run_id: str = "20250607-101500-liver",
    skill: Mapping[str, float] = FEDERATED_SKILL,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """Write record.json, rounds.jsonl and evaluation.json into `folder`, and return it.

    Args:
        folder: made where it is missing.
        phantom: whether the data are phantoms.
        tiny_site: add a third site with one held-out patient and no validation patients.
        min_cell: the sites' policy.
        rounds: of the training; center2 drops out of round 7.
        simulated: add the model that a simulation trains on all patients in one place.
        run_id: names the run.
        skill: of the federated model at each site; other models and all patients stay as they are.
        classes: the first of `CLASSES`; patients of the others are left out.
    """
    splits = {
        site: {name: counts[: len(classes)] for name, counts in parts.items()}
        for site, parts in (SPLITS | ({"center3": TINY} if tiny_site else {})).items()
    }
    policy = PolicyConfig(min_cell=min_cell)
    models = {
        "federated": scores(skill, seed=1, splits=splits),
        "center1": scores({"center1": 1.5, "center2": 0.9}, seed=11, splits=splits),
        "center2": scores({"center1": 0.8, "center2": 1.3}, seed=21, splits=splits),
    }
    models["ensemble"] = ensemble([models["center1"], models["center2"]])
    if simulated:
        models["centralised"] = scores({"center1": 1.9, "center2": 1.8}, seed=41, splits=splits)
    evaluated = {name: reports(model, policy=policy, classes=classes) for name, model in models.items()}
    task = {2: "hcc-icc", 3: "malignant"}[len(classes)]
    document = evaluation_document(
        model_digest=digest("model"),
        task=task,
        classes=tuple(classes),
        phantom=phantom,
        federated=evaluated["federated"],
        local_only={site: evaluated[site] for site in ("center1", "center2")},
        extra={name: evaluated[name] for name in ("ensemble", "centralised") if name in models},
        paired={
            name: paired(models["federated"], model, policy=policy, classes=classes)
            for name, model in models.items()
            if name != "federated"
        },
    )
    lines = [_round(index, rounds=rounds, splits=splits) for index in range(1, rounds + 1)]
    best = min(lines, key=lambda line: line["val"]["pooled"]["loss"])["round"]
    record = {
        "schema": 1,
        "run_id": run_id,
        "name": "liver",
        "status": "complete",
        "started": "2025-06-07T10:15:00+00:00",
        "finished": "2025-06-07T10:17:41+00:00",
        "wall_seconds": 161.2,
        "config": {
            "name": "liver",
            "task": {"name": task, "classes": list(classes)},
            "rounds": rounds,
            "min_sites": 2,
            "model": {"architecture": "stic", "backbone": "tiny", "recurrent_activation": "sigmoid"},
            "training": {"batch_size": 32, "learning_rate": 0.001, "local_epochs": 1, "views": 8},
            "seed": 0,
        },
        "versions": {"stic-federated": "0.1.0", "python": "3.11.7", "torch": "2.8.0", "flwr": "1.41.0"},
        "seed": 0,
        "determinism": True,
        "phantom": phantom,
        "sites": {
            site: {
                "patients": {split: split_counts(n, classes=classes) for split, n in parts.items()},
                "fingerprint": digest(site),
                "test_fingerprint": digest(site + "test"),
                "phantom": phantom,
                "backbone_digest": digest("backbone"),
                "device": "cpu",
                "quarantined": 1 if site == "center2" else 0,
                "versions": {"stic-federated": "0.1.0", "torch": "2.8.0"},
            }
            for site, parts in splits.items()
        },
        "rounds": rounds,
        "best_round": best,
        "model_digest": digest("model"),
        "participation": {str(line["round"]): line["sites"] for line in lines},
        "local_only": {
            "center1": {"epochs": 20, "best_epoch": 9, "val_loss": 0.71},
            "center2": {"epochs": 20, "best_epoch": 12, "val_loss": 0.78},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "evaluation.json").write_text(json.dumps(as_json(document), indent=1), encoding="utf-8")
    return folder


def _round(index: int, *, rounds: int, splits: dict[str, dict[str, tuple[int, ...]]]) -> dict[str, Any]:
    rng = np.random.default_rng(index)
    sites = [site for site in splits if not (site == "center2" and index == min(7, rounds))]
    fall = float(np.exp(-index / 6))
    size = 12_908_028
    val, totals = {}, []
    for shift, (site, parts) in enumerate(splits.items()):
        n = sum(parts["val"])
        if n == 0 or site not in sites:
            continue
        loss = 0.55 + 0.5 * fall + 0.06 * shift + 0.006 * max(0, index - 13) + 0.02 * rng.normal()
        correct = round(n * (0.78 - 0.35 * fall - 0.03 * shift))
        val[site] = {"loss": loss, "accuracy": correct / n, "n": n}
        totals.append((n, loss * n, correct))
    n, loss, correct = (sum(column) for column in zip(*totals, strict=True))
    val["pooled"] = {"loss": loss / n, "accuracy": correct / n, "n": n}
    return {
        "round": index,
        "sites": sites,
        "seconds": 2.0 + 0.3 * rng.random() + (28.0 if index == min(7, rounds) else 0.0),
        "overhead_seconds": 0.6 + 0.2 * rng.random(),
        "bytes_down": size * len(splits),
        "bytes_up": sum(size - 40 * shift for shift, site in enumerate(splits) if site in sites),
        # What a site that dropped out was sent had left the server all the same.
        "bytes_by_site": {
            site: {"down": size, "up": (size - 40 * shift) * (site in sites)}
            for shift, site in enumerate(splits)
        },
        "update_norm": {
            site: 2.0 * fall + 0.2 + 0.1 * shift for shift, site in enumerate(splits) if site in sites
        },
        "train_loss": {
            site: 0.35 + 0.75 * fall + 0.07 * shift + 0.015 * float(rng.normal())
            for shift, site in enumerate(splits)
            if site in sites
        },
        "val": val,
    }
