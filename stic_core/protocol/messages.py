"""What the server asks and what a site answers: frozen, versioned messages, as JSON text.

The weights travel beside a message as one flat array; a message that goes with weights
carries their digest. Both ends validate. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from stic_core.config import (
    AlgorithmConfig,
    EvaluationMode,
    FedAvgConfig,
    FederationConfig,
    ImageConfig,
    ModelConfig,
    SecureAggregation,
    SiteName,
    TrainingConfig,
    Transport,
)
from stic_core.data.clinical import COLUMNS
from stic_core.data.dataset import SPLITS, Split
from stic_core.errors import ProtocolError
from stic_core.evaluation import HeldOutReport, PairedReport, ValidationReport
from stic_core.evaluation.reliability import Reliability
from stic_core.privacy.audit_release import ReleasedAudit
from stic_core.privacy.secure_aggregation.exchange import threshold_of
from stic_core.protocol.fields import (
    VERSION,
    ClassName,
    Digest,
    Message,
    ModelName,
    PublicKey,
    Round,
    RunId,
    Signature,
)
from stic_core.protocol.mask_messages import Masking, MaskQuestion, MaskReport, SiteKeys
from stic_core.protocol.strict_json import check_json
from stic_core.statistics import Suppressed
from stic_core.statistics.bounds import Count, Finite, NotNegative, Seconds
from stic_core.tasks import Task
from stic_core.tensors.flat import TensorSpec

FEDERATED, ENSEMBLE = "federated", "ensemble"
"""What the two models are called that are no site's own."""


