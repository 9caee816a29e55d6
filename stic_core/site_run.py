"""What one site computes in one run: questions in, aggregates and weights out.

The dataset, the features and the model stay loaded between rounds, and so do the scores of
models that were asked for: a second model is compared with them on the same patients, and an
ensemble needs no weights again. No transport, no policy on plans, no log; those are the
participant's.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TypeAlias

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp

from stic_core.config import PolicyConfig
from stic_core.data.dataset import SPLITS, SiteDataset, Split
from stic_core.errors import PlanRefusedError, ProtocolError
from stic_core.evaluation import ValidationReport, paired_report, site_report, validation_report
from stic_core.models.parameters import get_flat, trainable_specs
from stic_core.privacy.release import class_counts, tells_mean
from stic_core.protocol.compression import WireArray, downlink, encode_update, unpack
from stic_core.protocol.messages import (
    EvaluateHeldOut,
    HeldOutAnswer,
    HistogramReport,
    HistogramRequest,
    LocalReport,
    RoundReport,
    RunPlan,
    SiteDescription,
    SplitCounts,
    TrainLocal,
    TrainRound,
)
from stic_core.statistics import log_loss_sum
from stic_core.system.observer import Observer
from stic_core.tensors.array_types import ScoreMatrix
from stic_core.tensors.flat import FlatArray, digest
from stic_core.training.objectives import Objective, objective_of
from stic_core.training.setup import TrainingSetup
from stic_core.training.site_arrays import SiteArrays
from stic_core.training.trainer import Trainer, fit, predict

RESIDUAL = "residual"
"""Of what a site keeps between rounds: the rounding error of its last update."""

Work: TypeAlias = TrainRound | TrainLocal | HistogramRequest | EvaluateHeldOut
WorkReport: TypeAlias = RoundReport | LocalReport | HistogramReport | HeldOutAnswer


@dataclass(slots=True, eq=False)
class LocalRun:
    """A run at one site.

    Args:
        site: its name, which is part of its seed so that sites do not draw alike.
        run_id: under which the server knows the run.
        plan: what is computed.
        dataset: the site's prepared patients.
        setup: the model with the patients, assembled after the plan.
        policy: what may be released.
        observer: receives progress events.
        kept: what stays at the site from round to round.
    """

    site: str
    run_id: str
    plan: RunPlan
    dataset: SiteDataset
    setup: TrainingSetup
    policy: PolicyConfig
    observer: Observer = field(default_factory=Observer)
    kept: SiteArrays = field(default_factory=SiteArrays)
    _scores: dict[tuple[Split, str], ScoreMatrix] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if trainable_specs(self.setup.module) != self.plan.tensors:
            raise PlanRefusedError(
                "tensors",
                got="names or shapes of a different model",
                expected=f"those of {self.plan.model.architecture} on {self.plan.model.backbone}",
            )

    def describe(self) -> SiteDescription:
        """What the site takes part with."""
        return SiteDescription(
            patients={split: self._counts(split) for split in SPLITS},
            quarantined=self.dataset.quarantined,
            fingerprint=self.dataset.fingerprint,
            test_fingerprint=self.dataset.split_fingerprints["test"],
            image=self.dataset.image,
            phantom=self.dataset.phantom,
            backbone_digest=self.setup.backbone_digest,
            device=self.setup.device.type,
            versions={
                "python": platform.python_version(),
                "stic-federated": version("stic-federated"),
                "torch": torch.__version__,
            },
        )

    def answer(self, question: Work, wire: WireArray | None) -> tuple[WorkReport, WireArray | None]:
        """Do what is asked.

        Args:
            question: of this run.
            wire: the weights as they travelled.

        Raises:
            PlanRefusedError: another plan than the accepted one, a round or a rate beyond it, or a
                held-out set that changed.
            ProtocolError: weights other than announced, or models that were never asked for.
        """
        if question.plan_digest != self.plan.digest:
            raise PlanRefusedError(
                "plan", got=question.plan_digest[:12], expected=f"{self.plan.digest[:12]}, as accepted"
            )
        match question:
            case TrainRound():
                return self._train_round(question, self._checked(question, wire))
            case TrainLocal():
                return self._train_local(self._checked(question, wire))
            case HistogramRequest():
                return self._histograms(question, wire), None
            case EvaluateHeldOut():
                return self._held_out(question, wire), None

    def _counts(self, split: Split) -> SplitCounts:
        counts = self.dataset.counts(self.plan.task)[split]
        return SplitCounts(n=sum(counts.values()), classes=class_counts(counts, policy=self.policy))

    def _checked(self, question: Work, wire: WireArray | None) -> FlatArray:
        """The weights that came with a question."""
        transport = downlink(self.plan.transport) if isinstance(question, TrainRound) else "float32"
        if wire is not None:
            weights = unpack(wire, self.plan.tensors, transport=transport)
            if digest(weights, self.plan.tensors) == question.weights_digest:
                if not np.isfinite(weights).all():
                    raise ProtocolError("the weights hold NaN or infinite values")
                return weights
        raise ProtocolError("the weights do not match the digest in the message")

    # ---- training -----------------------------------------------------------------------

    def _train_round(self, question: TrainRound, weights: FlatArray) -> tuple[RoundReport, WireArray | None]:
        began = time.perf_counter()
        training = self.plan.training
        if question.round > self.plan.rounds + 1:
            raise PlanRefusedError(
                "round", got=question.round, expected=f"at most {self.plan.rounds} and a final validation"
            )
        if question.learning_rate is not None and question.learning_rate > training.learning_rate:
            raise PlanRefusedError(
                "learning_rate of this round",
                got=question.learning_rate,
                expected=f"at most the plan's {training.learning_rate}",
            )
        self.setup.load_weights(weights)
        validation = self._validation(self._predict("val"))
        wire, arrived = None, None
        loss, examples, steps = None, 0, 0
        if question.train and len(self.setup.batches["train"]):
            objective = objective_of(
                self.plan.algorithm,
                self.setup.module,
                self.setup.batches["train"].labels,
                config=training,
                device=self.setup.device,
            )
            outcome = self._trainer(salt=question.round, objective=objective).run(
                training.local_epochs, steps=training.local_steps, learning_rate=question.learning_rate
            )
            loss, examples, steps = outcome.loss, outcome.examples, outcome.steps
            wire, arrived = self._encode(question.round, base=weights)
        self._note_round(question, loss)
        tells = tells_mean("training-loss", n=examples, policy=self.policy)
        report = RoundReport(
            round=question.round,
            validation=validation,
            examples=examples,
            train_loss=loss if tells else None,
            steps=steps,
            compute_seconds=time.perf_counter() - began,
            weights_digest=None if arrived is None else digest(arrived, self.plan.tensors),
        )
        return report, wire

    def _encode(self, number: int, *, base: FlatArray) -> tuple[WireArray, FlatArray]:
        """What travels, and the weights that the server will have from it; its rounding error is kept."""
        update = encode_update(
            get_flat(self.setup.module),
            base=base,
            specs=self.plan.tensors,
            transport=self.plan.transport,
            residual=self.kept.before(number).get(RESIDUAL),
        )
        if update.residual is not None:
            self.kept.keep(number, {RESIDUAL: update.residual})
        return update.wire, update.arrived

    def _note_round(self, question: TrainRound, loss: float | None) -> None:
        if not question.train:
            self.observer.note(f"all {question.round - 1} rounds done")
        elif loss is None:
            self.observer.note(f"round {question.round} of {self.plan.rounds}: no training patients here")
        else:
            self.observer.note(f"round {question.round} of {self.plan.rounds}: training loss {loss:.3f}")

    def _trainer(self, *, salt: int, objective: Objective | None = None) -> Trainer:
        """A fresh optimiser; its seed differs by site so that sites do not draw alike."""
        return Trainer(
            self.setup.module,
            self.setup.batches["train"],
            config=self.plan.training,
            seed=[self.plan.seed, salt, int.from_bytes(self.site.encode(), "big")],
            device=self.setup.device,
            objective=objective,
        )

    def _own_loss(self) -> float | None:
        """Mean validation loss for this site's own eyes, whatever its policy releases."""
        labels = self.setup.batches["val"].labels
        return log_loss_sum(self._predict("val"), labels=labels) / len(labels) if len(labels) else None

    def _train_local(self, weights: FlatArray) -> tuple[LocalReport, FlatArray]:
        """As many epochs as the federation's, one optimiser throughout, the best by own validation."""
        if not self.policy.local_only:
            raise PlanRefusedError(
                "this site's own model was requested", expected="no such request (policy.local_only: false)"
            )
        began = time.perf_counter()
        self.setup.load_weights(weights)
        outcome = fit(
            self._trainer(salt=0),
            rounds=self.plan.rounds,
            validate=self._own_loss,
            on_epoch=lambda done, total: self.observer.progress("own model, for comparison", done, total),
        )
        tells = tells_mean("validation", n=len(self.setup.batches["val"]), policy=self.policy)
        report = LocalReport(
            epochs=len(outcome.losses),
            best_epoch=outcome.best_epoch,
            validation_loss=outcome.best_loss if tells else None,
            compute_seconds=time.perf_counter() - began,
            weights_digest=digest(outcome.best, self.plan.tensors),
        )
        return report, outcome.best

    # ---- evaluation ---------------------------------------------------------------------

    def _predict(self, split: Split) -> ScoreMatrix:
        return predict(self.setup.module, self.setup.batches[split], device=self.setup.device)

    def _validation(self, logits: ScoreMatrix, *, histograms: bool = False) -> ValidationReport:
        return validation_report(
            logits,
            self.setup.batches["val"].labels,
            classes=self.plan.task.classes,
            policy=self.policy,
            histograms=histograms,
        )

    def logits(
        self, split: Split, question: HistogramRequest | EvaluateHeldOut, wire: WireArray | None
    ) -> ScoreMatrix:
        """A model's scores of one split: computed once a model, kept for what comes after.

        They are the patients' own and stay at the site; a simulation, where all data are in one
        place, may look at them.
        """
        if question.members:
            return self._ensemble(split, question.members)
        weights = self._checked(question, wire)
        model = digest(weights, self.plan.tensors)
        if (split, model) not in self._scores:
            self.setup.load_weights(weights)
            self._scores[split, model] = self._predict(split)
        return self._scores[split, model]

    def _ensemble(self, split: Split, members: Sequence[str]) -> ScoreMatrix:
        """Logarithms of the members' mean probabilities, which are an ensemble's logits."""
        if any((split, member) not in self._scores for member in members):
            raise ProtocolError(
                "an ensemble of models that this site has not evaluated",
                advice="The site was restarted in between; the ensemble is not evaluated at this site.",
            )
        logits = np.stack([self._scores[split, member].astype(np.float64) for member in members])
        return logsumexp(log_softmax(logits, axis=-1), axis=0) - np.log(len(members))

    def _histograms(self, question: HistogramRequest, wire: WireArray | None) -> HistogramReport:
        logits = self.logits("val", question, wire)
        return HistogramReport(validation=self._validation(logits, histograms=True))

    def _held_out(self, question: EvaluateHeldOut, wire: WireArray | None) -> HeldOutAnswer:
        found = self.dataset.split_fingerprints["test"]
        if found != question.test_fingerprint:
            raise PlanRefusedError(
                "the held-out set has changed since the run began",
                got=found[:12],
                expected=question.test_fingerprint[:12],
            )
        logits = self.logits("test", question, wire)
        what = (question.weights_digest or "")[:12] or f"of {len(question.members)}"
        self.observer.note(f"held-out set opened for model {question.model} ({what})")
        labels, classes = self.setup.batches["test"].labels, self.plan.task.classes
        report = site_report(logits, labels, classes=classes, edges=question.edges, policy=self.policy)
        other = self._scores.get(("test", question.against)) if question.against else None
        paired = (
            None
            if other is None
            else paired_report(other, logits, labels, classes=classes, policy=self.policy)
        )
        return HeldOutAnswer(model=question.model, report=report, paired=paired)
