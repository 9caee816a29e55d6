"""A site's part in a run: instructions in, reports out. No transport, no Flower.

The dataset, the features and the model stay loaded between rounds. What goes wrong is
answered with a code; the detail stays in the site's own log.
"""

from __future__ import annotations

import logging
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

import torch

from stic_client.policy import check_plan
from stic_core.assembly import Means, Workbench, assemble
from stic_core.audit import AuditLog, Direction, entry_of
from stic_core.config import SiteConfig
from stic_core.dataset import SPLITS, SiteDataset, Split, load_dataset
from stic_core.devices import pick_device
from stic_core.errors import PlanRefusedError, ProtocolError, SticError
from stic_core.evaluation import ValidationReport, site_report, validation_report
from stic_core.protocol import (
    Acknowledged,
    Describe,
    EvaluateHeldOut,
    Failure,
    Finish,
    HeldOutAnswer,
    HistogramReport,
    HistogramRequest,
    Instruction,
    LocalReport,
    Refusal,
    Report,
    RoundReport,
    RunPlan,
    SiteDescription,
    SplitCounts,
    TrainLocal,
    TrainRound,
    Unprepared,
)
from stic_core.statistics import Suppressed, log_loss_sum
from stic_core.tensors import FlatArray, digest
from stic_core.training import Trainer, fit, predict
from stic_core.weights import get_flat, trainable_specs

LOG = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told what goes on at the site; shows it or not."""

    def note(self, text: str) -> None:
        """Something that is worth a line."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """How far a longer piece of work is."""
        ...


class Silent:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that this site accepted, with all that stays loaded for it."""

    run_id: str
    plan: RunPlan
    dataset: SiteDataset
    bench: Workbench


