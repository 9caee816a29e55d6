"""`privacy_audit.html`: one file that opens without a network and stays in the hospital."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stic_client.html import template
from stic_client.privacy_audit.outcome import AuditOutcome
from stic_client.privacy_audit.wording import lower_by, named, patients, verdicts
from stic_core.evaluation import p_text
from stic_core.privacy.membership import Attack
from stic_core.statistics import Estimate, NotEstimable

WIDE, ROW = 400, 28
"""Width of the plot for AUCs of 0 to 1, and height of a row, in its own units."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One AUC in the plot.

    Args:
        title: of the row; `within` of a row below it, for one class.
        at, lower, upper: x of the AUC and of its interval's ends, in the plot's units; None where there is none.
        null, noticed: x of what case mix alone gives, and of the least that would have been noticed.
        told: figures as text, or why there are none.
    """

    title: str
    within: bool
    at: float | None
    lower: float | None
    upper: float | None
    null: float | None
    noticed: float | None
    told: str


def render(outcome: AuditOutcome) -> str:
    """The page as HTML."""
    return template("privacy_audit.html.j2", p=p_text).render(
        outcome=outcome,
        patients=patients(outcome),
        verdicts=verdicts(outcome),
        colour={"yes": "problem", "too few to tell": "warning", "not found": "ok"},
        bars=list(_bars(outcome)),
        wide=WIDE,
        row=ROW,
        named=[(name, named(found)) for name, found in outcome.attacks],
        known=None if isinstance(outcome.site_known, NotEstimable) else outcome.site_known,
        by="" if isinstance(outcome.site_known, NotEstimable) else lower_by(outcome.site_known),
    )


def _bars(outcome: AuditOutcome) -> Iterator[Bar]:
    for name, found in outcome.attacks:
        title = f"By the {name}"
        if not isinstance(found, Attack):
            yield Bar(title, False, None, None, None, None, None, "not measured: see below")
            continue
        yield _bar(title, found.within, null=0.5, noticed=found.noticed, p=f", {p_text(found.p)}")
        for of_class, auc in found.classes.items():
            if isinstance(auc, NotEstimable):
                yield Bar(of_class, True, None, None, None, None, None, auc.reason)
            else:
                yield _bar(of_class, auc)
        yield _bar("all pairs", found.auc, null=found.null)


def _bar(
    title: str, auc: Estimate, *, null: float | None = None, noticed: float | None = None, p: str = ""
) -> Bar:
    interval = auc.logit()
    ends = (None, None) if isinstance(interval, NotEstimable) else interval
    between = "" if isinstance(interval, NotEstimable) else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    lower, upper = (None if end is None else WIDE * end for end in ends)
    return Bar(
        title,
        noticed is None,
        WIDE * auc.value,
        lower,
        upper,
        None if null is None else WIDE * null,
        None if noticed is None else WIDE * noticed,
        f"{auc.value:.2f}{between}{p}",
    )
