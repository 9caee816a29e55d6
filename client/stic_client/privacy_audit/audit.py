"""The audit from a model's folder to figures; nothing is sent, and what is trained here is not kept.

Using held-out patients here is free: nothing of it leaves. A release is a look, counted before it leaves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from stic_client.participation.final_models import Expected, FinalModels
from stic_client.privacy_audit.outcome import AuditOutcome, Group
from stic_client.privacy_audit.page import render
from stic_client.privacy_audit.shadows import Shadows, together, train_shadows
from stic_core.config import SiteConfig, TrainingConfig
from stic_core.data.dataset import SiteDataset, load_dataset
from stic_core.errors import DataError, UsageError, WeightsError
from stic_core.models.devices import pick_device
from stic_core.models.saved import ModelDescription, SavedModel, read_model
from stic_core.privacy import looks
from stic_core.privacy.audit_release import AUDIT_NAME, ReleasedAudit, check_release, release_audit
from stic_core.privacy.looks import HeldOutLooks, Look
from stic_core.privacy.membership import attack, familiarity, likelihood_ratio, outside_mean
from stic_core.statistics import NotEstimable, margins
from stic_core.system.files import PRIVATE, write_atomically
from stic_core.tasks import Task
from stic_core.tensors.array_types import LabelVector, ScoreMatrix
from stic_core.training.batches import FeatureBatches
from stic_core.training.setup import ComputeConfig, TrainingSetup, assemble
from stic_core.training.trainer import predict

RESULT_FILE, PAGE_FILE = "privacy_audit.json", "privacy_audit.html"

ProgressOf = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Patients:
    """Training patients first, then held-out ones.

    Args:
        names: what stands for them in the ledger of looks.
        logits: of the audited model.
    """

    names: tuple[str, ...]
    member: np.ndarray
    labels: LabelVector
    logits: ScoreMatrix

    @property
    def held_out(self) -> tuple[str, ...]:
        return tuple(name for name, inside in zip(self.names, self.member, strict=True) if not inside)


def audit_model(
    config: SiteConfig,
    *,
    model: Path,
    out: Path,
    shadow_models: int = 16,
    release: bool = False,
    progress: ProgressOf | None = None,
    note: Callable[[str], None] | None = None,
) -> AuditOutcome:
    """Attack a model with this site's patients, and write `privacy_audit.json` and `privacy_audit.html`.

    Args:
        model: a model's folder.
        out: folder for the two files.
        shadow_models: how many are trained for the likelihood ratio, an even number; 0 leaves it out.
        release: let the three figures leave with the next run's description of this site.
        progress: told what is done, how far, of how much.
        note: told what is worth a line.

    Raises:
        DataError: no model, no prepared dataset, or no training or no held-out patients of the model's classes.
        UsageError: a release that the site's policy or the dataset's history does not allow.
        PlanRefusedError: a release beyond the budget of looks.
        WeightsError: another backbone than the model's.
    """
    tell = progress or _silent
    saved = read_model(model)
    about = saved.description
    dataset = load_dataset(config.dataset.prepared)
    task = Task(name=about.task, classes=about.classes)
    _check(dataset, about, task=task)
    known = FinalModels(config.models)
    run = known.run_of(about.digest)
    expected = None if run is None else known.expected(run)
    notes = _notes(dataset, expected)
    if release:
        _check_may_release(config, notes)
    setup = _setup(config, saved, dataset, task=task, expected=expected, tell=tell, note=note)
    patients = _patients(setup, dataset, task=task)
    seed = int.from_bytes(hashlib.sha256(f"{about.digest}{dataset.fingerprint}".encode()).digest()[:4], "big")
    shadows = _shadows(
        setup,
        patients,
        about,
        training=expected.plan.training if expected else TrainingConfig(),
        pairs=shadow_models // 2,
        seed=seed,
        tell=tell,
    )
    outcome = _attack(config.site, about, patients, shadows=shadows, seed=seed)
    outcome = replace(outcome, notes=notes, phantom=dataset.phantom, run_id=about.run_id)
    if release:
        outcome = replace(outcome, released=_release(config, outcome, patients))
    write_atomically(
        out / RESULT_FILE, json.dumps(outcome.document(), indent=1, allow_nan=False) + "\n", mode=PRIVATE
    )
    write_atomically(out / PAGE_FILE, render(outcome), mode=PRIVATE)
    return outcome


def _silent(what: str, done: int, total: int) -> None:
    """Shows nothing."""


def _check(dataset: SiteDataset, about: ModelDescription, *, task: Task) -> None:
    if dataset.image != about.image:
        raise DataError(
            "the site's images were not prepared as the model's were",
            got=f"crop_mm: {dataset.image.crop_mm}",
            expected=f"crop_mm: {about.image.crop_mm}",
            advice="Set dataset.image.crop_mm in site.yaml and prepare again.",
        )
    counts = {split: len(dataset.indices(split, task)) for split in ("train", "test")}
    if not all(counts.values()):
        raise DataError(
            "an audit compares training patients with held-out ones",
            got=f"{counts['train']} training and {counts['test']} held-out patients of the model's classes",
            expected="at least one of each, and some tens for an answer",
        )


def _notes(dataset: SiteDataset, expected: Expected | None) -> tuple[str, ...]:
    """What may make the figures wrong."""
    if expected is None:
        unknown = (
            "this site has no record of the run that trained the model: if the training patients of the prepared "
            "dataset were not in that run, finding nothing means nothing"
        )
        return (unknown,)
    if expected.fingerprint not in {None, dataset.fingerprint}:
        changed = (
            "the dataset was prepared anew since the run that trained the model: some of those who are called "
            "training patients here may not have been in it"
        )
        return (changed,)
    return ()


def _check_may_release(config: SiteConfig, notes: Sequence[str]) -> None:
    if "privacy-audit" not in config.policy.release:
        raise UsageError(
            "this site's policy does not release a privacy audit",
            got=f"policy.release: [{', '.join(config.policy.release)}]",
            expected="privacy-audit in it",
            advice="Add it in site.yaml if three figures about this model may stand in the next report.",
        )
    if notes:
        raise UsageError(
            "the audit's figures cannot be released", got=notes[0], advice="Leave out --release."
        )


def _setup(
    config: SiteConfig,
    saved: SavedModel,
    dataset: SiteDataset,
    *,
    task: Task,
    expected: Expected | None,
    tell: ProgressOf,
    note: Callable[[str], None] | None,
) -> TrainingSetup:
    """The model with its patients; of a run that is known, with the features that were cached for it."""
    about = saved.description
    setup = assemble(
        dataset,
        model=about.architecture,
        training=expected.plan.training if expected else TrainingConfig(views=0),
        task=task,
        seed=expected.plan.seed if expected else 0,
        compute=ComputeConfig(
            pick_device(config.device),
            precision=config.precision,
            weights=config.backbone_weights.get(about.architecture.backbone),
            cache_limit_bytes=int(config.cache_limit_gb * 1e9),
            progress=lambda done, total: tell("backbone features", done, total),
            announce=lambda size: (
                note(f"backbone features take {size / 1e6:.0f} MB on disk, computed once") if note else None
            ),
        ),
    )
    if about.backbone_digest not in {None, setup.backbone_digest}:
        raise WeightsError(
            f"the weights of backbone {about.architecture.backbone} on this machine differ from the model's",
            got=setup.backbone_digest[:12],
            expected=(about.backbone_digest or "")[:12],
            advice="Under backbone_weights, give the file that the federation used.",
        )
    setup.load_weights(saved.weights)
    return setup


def _patients(setup: TrainingSetup, dataset: SiteDataset, *, task: Task) -> _Patients:
    rows = [dataset.indices(split, task) for split in ("train", "test")]
    logits = [predict(setup.module, setup.batches[split], device=setup.device) for split in ("train", "test")]
    return _Patients(
        looks.patients_of(dataset.subjects[row] for row in np.concatenate(rows)),
        np.arange(sum(map(len, rows))) < len(rows[0]),
        np.concatenate([setup.batches["train"].labels, setup.batches["test"].labels]),
        np.concatenate(logits),
    )


def _shadows(
    setup: TrainingSetup,
    patients: _Patients,
    about: ModelDescription,
    *,
    training: TrainingConfig,
    pairs: int,
    seed: int,
    tell: ProgressOf,
) -> Shadows | NotEstimable:
    train, held_out = setup.batches["train"], setup.batches["test"]
    if not pairs:
        return NotEstimable("no shadow models were asked for")
    if not isinstance(train, FeatureBatches) or not isinstance(held_out, FeatureBatches):
        return NotEstimable("the backbone trains, so each shadow model would be a whole training")
    torch.use_deterministic_algorithms(True)
    return train_shadows(
        setup,
        together(train, held_out),
        strata=2 * patients.labels + patients.member,
        model=about.architecture,
        training=training,
        classes=len(about.classes),
        pairs=pairs,
        seed=seed,
        progress=lambda done, total: tell("shadow models", done, total),
    )


def _attack(
    site: str, about: ModelDescription, patients: _Patients, *, shadows: Shadows | NotEstimable, seed: int
) -> AuditOutcome:
    member, labels, classes = patients.member, patients.labels, about.classes
    rng = np.random.default_rng([seed, 3])
    losses = _losses(patients.logits, labels)
    by_loss = attack(-losses, member=member, labels=labels, classes=classes, rng=rng)
    if isinstance(shadows, NotEstimable):
        by_ratio, known = shadows, familiarity(-losses, member=member, labels=labels, rng=rng)
    else:
        own = _log_odds(patients.logits, labels)
        ratio = likelihood_ratio(
            own,
            shadows=np.stack([_log_odds(logits, labels) for logits in shadows.logits]),
            inside=shadows.inside,
        )
        by_ratio = attack(ratio, member=member, labels=labels, classes=classes, rng=rng)
        reference = outside_mean(
            np.stack([_losses(logits, labels) for logits in shadows.logits]), inside=shadows.inside
        )
        known = familiarity(reference - losses, member=member, labels=labels, rng=rng)
    return AuditOutcome(
        site=site,
        model=about.digest,
        run_id="",
        classes={name: _group(losses, labels == index, member=member) for index, name in enumerate(classes)},
        shadow_models=0 if isinstance(shadows, NotEstimable) else len(shadows.inside),
        loss=by_loss,
        likelihood_ratio=by_ratio,
        site_known=known,
        notes=(),
        phantom=False,
        made=looks.now(),
    )


def _group(losses: np.ndarray, of_class: np.ndarray, *, member: np.ndarray) -> Group:
    train, held_out = losses[of_class & member], losses[of_class & ~member]
    means = [float(part.mean()) if len(part) else None for part in (train, held_out)]
    return Group(len(train), len(held_out), *means)


def _losses(logits: ScoreMatrix, labels: LabelVector) -> np.ndarray:
    """Cross-entropy of each patient, nats; from log odds, so that a sure model's is not rounded to 0."""
    return np.logaddexp(0, -_log_odds(logits, labels))


def _log_odds(logits: ScoreMatrix, labels: LabelVector) -> np.ndarray:
    return margins(logits)[np.arange(len(labels)), labels]


def _release(config: SiteConfig, outcome: AuditOutcome, patients: _Patients) -> ReleasedAudit:
    """Note in the ledger of looks what may leave, before it does."""
    ledger = HeldOutLooks(config.held_out)
    with ledger.alone():
        told = check_release(
            ledger,
            model=outcome.model,
            patients=patients.names,
            held_out=patients.held_out,
            policy=config.policy,
        )
        if told is not None:
            return told
        released = release_audit(
            outcome.model,
            train=outcome.train,
            held_out=outcome.held_out,
            loss=outcome.loss,
            likelihood_ratio=outcome.likelihood_ratio,
            site=outcome.site_known,
            policy=config.policy,
        )
        ledger.keep(
            Look(
                at=looks.now(),
                run_id=outcome.run_id,
                plan=AUDIT_NAME,
                name=AUDIT_NAME,
                model=hashlib.sha256(f"{AUDIT_NAME}\n{outcome.model}".encode()).hexdigest(),
                classes=tuple(outcome.classes),
                patients=patients.names,
                audit=released.model_dump(mode="json"),
            )
        )
    return released
