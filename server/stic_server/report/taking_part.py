"""What report and model card say of who took part in a run, in sentences that the run's facts bear out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stic_core.evaluation.run_facts import ModelOrigin, RunFacts
from stic_server.report.rounds import spans
from stic_server.report.wording import thousands


def listed(names: Iterable[str]) -> str:
    """Names within a sentence.

    Example:
        >>> listed(["center1", "center2", "center3"])
        'center1, center2 and center3'
    """
    *first, last = list(names) or ["no hospital"]
    return f"{', '.join(first)} and {last}" if first else last


def lead(facts: RunFacts, patients: Mapping[str, Any]) -> str:
    """Who did what, on how many patients.

    Args:
        patients: of `patients_of`.
    """
    if facts.kind == "evaluation":
        return f"{_evaluated(facts, patients)} Nothing was trained in this run. {origin(facts.origin)}"
    if not facts.rounds:
        return f"No round has been averaged yet; {listed(facts.sites)} signed up."
    unknown = [site for site in facts.trained_by if site in patients["unknown"]]
    without = f", without those of {listed(unknown)}, which the record lacks" if unknown else " in all"
    return (
        f"{listed(facts.trained_by)} trained one model together over {_rounds(facts.rounds)}, "
        f"on {thousands(patients['trained_on'])} training patients{without}."
    )


def _evaluated(facts: RunFacts, patients: Mapping[str, Any]) -> str:
    if not facts.evaluated_by:
        return f"{listed(facts.sites)} signed up to evaluate one model and have not done so yet."
    return (
        f"{listed(facts.evaluated_by)} evaluated one model on "
        f"{thousands(patients['evaluated_on'])} held-out patients."
    )


def origin(origin: ModelOrigin | None) -> str:
    """Where a model comes from that was evaluated and not trained."""
    if origin is None or not (origin.run_id or origin.source):
        return "The model's folder does not say who trained it."
    if not origin.run_id:
        return f"The model was {origin.source}, and trained elsewhere."
    by = f" by {listed(origin.sites)}" if origin.sites else ""
    over = f" over {_rounds(origin.rounds)}" if origin.rounds else ""
    kept = f"; it is the model of round {origin.best_round}" if origin.best_round else ""
    return f"The model was trained in run {origin.run_id}{by}{over}{kept}."


def changes(facts: RunFacts) -> list[str]:
    """Who came later or left before the end, and restarts; empty where the run was undisturbed."""
    found = [
        f"{site} trained {'round' if len(facts.sites[site].rounds) == 1 else 'rounds'} "
        f"{spans(facts.sites[site].rounds)} of {facts.rounds} and took no part in the held-out evaluation; "
        "what it contributed stays in the model."
        for site in facts.left_before_the_end
    ]
    if facts.kind == "training" and facts.rounds:
        found += [
            f"{site} evaluated the model and trained no round of it."
            for site in facts.joined_for_the_evaluation
        ]
    if facts.starts > 1:
        found.append(
            f"The server was started {facts.starts} times for this run; its durations include all of them."
        )
    return found


def _rounds(count: int) -> str:
    return f"{count} round" if count == 1 else f"{count} rounds"
