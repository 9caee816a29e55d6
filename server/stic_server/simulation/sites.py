"""Sites in the server's own process: each a `LocalRun`, asked through the text of real messages."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace

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
    Report,
    RunPlan,
    decode_instruction,
    encode,
)
from stic_core.site_run import LocalRun
from stic_core.training.private_training import TrainingPrivacy
from stic_core.training.setup import ComputeConfig, TrainingSetup, assemble
from stic_server.federation.sites import Exchange, Traffic, read_answer
from stic_server.simulation.cohorts import Datasets, Progress
from stic_server.simulation.scores import SiteScores


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


class SimulatedSites:
    """`sites.Sites` without a network: one site after the other, in the order of the questions.

    Questions and answers go through their JSON text, and weights are copied, so that a site
    computes what a hospital's would. Bytes are those of text and weights, without what Flower
    and TLS add. An error is raised, not answered: here it hides nothing of a hospital.

    Args:
        datasets: by site.
        policy: of every site.
        compute: what they compute with.
        progress: told how far a site's features are.
    """

    def __init__(
        self, datasets: Datasets, *, policy: PolicyConfig, compute: ComputeConfig, progress: Progress
    ) -> None:
        self._datasets, self._policy, self._compute, self._progress = datasets, policy, compute, progress
        self._runs: dict[str, LocalRun] = {}
        self.scores: dict[str, dict[str, SiteScores]] = {}
        """Of held-out patients, by model and site: what no hospital would give away."""

    def present(self) -> list[str]:
        """See `Sites`; all, always."""
        return sorted(self._datasets)

    def wait_for(self, *, at_least: int, timeout: float, apart_from: Collection[str] = ()) -> list[str]:
        """See `Sites`; there is nobody to wait for."""
        del at_least, timeout, apart_from
        return self.present()

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: WireArray | None, timeout: float
    ) -> Exchange:
        """See `Sites`."""
        del timeout
        answers, traffic = {}, {}
        for site, question in questions.items():
            asked = encode(question)
            report, trained = self._answer(
                site, decode_instruction(asked), None if weights is None else weights.copy()
            )
            said = encode(report)
            answers[site] = read_answer(said, trained)
            traffic[site] = Traffic(_size(asked, weights), _size(said, trained))
        return Exchange(answers, traffic)

    def _answer(
        self, site: str, question: Instruction, weights: WireArray | None
    ) -> tuple[Report, WireArray | None]:
        match question:
            case Describe():
                self._runs[site] = LocalRun(
                    site,
                    question.run_id,
                    question.plan,
                    self._datasets[site],
                    setup_of(
                        self._datasets[site],
                        question.plan,
                        compute=self._compute,
                        name=site,
                        progress=self._progress,
                    ),
                    policy=self._policy,
                    privacy=seeded_privacy(question.plan, site),
                    judges_heads=False,
                )
                return self._runs[site].describe(), None
            case Finish():
                # Its sites have no disks of their own: the run's folder is theirs.
                return Acknowledged(kept_model=question.weights_digest), None
            case EvaluateHeldOut():
                run = self._runs[site]
                report = run.answer(question, weights)
                look = run.look_of(question)
                assert look is not None  # it has just been answered from
                labels = run.setup.batches["test"].labels
                self.scores.setdefault(question.model, {})[site] = (look.scores, labels)
                return report
            case _:
                return self._runs[site].answer(question, weights)


def _size(text: str, weights: WireArray | None) -> int:
    return len(text.encode()) + (0 if weights is None else weights.nbytes)