class RunPlan(BaseModel):
    """Everything that determines what will be computed.

    Args:
        rounds: 0 where nothing is trained and a model is only evaluated.
        sites: the admitted hospitals and their public keys, as `site.pub` holds them.
        initial: digest of the weights that training begins with; None where nothing is trained.
        warm_start: those are an earlier model's, and not the fresh ones of `seed`.
        evaluates: digest of the model that is evaluated and not trained; None where one is trained.
        tensors: what travels, in the order of the flat array.
        clinical_columns: the clinical vector's columns, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    task: Task
    image: ImageConfig
    model: ModelConfig
    training: TrainingConfig
    algorithm: AlgorithmConfig = FedAvgConfig()
    rounds: Count
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    determinism: bool
    local_only: bool
    transport: Transport = "float32"
    secure_aggregation: SecureAggregation = None
    evaluation: EvaluationMode = "per-site"
    sites: dict[SiteName, PublicKey] = {}
    initial: Digest | None = None
    warm_start: bool = False
    evaluates: Digest | None = None
    tensors: tuple[TensorSpec, ...]
    clinical_columns: tuple[str, ...] = COLUMNS

    @classmethod
    def of(
        cls,
        config: FederationConfig,
        tensors: tuple[TensorSpec, ...],
        *,
        sites: Mapping[str, str] = MappingProxyType({}),
        initial: str | None = None,
    ) -> RunPlan:
        """The plan that a federation's configuration makes, with the admitted sites and the first weights."""
        return cls(
            name=config.name,
            task=config.task,
            image=config.image,
            model=config.model,
            training=config.training,
            algorithm=config.algorithm,
            rounds=config.rounds,
            seed=config.seed,
            determinism=config.determinism,
            local_only=config.local_only,
            transport=config.transport,
            secure_aggregation=config.secure_aggregation,
            evaluation=config.evaluation,
            sites=dict(sites),
            initial=initial,
            warm_start=config.warm_start is not None,
            tensors=tensors,
        )

    @property
    def held_out_models(self) -> int:
        """How many models a site may be asked about on its held-out patients.

        The best model, each site's own, and their ensemble.
        """
        return len(self.sites) + 2 if self.local_only else 1

    @property
    def threshold(self) -> int:
        """How many hospitals must be left after a masked round, and agree on who is."""
        assert self.secure_aggregation is not None
        return threshold_of(len(self.sites), share=self.secure_aggregation.threshold)

    @property
    def digest(self) -> str:
        """SHA-256 of the plan as canonical JSON: what an operator approves.

        FedAvg is left out of it, and so are secure aggregation, pooled evaluation and noise in training where they
        are off, as in plans from before there was a choice: those stay approved, and their runs can be resumed.
        """
        content = self.model_dump(mode="json")
        if self.algorithm == FedAvgConfig():
            del content["algorithm"]
        if self.secure_aggregation is None:
            del content["secure_aggregation"]
        if self.evaluation == "per-site":
            del content["evaluation"]
        if self.training.privacy is None:
            del content["training"]["privacy"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


# ---- what the server asks ---------------------------------------------------------------


class Describe(Message):
    """The first question of a run: will you take part, and with what?

    The site loads its backbone and its cached features before it answers with its description; while that
    takes long it answers that it is preparing.
    """

    kind: Literal["describe"] = "describe"
    run_id: RunId
    plan: RunPlan


class TrainRound(Message):
    """The global model, to be validated and then trained; weights travel with it.

    Args:
        learning_rate: of this round, by the plan's schedule; None is the plan's own.
        train: False after the last round: validate only.
        masking: where the plan has secure aggregation; None without, and where nothing is trained.
    """

    kind: Literal["train-round"] = "train-round"
    run_id: RunId
    plan_digest: Digest
    round: Round
    weights_digest: Digest
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    train: bool = True
    masking: Masking | None = None


class TrainLocal(Message):
    """Train your own model with the run's plan and nobody's help; the first weights travel with it."""

    kind: Literal["train-local"] = "train-local"
    run_id: RunId
    plan_digest: Digest
    weights_digest: Digest


class EvaluateHeldOut(Message):
    """Open the held-out set for this model, once; its weights travel with it.

    Args:
        model: `federated`, `ensemble`, or the site whose own model it is.
        weights_digest: of the weights that travel with it; None for an ensemble, without any.
        members: digests of models that were evaluated before, whose mean probability is meant.
        best_round: after how many rounds the federated model was had; None for any other.
        signature: of the site whose own model it is (`own_model_statement`); None for any other.
        against: digest of a model that was evaluated before, to be compared on the same patients.
        test_fingerprint: what the site said of its held-out set before training.
        masking: where the plan's evaluation is pooled; None where it is not.
    """

    kind: Literal["evaluate-held-out"] = "evaluate-held-out"
    run_id: RunId
    plan_digest: Digest
    weights_digest: Digest | None
    members: Annotated[tuple[Digest, ...], Field(max_length=1000)] = ()
    best_round: Count | None = None
    signature: Signature | None = None
    against: Digest | None = None
    model: ModelName
    test_fingerprint: Digest
    masking: Masking | None = None


class Finish(Message):
    """The run is over; the final model's weights may travel with it, for the site to keep.

    Args:
        weights_digest: of the weights that travel with it, None without any.
        best_round: after how many rounds the final model was had.
        held_out: how often its scores were right on held-out patients, pooled over the sites; None without weights,
            and where no site releases calibration.
    """

    kind: Literal["finish"] = "finish"
    run_id: RunId
    status: Literal["complete", "failed"]
    weights_digest: Digest | None = None
    best_round: Count | None = None
    held_out: Reliability | None = None


Instruction = Annotated[
    Describe | TrainRound | MaskQuestion | TrainLocal | EvaluateHeldOut | Finish,
    Field(discriminator="kind"),
]

# ---- what a site answers ----------------------------------------------------------------


class SplitCounts(BaseModel):
    """Patients of one split.

    Args:
        n: all of them; see `HeldOutReport` for why this is released even where it is small.
        classes: of each class; suppressed where there are so few that it would tell of one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: Count
    classes: dict[ClassName, Count] | Suppressed

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if isinstance(self.classes, dict) and sum(self.classes.values()) != self.n:
            raise ValueError("patients: the classes do not add up to n")
        return self


class SiteDescription(Message):
    """What a site takes part with: counts and digests, nothing of a patient.

    Args:
        patients: by split.
        fingerprint: of the prepared dataset.
        test_fingerprint: of the held-out set, registered before training.
        phantom: the site's patients are phantoms.
        backbone_digest: of the frozen backbone's weights.
        lacks_models: earlier runs that it took part in and whose final model it does not have.
        privacy_audit: the latest figures that the site's operator released of an audit of a model.
    """

    kind: Literal["site-description"] = "site-description"
    patients: dict[Split, SplitCounts]
    quarantined: Count
    fingerprint: Digest
    test_fingerprint: Digest
    image: ImageConfig
    phantom: bool
    backbone_digest: Digest
    device: Annotated[str, Field(max_length=32)]
    versions: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=64)]],
        Field(max_length=16),
    ]
    lacks_models: Annotated[tuple[RunId, ...], Field(max_length=8)] = ()
    privacy_audit: ReleasedAudit | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if len(self.patients) < len(SPLITS):
            raise ValueError("patients: a split is missing")
        return self


class Preparing(Message):
    """The site takes part and is not ready yet: it loads its data, or computes the backbone's features; ask again.

    Args:
        done, total: steps of the computation; both 0 before it begins.
    """

    kind: Literal["preparing"] = "preparing"
    done: Count = 0
    total: Count = 0


class RoundReport(Message):
    """A round at one site; the trained weights travel with it.

    Args:
        validation: of the model as it came.
        examples: training patients, the weight in the average.
        train_loss: mean over the last local epoch; None with so few training patients that it
            would tell of one.
        compute_seconds: from the message's arrival to its answer.
        weights_digest: of what travels with it, None where nothing was trained. Of a masked update it is
            the SHA-256 of its bytes.
        following: of a masked round, keys for the next one.
    """

    kind: Literal["round-report"] = "round-report"
    round: Round
    validation: ValidationReport
    examples: Count
    train_loss: Finite | None
    steps: Count
    compute_seconds: Seconds
    weights_digest: Digest | None
    following: SiteKeys | None = None


class LocalReport(Message):
    """A site's own model, the best by its own validation; its weights travel with it.

    Args:
        signature: by the site's key, so that the other sites know it for what it is
            (`own_model_statement`); None in a simulation.
    """

    kind: Literal["local-report"] = "local-report"
    epochs: Count
    best_epoch: Count
    validation_loss: NotNegative | None
    compute_seconds: Seconds
    weights_digest: Digest
    signature: Signature | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.best_epoch > self.epochs:
            raise ValueError("the best epoch comes after the last")
        return self


class HeldOutAnswer(Message):
    """The held-out evaluation of one model at one site, in aggregates.

    Args:
        paired: the model that was named in `against` compared with this one; None where none was
            named, or where the site was restarted and no longer has its scores.
    """

    kind: Literal["held-out-answer"] = "held-out-answer"
    model: ModelName
    report: HeldOutReport
    paired: PairedReport | None = None

    @model_validator(mode="after")
    def _same_patients(self) -> Self:
        if self.paired is not None:
            self.paired.check_beside(self.report)
        return self


class PooledAnswer(Message):
    """The held-out evaluation of one model at one site, as counts under masks that travel with it.

    Args:
        weights_digest: SHA-256 of the masked counts' bytes.
    """

    kind: Literal["pooled-answer"] = "pooled-answer"
    model: ModelName
    weights_digest: Digest


class Acknowledged(Message):
    """Understood.

    Args:
        kept_model: digest of the run's final model where the site has it on its disk.
    """

    kind: Literal["acknowledged"] = "acknowledged"
    kept_model: Digest | None = None


class Unprepared(Message):
    """The site does not know this run: it was restarted. Describe the run again, then ask again."""

    kind: Literal["unprepared"] = "unprepared"


class Refusal(Message):
    """The site says no; a decision, not a failure.

    Args:
        reason: made of configuration alone.
        pending: it waits for a person at the site, who may still say yes; ask again.
    """

    kind: Literal["refusal"] = "refusal"
    reason: Annotated[str, Field(max_length=1000)]
    pending: bool = False


class Failure(Message):
    """The site could not do it. The code says the kind; the detail stays in the site's log.

    `NoRoomError` means that its disk is full: the same question, asked again once there is room, gets
    the answer that it would have had.
    """

    kind: Literal["failure"] = "failure"
    code: Annotated[str, Field(pattern=r"^[A-Za-z]{1,64}$")]


Report = Annotated[
    SiteDescription
    | Preparing
    | RoundReport
    | MaskReport
    | LocalReport
    | HeldOutAnswer
    | PooledAnswer
    | Acknowledged
    | Unprepared
    | Refusal
    | Failure,
    Field(discriminator="kind"),
]

_INSTRUCTION: TypeAdapter[Instruction] = TypeAdapter(Instruction)
_REPORT: TypeAdapter[Report] = TypeAdapter(Report)

_T = TypeVar("_T")


def own_model_statement(*, run_id: str, plan_digest: str, weights_digest: str) -> bytes:
    """What a site signs of a model that it trained on its own."""
    return f"stic-federated own model\n{run_id}\n{plan_digest}\n{weights_digest}".encode()


def question_digest(question: TrainRound | EvaluateHeldOut) -> str:
    """Stands for all that determines a round's updates, or an evaluation's counts.

    Sites that were asked differently cannot be summed.

    A server could send all sites but one a model, or a rate, with which they change nothing, and would find the
    one's update in the sum (Pasquini et al. 2022).
    """
    if isinstance(question, EvaluateHeldOut):
        facts = ["held-out", question.model, question.weights_digest, question.best_round]
    else:
        facts = [question.weights_digest, question.learning_rate]
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


def encode(message: Instruction | Report) -> str:
    """A message as JSON text; `decode_...(encode(m))` equals m."""
    return message.model_dump_json()


def decode_instruction(text: str) -> Instruction:
    """Read what a server asks.

    Raises:
        ProtocolError: not plain JSON, or not a message of this version; names the field, never its value.
    """
    return _decode(text, _INSTRUCTION)


def decode_report(text: str) -> Report:
    """Read what a site answers.

    Raises:
        ProtocolError: not plain JSON, or not a message of this version; names the field, never its value.
    """
    return _decode(text, _REPORT)


def _decode(text: str, adapter: TypeAdapter[_T]) -> _T:
    check_json(text)
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        # An unknown key stands in it too, and may be long.
        field = ".".join(str(part) for part in first["loc"])[:100] or "(whole message)"
        # What our own checks say holds no value either, and says more than that one of them failed.
        kind = (
            first["msg"].removeprefix("Value error, ")[:200]
            if first["type"] == "value_error"
            else first["type"]
        )
        raise ProtocolError(
            f"a message does not fit protocol version {VERSION}",
            got=f"{field}: {kind}",
            advice="Install the same version of stic-federated on both sides.",
        ) from None
