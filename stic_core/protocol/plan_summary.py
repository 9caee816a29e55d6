"""A plan in words: what a person looks at before saying yes, and what changed since the last yes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stic_core.config import POOLED_SITES, PolicyConfig
from stic_core.evaluation.held_out_counts import size_of
from stic_core.privacy.secure_aggregation.exchange import colluders_withstood
from stic_core.protocol.leaving import Leaving, leaving
from stic_core.protocol.messages import RunPlan
from stic_core.system.keys import line_fingerprint

_LONG = 60
"""Characters of a value in a difference."""


def described(plan: RunPlan, policy: PolicyConfig | None = None) -> list[tuple[str, str]]:
    """What a person looks at before saying yes: name and value, in reading order.

    Args:
        policy: of the site that is asked; None says what a site without bounds of its own would send.
    """
    leaves = leaving(plan, policy)
    facts = {
        "plan": plan.digest,
        "name": plan.name,
        "what": "trains nothing; evaluates one model" if plan.evaluates else _work(plan),
        "task": f"{plan.task.name}: {', '.join(plan.task.classes)}",
        "model": f"{plan.model.architecture} on {plan.model.backbone}, {_trains(plan)}",
        "image": "whole slice"
        if plan.image.crop_mm is None
        else f"{plan.image.crop_mm:g} mm around the lesion",
        **(_evaluated(plan) if plan.evaluates else _training(plan)),
        "weights sent": _weights(
            leaves,
            "round-report",
            when="per round" if plan.secure_aggregation is None else "per round, under masks",
        ),
        **_masks(plan, policy),
        "own model sent too": _weights(leaves, "local-report", when="once"),
        "figures sent": f"patients by split and class; {', '.join(leaves.figures) or 'no other'}",
        "messages sent": "; ".join(f"{kind}, at most {count}" for kind, count in leaves.messages.items())
        + f"; {', '.join(leaves.without_figures)}, without figures. What was lost on the way is sent again",
        "hospitals": "; ".join(f"{site} {line_fingerprint(key)}" for site, key in plan.sites.items())
        or "not named",
        "held-out patients": f"at most {plan.held_out_models} models are evaluated on them, each once",
        "clinical columns": ", ".join(plan.clinical_columns),
    }
    return list(facts.items())


def _weights(leaves: Leaving, kind: str, *, when: str) -> str:
    sent = leaves.weights.get(kind)
    if sent is None:
        return "none"
    return f"{when}: {sent.tensors} tensors, {sent.values:,} values, {sent.transport}, {sent.bytes:,} bytes"


def _masks(plan: RunPlan, policy: PolicyConfig | None) -> dict[str, str]:
    """Secure aggregation: what the server sees, against whom it holds, and what it does not cover."""
    config = plan.secure_aggregation
    if plan.evaluates is not None:
        return {}
    if config is None:
        return {"secure aggregation": "off: the server sees this hospital's update"}
    sites, needed = len(plan.sites), plan.threshold
    withstands = colluders_withstood(sites, threshold=needed)
    own = None if policy is None else policy.max_update_norm
    norm = config.max_update_norm if own is None else min(own, config.max_update_norm)
    return {
        "secure aggregation": f"on: the server sees the sum of the updates of at least {needed} of {sites} hospitals, "
        "and none of them; two hospitals can compute each other's from the sum"
        if sites == 2
        else f"on: the server sees the sum of the updates of at least {needed} of {sites} hospitals, and none of them; "
        f"this holds against the server {f'with up to {withstands} of the hospitals' if withstands else 'alone'}",
        "not covered by it": "the figures of the rounds, which are this hospital's own"
        if plan.evaluation == "pooled"
        else "the figures sent, which are this hospital's own",
        "held-out evaluation": _held_out(plan),
        "update bounded": f"values at {config.clip:g}, the norm at {norm:g} times the model's",
    }


def _held_out(plan: RunPlan) -> str:
    if plan.evaluation == "per-site":
        return "per site: figures of this hospital alone leave, after its own rules for small counts"
    needed = max(plan.threshold, POOLED_SITES)
    return (
        f"pooled: {size_of(len(plan.task.classes)):,} counts leave under masks (confusion, scores by class, Brier, log "
        f"loss), and the server sees their sum over at least {needed} hospitals. Small counts of this hospital are in "
        "it: policy.min_cell and policy.min_class do not apply to them"
    )


def _evaluated(plan: RunPlan) -> dict[str, str]:
    return {"model evaluated": f"{(plan.evaluates or '')[:12]}, which comes from the server"}


def _training(plan: RunPlan) -> dict[str, str]:
    training = plan.training
    origin = "of an earlier model" if plan.warm_start else f"fresh, from seed {plan.seed}"
    return {
        "algorithm": plan.algorithm.name,
        "optimiser": f"learning rate {training.learning_rate:g}, batches of {training.batch_size}",
        "noise in training": _noise(plan),
        "first weights": f"{(plan.initial or 'not named')[:12]}, {origin}",
    }


def _noise(plan: RunPlan) -> str:
    """What `training.privacy` promises, and to whom."""
    privacy = plan.training.privacy
    if privacy is None:
        return "none: nothing limits what the trained weights can tell of a patient"
    cost = (
        f"noise multiplier {privacy.noise_multiplier:g}; what that costs depends on this site's number of patients"
        if privacy.epsilon is None
        else f"epsilon {privacy.epsilon:g}"
    )
    own = " and this site's own model" if plan.local_only else ""
    return (
        f"{cost}, delta {privacy.delta:g}, each patient's part in a step cut to norm {privacy.max_grad_norm:g}. "
        f"That covers each training patient of this site with all images, in all rounds of this plan{own}, "
        "in all its runs together. It covers no validation or held-out patient, no number of patients, no other plan"
    )


def _work(plan: RunPlan) -> str:
    training = plan.training
    each = (
        f"{training.local_steps} steps"
        if training.local_steps
        else f"{training.local_epochs} local epoch{'s' * (training.local_epochs != 1)}"
    )
    return f"at most {plan.rounds} rounds of {each}"


def _trains(plan: RunPlan) -> str:
    blocks = plan.model.trainable_blocks
    return "backbone frozen" if blocks == 0 else f"{blocks} backbone blocks train"


def differences(before: RunPlan, after: RunPlan) -> list[str]:
    """What differs between two plans, one line per difference, such as `training.learning_rate: 0.001 -> 0.1`."""
    old, new = dict(_leaves(before.model_dump(mode="json"))), dict(_leaves(after.model_dump(mode="json")))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [
        f"{key}: different names or shapes"
        if key == "tensors"
        else f"{key}: {_short(old.get(key))} -> {_short(new.get(key))}"
        for key in changed
    ]


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, part in value.items():
        if isinstance(part, Mapping) and part:
            yield from _leaves(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", part


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= _LONG else text[: _LONG - 3] + "..."