class Participant:
    """One site.

    Args:
        config: of the site.
        observer: is told what goes on.
    """

    def __init__(self, config: SiteConfig, observer: Observer | None = None) -> None:
        self.config, self.observer = config, observer or Silent()
        self.device = pick_device(config.device)
        self.finished: str | None = None
        """Status of the last run that the server ended."""
        self._run: _Run | None = None
        self._audit = AuditLog(config.audit)

    def answer(self, instruction: Instruction, weights: FlatArray | None) -> tuple[Report, FlatArray | None]:
        """Do what is asked, or say why not; never raises what a user could cause.

        Both the question and the answer are in the audit log before the answer is given.
        """
        report, trained = self._attempt(instruction, weights)
        decision = {"refusal": "refused", "failure": "failed"}.get(report.kind, "answered")
        self._log("in", instruction, weights, instruction=instruction, decision=decision)
        self._log("out", report, trained, instruction=instruction, decision="sent")
        return report, trained

    def _log(
        self,
        direction: Direction,
        message: Instruction | Report,
        weights: FlatArray | None,
        *,
        instruction: Instruction,
        decision: str,
    ) -> None:
        specs = self._run.plan.tensors if self._run is not None and weights is not None else ()
        self._audit.append(
            entry_of(
                direction,
                "server",
                message,
                weights,
                run=instruction.run_id,
                round_number=getattr(instruction, "round", 0),
                tensors=tuple(spec.name for spec in specs),
                decision=decision,
            )
        )

    def _attempt(
        self, instruction: Instruction, weights: FlatArray | None
    ) -> tuple[Report, FlatArray | None]:
        try:
            return self._answer(instruction, weights)
        except PlanRefusedError as error:
            self.observer.note(f"refused: {error}")
            return Refusal(reason=str(error)[:500]), None
        except SticError as error:
            self.observer.note(f"failed: {error}")
            return Failure(code=error.code), None
        except Exception as error:
            # Whatever it says may quote data, so only its kind travels.
            LOG.exception("%s failed", instruction.kind)
            self.observer.note(f"{instruction.kind} failed with {type(error).__name__}; see the log")
            return Failure(code=type(error).__name__), None

    def _answer(self, instruction: Instruction, weights: FlatArray | None) -> tuple[Report, FlatArray | None]:
        if not isinstance(instruction, Describe | Finish) and not self._knows(instruction.run_id):
            return Unprepared(), None
        match instruction:
            case Describe():
                return self._describe(instruction), None
            case TrainRound():
                return self._train_round(instruction, self._checked(instruction, weights))
            case TrainLocal():
                return self._train_local(self._checked(instruction, weights))
            case HistogramRequest():
                return self._histograms(self._checked(instruction, weights)), None
            case EvaluateHeldOut():
                return self._held_out(instruction, self._checked(instruction, weights)), None
            case Finish():
                self.observer.note(f"run {instruction.run_id} is {instruction.status}")
                self.finished = instruction.status
                return Acknowledged(), None

    # ---- the run ------------------------------------------------------------------------

    def _describe(self, question: Describe) -> SiteDescription:
        plan = question.plan
        check_plan(plan, self.config.policy)
        self.observer.note(
            f"run {question.run_id}: task {plan.task.name}, {plan.model.architecture} on {plan.model.backbone}, "
            f"{plan.rounds} rounds, plan {plan.digest[:12]}"
        )
        self.finished = None
        self._run = self._load(question.run_id, plan)
        run = self._run
        return SiteDescription(
            patients={split: self._counts(run, split) for split in SPLITS},
            quarantined=run.dataset.quarantined,
            fingerprint=run.dataset.fingerprint,
            test_fingerprint=run.dataset.split_fingerprints["test"],
            image=run.dataset.image,
            phantom=run.dataset.phantom,
            backbone_digest=run.bench.backbone_digest,
            device=self.device.type,
            versions={
                "python": platform.python_version(),
                "stic-federated": version("stic-federated"),
                "torch": torch.__version__,
            },
        )

    def _counts(self, run: _Run, split: Split) -> SplitCounts:
        counts = run.dataset.counts(run.plan.task)[split]
        n, least = sum(counts.values()), self.config.policy.min_cell
        few = 0 < n < least
        return SplitCounts(n=n, classes=Suppressed(f"fewer than {least} patients") if few else counts)

    def _load(self, run_id: str, plan: RunPlan) -> _Run:
        dataset = load_dataset(self.config.dataset.prepared)
        if plan.determinism:
            torch.use_deterministic_algorithms(True)
        bench = assemble(
            dataset,
            model=plan.model,
            training=plan.training,
            task=plan.task,
            seed=plan.seed,
            means=Means(
                device=self.device,
                precision=self.config.precision,
                weights=self.config.backbone_weights.get(plan.model.backbone),
                cache_limit_bytes=int(self.config.cache_limit_gb * 1e9),
                progress=lambda done, total: self.observer.progress("backbone features", done, total),
                announce=lambda size: self.observer.note(
                    f"backbone features take {size / 1e6:.0f} MB on the disk, once"
                ),
            ),
        )
        if trainable_specs(bench.module) != plan.tensors:
            raise PlanRefusedError(
                "tensors",
                got="names or shapes of another model",
                expected=f"those of {plan.model.architecture} on {plan.model.backbone}",
            )
        return _Run(run_id, plan, dataset, bench)

    def _checked(
        self,
        instruction: TrainRound | TrainLocal | HistogramRequest | EvaluateHeldOut,
        weights: FlatArray | None,
    ) -> FlatArray:
        """The weights that came with an instruction of the run that this site accepted."""
        run = self._current()
        if instruction.plan_digest != run.plan.digest:
            raise PlanRefusedError(
                "plan", got=instruction.plan_digest[:12], expected=f"{run.plan.digest[:12]}, as accepted"
            )
        if weights is None or digest(weights, run.plan.tensors) != instruction.weights_digest:
            raise ProtocolError("the weights are not those that the message names")
        return weights

    def _knows(self, run_id: str) -> bool:
        return self._run is not None and self._run.run_id == run_id

    def _current(self) -> _Run:
        assert self._run is not None  # `_knows` was asked first
        return self._run

    # ---- training -----------------------------------------------------------------------

    def _train_round(self, question: TrainRound, weights: FlatArray) -> tuple[RoundReport, FlatArray | None]:
        began = time.perf_counter()
        run = self._current()
        if question.round > run.plan.rounds + 1:
            raise PlanRefusedError(
                "round", got=question.round, expected=f"at most {run.plan.rounds} and a last look"
            )
        run.bench.put(weights)
        validation = self._validate(run)
        trained: FlatArray | None = None
        loss, examples, steps = None, 0, 0
        if question.train and len(run.bench.examples["train"]):
            trainer = self._trainer(run, salt=question.round)
            training = run.plan.training
            outcome = trainer.run(
                training.local_epochs, steps=training.local_steps, learning_rate=question.learning_rate
            )
            loss, examples, steps = outcome.loss, outcome.examples, outcome.steps
            trained = get_flat(run.bench.module)
        self._note_round(question, run, loss)
        report = RoundReport(
            round=question.round,
            validation=validation,
            examples=examples,
            train_loss=loss if examples >= self.config.policy.min_cell else None,
            steps=steps,
            compute_seconds=time.perf_counter() - began,
            weights_digest=digest(trained, run.plan.tensors) if trained is not None else None,
        )
        return report, trained

    def _note_round(self, question: TrainRound, run: _Run, loss: float | None) -> None:
        if not question.train:
            self.observer.note(f"all {run.plan.rounds} rounds done")
        elif loss is None:
            self.observer.note(f"round {question.round} of {run.plan.rounds}: no training patients here")
        else:
            self.observer.note(f"round {question.round} of {run.plan.rounds}: training loss {loss:.3f}")

    def _trainer(self, run: _Run, *, salt: int) -> Trainer:
        """A fresh optimiser; its seed differs by site so that sites do not draw alike."""
        name = int.from_bytes(self.config.site.encode(), "big")
        return Trainer(
            run.bench.module,
            run.bench.examples["train"],
            config=run.plan.training,
            seed=[run.plan.seed, salt, name],
            device=self.device,
        )

    def _validate(self, run: _Run, *, histograms: bool = False) -> ValidationReport:
        examples = run.bench.examples["val"]
        return validation_report(
            predict(run.bench.module, examples, device=self.device),
            examples.labels,
            classes=run.plan.task.classes,
            policy=self.config.policy,
            histograms=histograms,
        )

    def _own_loss(self, run: _Run) -> float | None:
        """Mean validation loss for this site's own eyes, whatever its policy releases."""
        examples = run.bench.examples["val"]
        if not len(examples):
            return None
        logits = predict(run.bench.module, examples, device=self.device)
        return log_loss_sum(logits, labels=examples.labels) / len(examples)

    def _train_local(self, weights: FlatArray) -> tuple[LocalReport, FlatArray]:
        """As many epochs as the federation's, one optimiser throughout, the best by own validation."""
        began = time.perf_counter()
        run = self._current()
        run.bench.put(weights)
        outcome = fit(
            self._trainer(run, salt=0),
            rounds=run.plan.rounds,
            validate=lambda: self._own_loss(run),
            on_epoch=lambda done, total: self.observer.progress("own model, for comparison", done, total),
        )
        report = LocalReport(
            epochs=len(outcome.losses),
            best_epoch=outcome.best_epoch,
            validation_loss=outcome.best_loss
            if len(run.bench.examples["val"]) >= self.config.policy.min_cell
            else None,
            compute_seconds=time.perf_counter() - began,
            weights_digest=digest(outcome.best, run.plan.tensors),
        )
        return report, outcome.best

    # ---- evaluation ---------------------------------------------------------------------

    def _histograms(self, weights: FlatArray) -> HistogramReport:
        run = self._current()
        run.bench.put(weights)
        return HistogramReport(validation=self._validate(run, histograms=True))

    def _held_out(self, question: EvaluateHeldOut, weights: FlatArray) -> HeldOutAnswer:
        run = self._current()
        found = run.dataset.split_fingerprints["test"]
        if found != question.test_fingerprint:
            raise PlanRefusedError(
                "the held-out set changed since the run began",
                got=found[:12],
                expected=question.test_fingerprint[:12],
            )
        run.bench.put(weights)
        examples = run.bench.examples["test"]
        logits = predict(run.bench.module, examples, device=self.device)
        self.observer.note(f"held-out set opened for model {question.model} ({question.weights_digest[:12]})")
        report = site_report(
            logits,
            examples.labels,
            classes=run.plan.task.classes,
            edges=question.edges,
            policy=self.config.policy,
        )
        return HeldOutAnswer(model=question.model, report=report)
