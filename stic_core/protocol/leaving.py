"""What leaves a hospital under a plan and its own policy: what its operator approves, and what its log then shows.

A test holds each case against the audit log of a run.
"""

from __future__ import annotations

from dataclasses import dataclass

from stic_core.config import ASKED, RELEASES, PolicyConfig, Release, Transport
from stic_core.evaluation.held_out_counts import size_of
from stic_core.protocol.compression import wire_bytes
from stic_core.protocol.mask_messages import MASKED_COUNTS
from stic_core.protocol.messages import RunPlan

NO_FIGURES = ("preparing", "acknowledged", "unprepared", "refusal", "failure")
"""Kinds of messages that hold neither weights nor figures about patients; any may leave at any time."""

MASKING = ("mask-keys-report", "mask-shares-report", "survivors-report", "unmask-report")
"""The same with secure aggregation: keys, shares and signatures, and the number of training patients once more."""

_IN_TRAINING: tuple[Release, ...] = ("training-loss", "validation")


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that leave with one kind of message.

    Args:
        messages: that carry them, at most; one more for each answer that is lost, or round that is repeated.
        tensors, values, bytes: of each message.
    """

    messages: int
    tensors: int
    values: int
    bytes: int
    transport: Transport


@dataclass(frozen=True, slots=True)
class Leaving:
    """All that may leave one hospital in a run.

    Args:
        messages: how many of each kind at most, beside `NO_FIGURES`; the same note on repeats as in `Weights`.
        weights: by the kind of message that carries them, and `pooled-answer`'s masked counts likewise; empty where
            neither leaves.
        figures: kinds about patients; all others are answered as suppressed.
        without_figures: kinds of messages that may leave at any time.
    """

    messages: dict[str, int]
    weights: dict[str, Weights]
    figures: tuple[Release, ...]
    without_figures: tuple[str, ...]


def leaving(plan: RunPlan, policy: PolicyConfig | None = None) -> Leaving:
    """What a plan lets leave.

    Args:
        policy: of the site; None lets all leave that the plan asks for.
    """
    trains = plan.evaluates is None
    own_model = trains and plan.local_only and (policy is None or policy.local_only)
    messages = {"site-description": 1}
    weights: dict[str, Weights] = {}
    if trains:
        messages["round-report"] = plan.rounds + 1  # the last one scores the last model
        weights["round-report"] = _weights(plan, messages=plan.rounds, transport=plan.transport)
    if own_model:
        messages["local-report"] = 1
        weights["local-report"] = _weights(plan, messages=1, transport="float32")
    if plan.evaluation == "pooled":
        size = size_of(len(plan.task.classes))
        messages["pooled-answer"] = plan.held_out_models
        weights["pooled-answer"] = Weights(plan.held_out_models, 1, size, 4 * size, "float32")
    else:
        messages["held-out-answer"] = plan.held_out_models
    kinds = ASKED if policy is None else policy.release
    # Two models are compared in figures that each of them has released.
    compares = trains and plan.local_only and bool({"accuracy", "auc"} & set(kinds))
    without = set() if trains else set(_IN_TRAINING)
    if plan.training.privacy is not None:
        without.add("training-loss")  # an exact figure of training patients, to which no noise was added
    if not compares:
        without.add("comparison")
    figures: tuple[Release, ...] = tuple(kind for kind in RELEASES if kind in kinds and kind not in without)
    masks = trains and plan.secure_aggregation is not None
    return Leaving(messages, weights, figures, (*NO_FIGURES, *(MASKING if masks else ())))


def _weights(plan: RunPlan, *, messages: int, transport: Transport) -> Weights:
    values = sum(spec.size for spec in plan.tensors)
    counts = 0 if plan.secure_aggregation is None else MASKED_COUNTS
    size = wire_bytes(plan.tensors, transport=transport) + 4 * counts
    return Weights(messages, len(plan.tensors), values, size, transport)
