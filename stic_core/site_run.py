"""What one site computes in one run: questions in, aggregates and weights out.

The dataset, the features and the model stay loaded between rounds. The scores of models that were
asked for are in the ledger of looks: a second model is compared with them on the same patients,
and an ensemble needs no weights again. No transport, no policy on plans, no log; those are the
participant's.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Protocol, TypeAlias

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp

from stic_core.config import PolicyConfig
from stic_core.data.dataset import SPLITS, SiteDataset, Split
from stic_core.errors import PlanRefusedError, ProtocolError
from stic_core.evaluation import (
    HeldOutReport,
    Near,
    PairedReport,
    ValidationReport,
    paired_report,
    site_report,
    validation_report,
)
from stic_core.evaluation.held_out_counts import held_out_counts
from stic_core.models.parameters import get_flat, trainable_specs
from stic_core.privacy import looks
from stic_core.privacy.audit_release import latest_release
from stic_core.privacy.looks import HeldOutLooks, Look
from stic_core.privacy.release import class_counts, rounded, score_counts, tells_mean
from stic_core.protocol.compression import WireArray, downlink, encode_update, unpack
from stic_core.protocol.mask_messages import SiteKeys
from stic_core.protocol.messages import (
    EvaluateHeldOut,
    HeldOutAnswer,
    LocalReport,
    PooledAnswer,
    RoundReport,
    RunPlan,
    SiteDescription,
    SplitCounts,
    TrainLocal,
    TrainRound,
)
from stic_core.statistics import CELLS, LOSS_CAP, capped_loss_sum, margins
from stic_core.system.observer import Observer
from stic_core.tensors.array_types import ScoreMatrix
from stic_core.tensors.flat import FlatArray, digest
from stic_core.training.head_check import check_columns, classifier_inputs, fault_of_scores
from stic_core.training.private_training import TrainingPrivacy
from stic_core.training.setup import TrainingSetup
from stic_core.training.site_arrays import SiteArrays
from stic_core.training.site_training import SiteTraining
from stic_core.training.trainer import predict

RESIDUAL = "residual"
"""Of what a site keeps between rounds: the rounding error of its last update."""

Work: TypeAlias = TrainRound | TrainLocal | EvaluateHeldOut
WorkReport: TypeAlias = RoundReport | LocalReport | HeldOutAnswer | PooledAnswer


class Masker(Protocol):
    """Puts masks on a round's update or on held-out counts, so that the server sees them in a sum alone."""

    def check(self, question: TrainRound | EvaluateHeldOut) -> None:
        """Refuse to compute what could not be masked afterwards.

        Raises:
            PlanRefusedError: says what is missing.
        """
        ...

    def mask(
        self, question: TrainRound, *, base: FlatArray, trained: FlatArray
    ) -> tuple[WireArray, SiteKeys | None]:
        """What travels instead of the trained weights, and the site's keys for the next round."""
        ...

    def mask_counts(
        self, question: EvaluateHeldOut, counts: Sequence[int], *, earlier: Sequence[str]
    ) -> WireArray:
        """What travels instead of held-out counts.

        Args:
            earlier: plans under which nearly the same answers were counted before.
        """
        ...


