"""A plan in words: what a person looks at before saying yes, and what changed since the last yes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stic_core.protocol.messages import RunPlan
from stic_core.system.keys import line_fingerprint

_LONG = 60
"""Characters of a value in a difference."""


def described(plan: RunPlan) -> list[tuple[str, str]]:
    """What a person looks at before saying yes: name and value, in reading order."""
    values = sum(spec.size for spec in plan.tensors)
    training = plan.training
    work = (
        f"{training.local_steps} steps" if training.local_steps else f"{training.local_epochs} local epochs"
    )
    facts = {
        "plan": plan.digest,
        "name": plan.name,
        "what": "trains nothing; evaluates one model"
        if plan.evaluates
        else f"{plan.rounds} rounds of {work}",
        "task": f"{plan.task.name}: {', '.join(plan.task.classes)}",
        "model": f"{plan.model.architecture} on {plan.model.backbone}, {_trains(plan)}",
        "algorithm": plan.algorithm.name,
        "image": "whole slice"
        if plan.image.crop_mm is None
        else f"{plan.image.crop_mm:g} mm around the lesion",
        "optimiser": f"learning rate {training.learning_rate:g}, batches of {training.batch_size}",
        "weights sent": f"{len(plan.tensors)} tensors, {values:,} values, {plan.transport}",
        "first weights": f"{(plan.initial or plan.evaluates or 'not named')[:12]}, {_origin(plan)}",
        "own model sent too": "yes, for comparison" if plan.local_only else "no",
        "hospitals": "; ".join(f"{site} {line_fingerprint(key)}" for site, key in plan.sites.items())
        or "not named",
        "held-out patients": f"at most {plan.held_out_models} models are evaluated on them, each once",
        "clinical columns": ", ".join(plan.clinical_columns),
    }
    return list(facts.items())


def _origin(plan: RunPlan) -> str:
    if plan.evaluates:
        return "the model that is evaluated"
    return "of an earlier model" if plan.warm_start else f"fresh, from seed {plan.seed}"


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
