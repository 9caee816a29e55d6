"""An audit in plain words: what a data engineer may tell a data protection officer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stic_client.privacy_audit.outcome import AuditOutcome
from stic_core.evaluation import p_text
from stic_core.privacy.membership import Attack, Familiarity
from stic_core.statistics import NotEstimable

Answer = Literal["yes", "not found", "too few to tell"]

LEVEL = 0.05
BLUNT = 0.6
"""An audit that would not have noticed an AUC as large as this has too few patients to say no."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one question.

    Args:
        question, answer: in words; `short` is the answer in a word.
    """

    question: str
    short: Answer
    answer: str


def verdicts(outcome: AuditOutcome) -> list[Verdict]:
    """Single patients first, then the hospital as a whole."""
    return [_single(outcome), _group(outcome)]


def _single(outcome: AuditOutcome) -> Verdict:
    question = "Can this model be used to tell whether a patient was in the training set?"
    found = [(name, one) for name, one in outcome.attacks if isinstance(one, Attack)]
    if not found:
        return Verdict(question, "too few to tell", f"It cannot be measured here: {_why(outcome.loss)}.")
    name, best = min(found, key=lambda pair: (pair[1].p, -pair[1].within.value))
    if best.p * len(found) < LEVEL:  # Bonferroni: the better of two attacks was picked
        return Verdict(question, "yes", f"Better than by chance. By the {name}, {picks(best)}.")
    if best.noticed > BLUNT:
        return Verdict(
            question,
            "too few to tell",
            f"Nothing was found, but {patients(outcome)} are too few to say no: only if the right one were "
            f"picked in {best.noticed:.0%} of the cases or more would this audit have noticed.",
        )
    return Verdict(
        question,
        "not found",
        f"No sign of it. By the {name}, {picks(best)}; {best.noticed:.0%} or more would have been noticed.",
    )


def picks(found: Attack) -> str:
    """An AUC in words, beside what chance gives."""
    interval = found.within.logit()
    between = (
        "" if isinstance(interval, NotEstimable) else f" (95 % CI {interval[0]:.0%} to {interval[1]:.0%})"
    )
    return (
        "of one training and one held-out patient of the same class an attacker picks the right one in "
        f"{found.within.value:.0%} of the cases{between}; chance gives 50% ({p_text(found.p)})"
    )


def _group(outcome: AuditOutcome) -> Verdict:
    question = (
        "Can it be used to tell whether this hospital's patients, as a group, were in the training set?"
    )
    found = outcome.site_known
    if isinstance(found, NotEstimable):
        return Verdict(question, "too few to tell", f"It cannot be measured here: {found.reason}.")
    told = f"their loss is {lower_by(found)} than that of held-out patients of the same class ({p_text(found.p)})"
    if found.p < LEVEL:
        return Verdict(
            question,
            "yes",
            f"By someone who has their images and values and a similar group to compare: {told}.",
        )
    blunt = isinstance(outcome.loss, NotEstimable) or outcome.loss.noticed > BLUNT
    if blunt:
        return Verdict(question, "too few to tell", f"Nothing was found in {patients(outcome)}: {told}.")
    return Verdict(question, "not found", f"No sign of it: {told}.")


def lower_by(found: Familiarity) -> str:
    """Such as `0.10 (95 % CI 0.06 to 0.14) nats lower`."""
    sign = 1 if found.difference >= 0 else -1
    between = ""
    if not isinstance(found.ci95, NotEstimable):
        lower, upper = sorted(sign * end for end in found.ci95)
        between = f" (95 % CI {lower:.2f} to {upper:.2f})"
    return f"{abs(found.difference):.2f}{between} nats {'lower' if sign > 0 else 'higher'}"


def patients(outcome: AuditOutcome) -> str:
    """Such as `84 training and 12 held-out patients`."""
    return f"{outcome.train} training and {outcome.held_out} held-out patients"


def named(found: Attack | NotEstimable) -> str:
    """How many patients could be named with confidence."""
    if isinstance(found, NotEstimable):
        return f"not known: {found.reason}"
    rate = found.true_positives
    if isinstance(rate, NotEstimable):
        return f"not known: it {rate.reason}"
    return f"{rate.value:.1%} of the training patients (95 % CI {rate.ci95[0]:.1%} to {rate.ci95[1]:.1%})"


def described(outcome: AuditOutcome) -> list[str]:
    """The lines of the terminal."""
    lines = [
        f"{patients(outcome)} of {outcome.site}, {outcome.shadow_models} shadow models; nothing was sent"
    ]
    if outcome.phantom:
        lines.append("PHANTOM: computed patients; says nothing about real ones")
    for verdict in verdicts(outcome):
        lines += [verdict.question, f"  {verdict.short}: {verdict.answer}"]
    lines.append("How many could be named with one wrong accusation in a hundred?")
    lines += [f"  by the {name}: {named(found)}" for name, found in outcome.attacks]
    lines += [f"note: {text}" for text in outcome.notes]
    if outcome.released is not None:
        lines.append(
            f"released: the next run's report will show {kept(outcome)}, of model {outcome.model[:12]}"
        )
    return lines


def kept(outcome: AuditOutcome) -> str:
    """What of the three figures will leave."""
    assert outcome.released is not None
    three = [outcome.released.loss, outcome.released.likelihood_ratio, outcome.released.site]
    there = sum(not hasattr(one, "reason") for one in three)
    return "three figures" if there == len(three) else f"{there} of three figures; the others are suppressed"


def _why(found: Attack | NotEstimable) -> str:
    return found.reason if isinstance(found, NotEstimable) else ""
