"""Where sites and the centralised model of a seed are computed: the seam between a simulation and its engines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import torch

from stic_core.config import PolicyConfig
from stic_core.data.dataset import SiteDataset
from stic_core.privacy.training_ledger import TrainingLedger
from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import (
    Acknowledged,
    Describe,
    EvaluateHeldOut,
    Finish,
    Instruction,
    LocalReport,
    Report,
    RunPlan,
    TrainLocal,
    TrainRound,
    decode_instruction,
    encode,
)
from stic_core.site_run import LocalRun
from stic_core.system.observer import Observer
from stic_core.tensors.flat import FlatArray, digest
from stic_core.training.private_training import TrainingPrivacy
from stic_core.training.setup import ComputeConfig, TrainingSetup, assemble
from stic_server.simulation.cohorts import Datasets, Progress
from stic_server.simulation.scores import SiteScores

CENTRALISED = "centralised"

Centralised: TypeAlias = tuple[FlatArray, dict[str, Any]]
"""The weights of the model that is trained in one place, and what the run's record says of them."""


def setup_of(
    dataset: SiteDataset, plan: RunPlan, *, compute: ComputeConfig, name: str, progress: Progress
) -> TrainingSetup:
    """A plan's model with a dataset's patients, as a hospital's client assembles it."""
    if plan.determinism:
        torch.use_deterministic_algorithms(True)
    return assemble(
        dataset,
        model=plan.model,
        training=plan.training,
        task=plan.task,
        seed=plan.seed,
        compute=replace(
            compute, progress=lambda done, total: progress(f"backbone features of {name}", done, total)
        ),
    )


def seeded_privacy(plan: RunPlan, site: str) -> TrainingPrivacy:
    """Noise that repeats with the plan's seed, and a ledger of one run.

    Whoever knows the seed can take such noise away again: a simulation measures what noise costs, it protects nobody.
    """
    secret = hashlib.sha256(f"stic-federated simulation\n{plan.seed}\n{site}".encode()).digest()
    return TrainingPrivacy(TrainingLedger(), secret)


@dataclass(frozen=True, slots=True)
class SiteAnswer:
    """What a simulated site answers.

    Args:
        said: the report's JSON text.
        weights: what it trained.
        scores: of its held-out patients, which no hospital would give away.
    """

    said: str
    weights: WireArray | None
    scores: SiteScores | None = None


class Workplace:
    """Computes for sites, and trains the centralised model: in this process, or in one of an engine's.

    Args:
        policy: of every site.
        compute: what it computes with.
        progress: told how far longer pieces of work are.
    """

    def __init__(self, *, policy: PolicyConfig, compute: ComputeConfig, progress: Progress) -> None:
        self._policy, self._compute, self._progress = policy, compute, progress
        self._runs: dict[str, LocalRun] = {}

    def answer(self, site: str, dataset: SiteDataset, asked: str, weights: WireArray | None) -> SiteAnswer:
        """One site's answer.

        Args:
            asked: the question's JSON text.
            weights: a copy is made: a site computes what a hospital's would.
        """
        question = decode_instruction(asked)
        report, trained, scores = self._answer(
            site, dataset, question, None if weights is None else weights.copy()
        )
        return SiteAnswer(encode(report), trained, scores)

    def _answer(
        self, site: str, dataset: SiteDataset, question: Instruction, weights: WireArray | None
    ) -> tuple[Report, WireArray | None, SiteScores | None]:
        match question:
            case Describe():
                setup = setup_of(
                    dataset, question.plan, compute=self._compute, name=site, progress=self._progress
                )
                self._runs[site] = LocalRun(
                    site,
                    question.run_id,
                    question.plan,
                    dataset,
                    setup,
                    policy=self._policy,
                    privacy=seeded_privacy(question.plan, site),
                    judges_heads=False,
                )
                return self._runs[site].describe(), None, None
            case Finish():
                # Its sites have no disks of their own: the run's folder is theirs.
                return Acknowledged(kept_model=question.weights_digest), None, None
            case EvaluateHeldOut():
                run = self._runs[site]
                report = run.answer(question, weights)
                look = run.look_of(question)
                assert look is not None  # it has just been answered from
                return *report, (look.scores, run.setup.batches["test"].labels)
            case TrainRound() | TrainLocal():
                return *self._runs[site].answer(question, weights), None
            case _:
                raise AssertionError("settings refuse secure aggregation")

    def centralise(
        self, plan: RunPlan, initial: FlatArray, pooled: SiteDataset, *, run_id: str
    ) -> Centralised:
        """Train on all sites' patients in one place, as a site trains its own model.

        As many epochs as the federation's rounds have in all, one optimiser throughout, and the
        epoch with the best loss on all sites' validation patients.
        """
        setup = setup_of(pooled, plan, compute=self._compute, name="all patients", progress=self._progress)
        site = LocalRun(
            CENTRALISED,
            run_id,
            plan,
            pooled,
            setup,
            policy=self._policy,
            observer=_Told(self._progress),
            privacy=seeded_privacy(plan, CENTRALISED),
        )
        question = TrainLocal(
            run_id=run_id, plan_digest=plan.digest, weights_digest=digest(initial, plan.tensors)
        )
        report, weights = site.answer(question, initial.copy())
        assert isinstance(report, LocalReport)  # that is what TrainLocal is answered with
        assert weights is not None
        about = {
            "patients": {split: len(pooled.indices(split, plan.task)) for split in ("train", "val")},
            "epochs": report.epochs,
            "best_epoch": report.best_epoch,
            "val_loss": report.validation_loss,
            "fingerprint": pooled.fingerprint,
            "weights_digest": report.weights_digest,
        }
        return weights, about


class _Told(Observer):
    """A local run's observer that passes on how far it is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def progress(self, what: str, done: int, total: int) -> None:
        """How far it is, under the name that a reader of a simulation expects."""
        del what
        self._progress("training one model on all patients, for comparison", done, total)


class Workplaces(Protocol):
    """Where one seed is computed. Whoever computes what, the answers are the same."""

    def ask(
        self, asked: Mapping[str, str], datasets: Datasets, weights: WireArray | None
    ) -> Mapping[str, SiteAnswer]:
        """Every asked site's answer; a site is always computed at the same place."""
        ...

    def centralise(
        self, plan: RunPlan, initial: FlatArray, pooled: SiteDataset, *, run_id: str
    ) -> Callable[[], Centralised]:
        """Begin with the centralised model; what is returned gives it, and waits for it."""
        ...


class ThisProcess:
    """`Workplaces` of one place: one site after the other, in the order of the questions."""

    def __init__(self, place: Workplace) -> None:
        self._place = place

    def ask(
        self, asked: Mapping[str, str], datasets: Datasets, weights: WireArray | None
    ) -> Mapping[str, SiteAnswer]:
        """See `Workplaces`."""
        return {site: self._place.answer(site, datasets[site], text, weights) for site, text in asked.items()}

    def centralise(
        self, plan: RunPlan, initial: FlatArray, pooled: SiteDataset, *, run_id: str
    ) -> Callable[[], Centralised]:
        """See `Workplaces`; at once."""
        found = self._place.centralise(plan, initial, pooled, run_id=run_id)
        return lambda: found
