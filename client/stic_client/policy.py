"""What the site agrees to; every plan is checked before anything of it is computed."""

from __future__ import annotations

from stic_core.clinical import COLUMNS
from stic_core.config import PolicyConfig
from stic_core.errors import PlanRefusedError
from stic_core.protocol import RunPlan


def check_plan(plan: RunPlan, policy: PolicyConfig) -> None:
    """Refuse a plan that goes beyond the site's policy.

    Raises:
        PlanRefusedError: says which bound, made of configuration alone since it travels.
    """
    if plan.task.name not in policy.tasks:
        raise PlanRefusedError(
            "task", got=plan.task.name, expected=f"one of policy.tasks: {', '.join(policy.tasks)}"
        )
    if plan.rounds > policy.max_rounds:
        raise PlanRefusedError(
            "rounds", got=plan.rounds, expected=f"at most {policy.max_rounds} (policy.max_rounds)"
        )
    if plan.training.local_epochs > policy.max_local_epochs:
        raise PlanRefusedError(
            "training.local_epochs",
            got=plan.training.local_epochs,
            expected=f"at most {policy.max_local_epochs} (policy.max_local_epochs)",
        )
    if plan.clinical_columns != COLUMNS:
        raise PlanRefusedError(
            "clinical_columns", got="another vocabulary", expected="the 20 columns of this version"
        )