@dataclass(slots=True, eq=False)
class LocalRun:
    """A run at one site.

    Args:
        site: its name, which is part of its seed so that sites do not draw alike.
        run_id: under which the server knows the run.
        plan: what is computed.
        dataset: the site's prepared patients; those of other classes than the plan's task take no part.
        setup: the model with the patients, assembled after the plan.
        policy: what may be released.
        observer: receives progress events.
        kept: what stays at the site from round to round.
        looks: what was told of the held-out patients before.
        privacy: the ledger of training, and what noise comes from.
        judges_heads: False in a simulation, where nobody makes a model to learn of a patient.
        masker: where the plan has secure aggregation; None and it cannot train such a plan's rounds.
    """

    site: str
    run_id: str
    plan: RunPlan
    dataset: SiteDataset
    setup: TrainingSetup
    policy: PolicyConfig
    observer: Observer = field(default_factory=Observer)
    kept: SiteArrays = field(default_factory=SiteArrays)
    looks: HeldOutLooks = field(default_factory=HeldOutLooks)
    privacy: TrainingPrivacy = field(default_factory=TrainingPrivacy)
    judges_heads: bool = True
    masker: Masker | None = None

    _fresh: FlatArray = field(init=False)
    _training: SiteTraining = field(init=False)

    def __post_init__(self) -> None:
        if trainable_specs(self.setup.module) != self.plan.tensors:
            raise PlanRefusedError(
                "tensors",
                got="names or shapes of a different model",
                expected=f"those of {self.plan.model.architecture} on {self.plan.model.backbone}",
            )
        self._fresh = get_flat(self.setup.module)
        self._training = SiteTraining(
            self.site,
            self.run_id,
            self.plan,
            self.dataset,
            self.setup,
            policy=self.policy,
            kept=self.privacy,
        )

    @property
    def training_patients(self) -> int:
        """How many there are, the weight of the site's update."""
        return len(self.setup.batches["train"])

    def describe(self) -> SiteDescription:
        """What the site takes part with."""
        return SiteDescription(
            patients={split: self._counts(split) for split in SPLITS},
            quarantined=self.dataset.quarantined,
            fingerprint=self.dataset.fingerprint_for(self.plan.task),
            test_fingerprint=self._test_fingerprint,
            image=self.dataset.image,
            phantom=self.dataset.phantom,
            privacy_audit=latest_release(self.looks, held_out=self.held_out_patients, policy=self.policy),
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
        self.check(question)
        match question:
            case TrainRound():
                return self._train_round(question, self._checked(question, wire))
            case TrainLocal():
                return self._train_local(self._checked(question, wire))
            case EvaluateHeldOut() if self.plan.evaluation == "pooled":
                return self._pooled(question, wire)
            case EvaluateHeldOut():
                return self._held_out(question, wire), None

    def check(self, question: Work) -> None:
        """Refuse a question that is not of the accepted plan.

        Raises:
            PlanRefusedError: says what is beyond it.
        """
        if question.plan_digest != self.plan.digest:
            raise PlanRefusedError(
                "plan", got=question.plan_digest[:12], expected=f"{self.plan.digest[:12]}, as accepted"
            )
        if isinstance(question, TrainLocal) and not self.plan.local_only:
            raise PlanRefusedError(
                "this site's own model was requested",
                expected="no such request (local_only: false in the plan)",
            )
        if isinstance(question, EvaluateHeldOut) and self.plan.evaluation == "pooled":
            self._check_pooled(question)
        if not isinstance(question, TrainRound):
            return
        if question.train and self.plan.secure_aggregation is not None:
            if self.masker is None:
                raise PlanRefusedError("secure aggregation", expected="a site that can mask its updates")
            self.masker.check(question)
        if question.round > self.plan.rounds + 1:
            raise PlanRefusedError(
                "round", got=question.round, expected=f"at most {self.plan.rounds} and a final validation"
            )
        most = self.plan.training.learning_rate
        if question.learning_rate is not None and question.learning_rate > most:
            raise PlanRefusedError(
                "learning_rate of this round",
                got=question.learning_rate,
                expected=f"at most the plan's {most}",
            )

    def _check_pooled(self, question: EvaluateHeldOut) -> None:
        if self.masker is None:
            raise PlanRefusedError("a pooled evaluation", expected="a site that can mask its counts")
        if question.members or question.against is not None:
            raise PlanRefusedError("a pooled evaluation", expected="one model, compared with no other")
        self.masker.check(question)

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
                self._check_fresh(question, weights)
                return weights
        raise ProtocolError("the weights do not match the digest in the message")

    def _check_fresh(self, question: Work, weights: FlatArray) -> None:
        """First weights are those of the plan's seed, unless the plan says that they are an earlier model's.

        To a hundredth, since they are rounded in transit and another machine's last bits may differ.
        """
        first = isinstance(question, TrainLocal) or (isinstance(question, TrainRound) and question.round == 1)
        if first and not self.plan.warm_start and not np.allclose(weights, self._fresh, rtol=1e-2, atol=1e-2):
            raise PlanRefusedError(
                "the first weights",
                got="others than the plan's seed gives",
                expected="fresh ones, as approved",
            )

    # ---- training -----------------------------------------------------------------------

    def _train_round(self, question: TrainRound, weights: FlatArray) -> tuple[RoundReport, WireArray | None]:
        began = time.perf_counter()
        self.setup.load_weights(weights)
        validation = self._validation(self._predict("val"))
        loss, examples, steps = None, 0, 0
        if question.train and len(self.setup.batches["train"]):
            outcome = self._training.round(question.round, weights, rate=question.learning_rate)
            loss, examples, steps = outcome.loss, outcome.examples, outcome.steps
        sent = self._sent(question, base=weights, trained=examples > 0)
        self._note_round(question, loss)
        tells = tells_mean("training-loss", n=examples, policy=self.policy) and not self._training.is_private
        report = RoundReport(
            round=question.round,
            validation=validation,
            examples=examples,
            train_loss=rounded(min(loss, LOSS_CAP)) if tells and loss is not None else None,
            steps=steps,
            compute_seconds=time.perf_counter() - began,
            weights_digest=sent.digest,
            following=sent.following,
        )
        return report, sent.wire

    def _sent(self, question: TrainRound, *, base: FlatArray, trained: bool) -> _Sent:
        """What travels after a round: nothing where nothing was trained, unless masks must hide even that."""
        if question.train and self.plan.secure_aggregation is not None:
            assert self.masker is not None  # checked
            wire, following = self.masker.mask(question, base=base, trained=get_flat(self.setup.module))
            return _Sent(wire, hashlib.sha256(wire.tobytes()).hexdigest(), following)
        if not trained:
            return _Sent()
        wire, arrived = self._encode(question.round, base=base)
        return _Sent(wire, digest(arrived, self.plan.tensors))

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

    def _own_loss(self) -> float | None:
        """Mean validation loss for this site's own eyes, whatever its policy releases."""
        labels = self.setup.batches["val"].labels
        return capped_loss_sum(self._predict("val"), labels=labels) / len(labels) if len(labels) else None

    def _train_local(self, weights: FlatArray) -> tuple[LocalReport, FlatArray]:
        """As many epochs as the federation's, one optimiser throughout, the best by own validation."""
        if not self.policy.local_only:
            raise PlanRefusedError(
                "this site's own model was requested", expected="no such request (policy.local_only: false)"
            )
        began = time.perf_counter()
        self.setup.load_weights(weights)
        outcome = self._training.own_model(
            weights,
            validate=self._own_loss,
            on_epoch=lambda done, total: self.observer.progress("own model, for comparison", done, total),
        )
        tells = tells_mean("validation", n=len(self.setup.batches["val"]), policy=self.policy)
        report = LocalReport(
            epochs=len(outcome.losses),
            best_epoch=outcome.best_epoch,
            validation_loss=rounded(outcome.best_loss) if tells and outcome.best_loss is not None else None,
            compute_seconds=time.perf_counter() - began,
            weights_digest=digest(outcome.best, self.plan.tensors),
        )
        return report, outcome.best

    # ---- evaluation ---------------------------------------------------------------------

    def _predict(self, split: Split) -> ScoreMatrix:
        return predict(self.setup.module, self.setup.batches[split], device=self.setup.device)

    def _validation(self, logits: ScoreMatrix) -> ValidationReport:
        labels = self.setup.batches["val"].labels
        return validation_report(logits, labels, classes=self.plan.task.classes, policy=self.policy)

    @property
    def held_out_patients(self) -> tuple[str, ...]:
        """What stands for the held-out patients in the ledger of looks."""
        rows = self.dataset.indices("test", self.plan.task)
        return looks.patients_of(self.dataset.subjects[row] for row in rows)

    @property
    def _test_fingerprint(self) -> str:
        return self.dataset.fingerprint_for(self.plan.task, "test")

    def look_of(self, question: EvaluateHeldOut) -> Look | None:
        """What was told of a question's model on these patients before."""
        return self._find_look(_key_of(question))

    def _find_look(self, model: str) -> Look | None:
        return self.looks.find(model, patients=self.held_out_patients, classes=self.plan.task.classes)

    def _check_same_patients(self, question: EvaluateHeldOut) -> None:
        found = self._test_fingerprint
        if found != question.test_fingerprint:
            raise PlanRefusedError(
                "the held-out set has changed since the run began",
                got=found[:12],
                expected=question.test_fingerprint[:12],
            )

    def _held_out(self, question: EvaluateHeldOut, wire: WireArray | None) -> HeldOutAnswer:
        self._check_same_patients(question)
        weights = None if question.members else self._checked(question, wire)
        look = self.look_of(question)
        if look is None or look.report is None:
            look = self._look(question, weights)
        return HeldOutAnswer(
            model=question.model,
            report=HeldOutReport.model_validate(look.report),
            paired=self._compared(look, question.against),
        )

    def _pooled(self, question: EvaluateHeldOut, wire: WireArray | None) -> tuple[PooledAnswer, WireArray]:
        """Held-out counts for a sum over hospitals; asked again, the same counts under new masks."""
        self._check_same_patients(question)
        weights = self._checked(question, wire)
        assert self.masker is not None  # checked
        look = self.look_of(question)
        if look is None or not look.pooled:
            if look is not None and look.report is not None:
                raise _told_alone(question.model)
            opened, logits = self._scored(question, weights)
            look = opened.model_copy(
                update={
                    "labels": tuple(int(label) for label in self.setup.batches["test"].labels),
                    "logits": tuple(tuple(map(float, row)) for row in logits),
                    "starts": (tuple(range(CELLS)),) * len(opened.classes),
                }
            )
        earlier = self._nearly_the_same(look)
        if any(not one.pooled for one in earlier):
            raise _told_alone(question.model)
        counts = held_out_counts(look.scores, np.array(look.labels, dtype=np.int64), classes=look.classes)
        if self.plan.digest not in look.pooled:
            look = look.model_copy(update={"pooled": (*look.pooled, self.plan.digest)})
            self.looks.keep(look)
            self._note_look(look)
        plans = {plan for one in (look, *earlier) for plan in one.pooled} - {self.plan.digest}
        sent = self.masker.mask_counts(
            question, [int(count) for count in counts.vector], earlier=sorted(plans)
        )
        digest_of_sent = hashlib.sha256(sent.tobytes()).hexdigest()
        return PooledAnswer(model=question.model, weights_digest=digest_of_sent), sent

    def _nearly_the_same(self, look: Look) -> list[Look]:
        """Other looks at these patients whose figures and this one's could be subtracted."""
        return [
            one
            for one in self.looks.at(look.patients)
            if not one.is_of(look)
            and any(
                self.looks.nearest(
                    look.scores,
                    labels=np.array(look.labels, dtype=np.int64),
                    plan=self.plan.digest,
                    patients=look.patients,
                    classes=look.classes,
                    starts=look.starts,
                    min_cell=self.policy.min_cell,
                    among=[one],
                )
            )
        ]

    def _scored(self, question: EvaluateHeldOut, weights: FlatArray | None) -> tuple[Look, ScoreMatrix]:
        """Open the held-out set for a model: the look that is written down of that, and its logits."""
        classes, before = self.plan.task.classes, self.look_of(question)
        if before is not None and before.pooled:  # it is scored, and its counts left in a sum
            return before, before.scores
        if weights is not None:
            self.setup.load_weights(weights)
            if self.judges_heads:
                check_columns(self.setup.module, name=question.model)
        opened = Look(
            at=looks.now(),
            run_id=self.run_id,
            plan=self.plan.digest,
            name=question.model,
            model=_key_of(question),
            classes=classes,
            patients=self.held_out_patients,
        )
        self.looks.keep(opened)  # before anything is computed: whatever comes of it, it is a look
        if weights is None:
            logits = self._ensemble(question.members)
        else:
            with classifier_inputs(self.setup.module) as inputs:
                logits = self._predict("test").astype(np.float64)
            fault = fault_of_scores(self.setup.module, logits, inputs) if self.judges_heads else ""
            if fault:
                self.observer.note(f"model {question.model} is not told of: {fault}")
                raise PlanRefusedError(f"model {question.model} sets patients apart as training does not")
        return opened, logits

    def _look(self, question: EvaluateHeldOut, weights: FlatArray | None) -> Look:
        """Open the held-out set for a model, and write down what may leave of it."""
        labels, classes = self.setup.batches["test"].labels, self.plan.task.classes
        opened, logits = self._scored(question, weights)
        bins = score_counts(margins(logits), labels, policy=self.policy)
        starts, patients = tuple(one for one, _ in bins), opened.patients
        others = [one for one in self.looks.at(patients) if not one.is_of(opened)]
        near = self.looks.nearest(
            logits,
            labels=labels,
            plan=self.plan.digest,
            patients=patients,
            classes=classes,
            starts=starts,
            min_cell=self.policy.min_cell,
            among=others,
        )
        if opened.pooled:  # its sum over hospitals would complete what is withheld here
            near = (True, True)
        report = site_report(logits, labels, classes=classes, policy=self.policy, near=Near(*near))
        look = opened.model_copy(
            update={
                "labels": tuple(int(label) for label in labels),
                "logits": tuple(tuple(map(float, row)) for row in logits),
                "starts": starts,
                "report": report.model_dump(mode="json"),
            }
        )
        self.looks.keep(look)
        self._note_look(look)
        return look

    def _note_look(self, look: Look) -> None:
        self.observer.note(
            f"held-out set opened for model {look.name} ({look.model[:12]}): "
            f"{len(self.looks.at(look.patients))} models so far, {self.policy.held_out_models} allowed"
        )

    def _compared(self, look: Look, against: str | None) -> PairedReport | None:
        """A model compared with this one, once; None where it was never looked at."""
        other = None if against is None else self._find_look(against)
        if against is None or other is None or other.report is None:
            return None
        if (kept := look.compared.get(against)) is None:
            pair = (other, look)
            first, second = (HeldOutReport.model_validate(one.report) for one in pair)
            report = paired_report(
                other.scores,
                look.scores,
                np.array(look.labels, dtype=np.int64),
                classes=look.classes,
                policy=self.policy,
                released=(first, second),
            )
            kept = report.model_dump(mode="json")
            self.looks.keep(look.model_copy(update={"compared": {**look.compared, against: kept}}))
        return PairedReport.model_validate(kept)

    def _ensemble(self, members: Sequence[str]) -> ScoreMatrix:
        """Logarithms of the members' mean probabilities, which are an ensemble's logits."""
        found = [self._find_look(member) for member in members]
        scores = [look.scores for look in found if look is not None and look.report is not None]
        if len(scores) < len(members):
            raise ProtocolError("an ensemble of models that this site has not evaluated")
        return logsumexp(log_softmax(np.stack(scores), axis=-1), axis=0) - np.log(len(members))


@dataclass(frozen=True, slots=True)
class _Sent:
    """What travels of a round's update."""

    wire: WireArray | None = None
    digest: str | None = None
    following: SiteKeys | None = None


def _told_alone(model: str) -> PlanRefusedError:
    return PlanRefusedError(
        f"a sum over hospitals for model {model}",
        got="a model whose figures, or nearly the same, this site has told by itself",
        expected="one that answers otherwise, since the sum would complete what was withheld then",
    )


def _key_of(question: EvaluateHeldOut) -> str:
    """What stands for a question's model in the ledger of looks."""
    return looks.ensemble_key(question.members) if question.members else question.weights_digest or ""
