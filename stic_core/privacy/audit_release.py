"""What of a privacy audit may leave a site: three figures, of enough patients, once for each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from stic_core.config import PolicyConfig
from stic_core.errors import PlanRefusedError
from stic_core.privacy.looks import HeldOutLooks
from stic_core.privacy.membership import Attack, Familiarity
from stic_core.privacy.release import too_few, withheld
from stic_core.statistics import Absent, NotEstimable, Suppressed
from stic_core.statistics.bounds import Count, Finite, Share

AUDIT_NAME = "privacy-audit"
"""What the ledger of looks calls it, where a model's name would stand."""


class _Figure(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AttackFigure(_Figure):
    """An attack, with two decimals.

    Args:
        auc: over pairs of a training and a held-out patient of the same class.
        ci95: DeLong's.
        noticed: a smaller AUC would have gone unnoticed.
    """

    auc: Share
    ci95: tuple[Share, Share] | NotEstimable
    noticed: Share
    p: Share


class SiteFigure(_Figure):
    """How much better the site's training patients are known than its held-out ones, with two decimals.

    Args:
        difference: nats.
    """

    difference: Finite
    ci95: tuple[Finite, Finite] | NotEstimable
    p: Share


class ReleasedAudit(_Figure):
    """The three figures of one model at one site.

    Args:
        model: digest of its weights.
        train, held_out: patients.
        loss, likelihood_ratio: the two attacks on single patients.
        site: on the group.
    """

    model: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    train: Count
    held_out: Count
    loss: AttackFigure | NotEstimable | Suppressed
    likelihood_ratio: AttackFigure | NotEstimable | Suppressed
    site: SiteFigure | NotEstimable | Suppressed


def release_audit(
    model: str,
    *,
    train: int,
    held_out: int,
    loss: Attack | NotEstimable,
    likelihood_ratio: Attack | NotEstimable,
    site: Familiarity | NotEstimable,
    policy: PolicyConfig,
) -> ReleasedAudit:
    """What may leave of an audit, under the site's policy.

    Each figure is over all training and all held-out patients: it needs `min_class` of both.

    Args:
        model: digest of its weights.
        train, held_out: patients.
    """
    kept = _kept(train, held_out, policy=policy)
    return ReleasedAudit(
        model=model,
        train=train,
        held_out=held_out,
        loss=kept or _attack(loss),
        likelihood_ratio=kept or _attack(likelihood_ratio),
        site=kept or _site(site),
    )


def check_release(
    looks: HeldOutLooks, *, model: str, patients: Sequence[str], held_out: Sequence[str], policy: PolicyConfig
) -> ReleasedAudit | None:
    """What left of a model's audit before; None where a new one may leave.

    An audit that leaves is a look at the held-out patients and counts against `policy.held_out_models`. What
    left once is not computed anew: two AUCs of nearly the same patients would tell of those in between.

    Args:
        model: digest of its weights.
        patients: training and held-out patients, as the ledger knows them.
        held_out: the held-out ones of them.

    Raises:
        PlanRefusedError: the budget is used up, or an audit of nearly the same patients has left.
    """
    for look in looks:
        if look.audit is None:
            continue
        told = ReleasedAudit.model_validate(look.audit)
        apart = set(look.patients) ^ set(patients)
        if told.model == model and not apart:
            return told
        if 0 < len(apart) < policy.min_cell:
            raise PlanRefusedError(
                "the audit's figures stay here",
                got=f"patients that differ from an earlier release's by {len(apart)}",
                expected=f"the same ones, or {policy.min_cell} others",
            )
    looks.check_room(held_out, plan=AUDIT_NAME, of_plan=policy.held_out_models, in_all=policy.held_out_models)
    return None


def latest_release(
    looks: HeldOutLooks, *, held_out: Sequence[str], policy: PolicyConfig
) -> ReleasedAudit | None:
    """The newest audit that was released of these held-out patients, while the policy still lets it leave."""
    if not held_out or withheld("privacy-audit", policy=policy) is not None:
        return None
    told = [look.audit for look in looks if look.audit is not None and set(held_out) <= set(look.patients)]
    return ReleasedAudit.model_validate(told[-1]) if told else None


def _kept(train: int, held_out: int, *, policy: PolicyConfig) -> Absent | None:
    if (why := withheld("privacy-audit", policy=policy)) is not None:
        return why
    for n, of in ((train, "training"), (held_out, "held-out")):
        if n < max(policy.min_class, policy.min_cell) or too_few(n, policy=policy) is not None:
            return Suppressed(f"fewer than {max(policy.min_class, policy.min_cell)} {of} patients")
    return None


def _attack(found: Attack | NotEstimable) -> AttackFigure | NotEstimable:
    if isinstance(found, NotEstimable):
        return found
    interval = found.within.logit()
    return AttackFigure(
        auc=round(found.within.value, 2),
        ci95=interval
        if isinstance(interval, NotEstimable)
        else (round(interval[0], 2), round(interval[1], 2)),
        noticed=round(found.noticed, 2),
        p=round(found.p, 3),
    )


def _site(found: Familiarity | NotEstimable) -> SiteFigure | NotEstimable:
    if isinstance(found, NotEstimable):
        return found
    interval = found.ci95
    return SiteFigure(
        difference=round(found.difference, 2),
        ci95=interval
        if isinstance(interval, NotEstimable)
        else (round(interval[0], 2), round(interval[1], 2)),
        p=round(found.p, 3),
    )
