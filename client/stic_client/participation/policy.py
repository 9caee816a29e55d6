"""What the site agrees to; every plan is checked before anything of it is computed."""

from __future__ import annotations

from collections.abc import Iterable

from stic_core.config import POOLED_SITES, PolicyConfig, check_private_model, unmasked_part
from stic_core.data.clinical import COLUMNS
from stic_core.errors import PlanRefusedError
from stic_core.protocol.messages import RunPlan
from stic_core.tasks import TASKS


def check_plan(plan: RunPlan, policy: PolicyConfig) -> None:
    """Refuse a plan that goes beyond the site's policy.

    Raises:
        PlanRefusedError: says which bound, made of configuration alone since it travels.
    """
    training = plan.training
    _one_of("task", plan.task.name, policy.tasks, key="tasks")
    known = TASKS.get(plan.task.name, plan.task)
    if plan.task != known:  # else a name that the site agreed to would choose other patients
        raise PlanRefusedError(
            f"classes of task {known.name}",
            got=", ".join(plan.task.classes),
            expected=", ".join(known.classes),
            advice="A task of the coordinator's own needs a name of its own, which this site adds to policy.tasks.",
        )
    _one_of("model.architecture", plan.model.architecture, policy.architectures, key="architectures")
    _one_of("model.backbone", plan.model.backbone, policy.backbones, key="backbones")
    bounds = (
        ("rounds", plan.rounds, "max_rounds", policy.max_rounds),
        ("training.local_epochs", training.local_epochs, "max_local_epochs", policy.max_local_epochs),
        ("training.local_steps", training.local_steps or 0, "max_local_steps", policy.max_local_steps),
        ("training.learning_rate", training.learning_rate, "max_learning_rate", policy.max_learning_rate),
        ("training.batch_size", training.batch_size, "max_batch_size", policy.max_batch_size),
    )
    for name, value, key, bound in bounds:
        if value > bound:
            raise PlanRefusedError(name, got=value, expected=f"at most {bound} (policy.{key})")
    if plan.rounds and training.privacy is None and (needs := _privacy_key(policy)):
        raise PlanRefusedError(
            "training.privacy", got="none", expected=f"noise in training, since this site has policy.{needs}"
        )
    if fault := check_private_model(plan.model, training):
        raise PlanRefusedError(
            "model.trainable_blocks", got=plan.model.trainable_blocks, expected=f"0: {fault}"
        )
    if plan.held_out_models > policy.held_out_models:
        raise PlanRefusedError(
            "models on the held-out patients",
            got=plan.held_out_models,
            expected=f"at most {policy.held_out_models} (policy.held_out_models)",
        )
    _check_masks(plan, policy)
    _check_evaluation(plan, policy)
    if plan.clinical_columns != COLUMNS:
        raise PlanRefusedError(
            "clinical_columns", got="a different vocabulary", expected="the 20 columns of this version"
        )


def _privacy_key(policy: PolicyConfig) -> str | None:
    """The key of a policy that asks for noise in training."""
    if policy.privacy_budget is not None:
        return "privacy_budget"
    return None if policy.max_epsilon is None else "max_epsilon"


def _check_masks(plan: RunPlan, policy: PolicyConfig) -> None:
    """Secure aggregation, where the plan has it or the site asks for it."""
    if plan.evaluates is not None:
        return
    if plan.secure_aggregation is None:
        if policy.secure_aggregation == "required":
            raise PlanRefusedError(
                "secure_aggregation", got="off", expected="on (policy.secure_aggregation: required)"
            )
        return
    if why := unmasked_part(plan.transport, plan.local_only):
        raise PlanRefusedError(why)
    if len(plan.sites) < 2:
        raise PlanRefusedError(
            "hospitals with secure aggregation", got=len(plan.sites), expected="at least 2"
        )


def _check_evaluation(plan: RunPlan, policy: PolicyConfig) -> None:
    """Held-out counts of this site, or of all together."""
    if policy.evaluation not in ("any", plan.evaluation):
        raise PlanRefusedError(
            "evaluation", got=plan.evaluation, expected=f"{policy.evaluation} (policy.evaluation)"
        )
    if plan.evaluation != "pooled":
        return
    if plan.secure_aggregation is None:
        raise PlanRefusedError("evaluation: pooled", expected="secure_aggregation beside it")
    if len(plan.sites) < POOLED_SITES:
        raise PlanRefusedError(
            "hospitals with evaluation: pooled", got=len(plan.sites), expected=f"at least {POOLED_SITES}"
        )
    if kept := sorted({"accuracy", "auc", "calibration", "confusion", "histograms"} - {*policy.release}):
        raise PlanRefusedError(
            "evaluation: pooled",
            expected=f"a policy.release that lists {', '.join(kept)}, which are in the sum",
        )


def _one_of(name: str, value: str, allowed: Iterable[str] | None, *, key: str) -> None:
    if allowed is not None and value not in allowed:
        raise PlanRefusedError(name, got=value, expected=f"one of policy.{key}: {', '.join(allowed)}")
