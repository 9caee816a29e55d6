"""What report and model card say of who took part in a run, in sentences that the run's facts bear out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stic_core.evaluation import listed
from stic_core.evaluation.run_facts import ModelOrigin, RunFacts
from stic_server.report.cues import Cue
from stic_server.report.rounds import spans
from stic_server.report.wording import thousands


def lead(facts: RunFacts, patients: Mapping[str, Any]) -> str:
    """Who did what, on how many patients.

    Args:
        patients: of `patients_of`.
    """
    if facts.kind == "evaluation":
        return f"{_evaluated(facts, patients)} Nothing was trained in this run. {origin(facts.origin)}"
    if not facts.rounds:
        return f"No round has been averaged yet; {_named(facts.sites)} signed up."
    unknown = [site for site in facts.in_the_model if site in patients["unknown"]]
    without = f", without those of {listed(unknown)}, which the record lacks" if unknown else " in all"
    return (
        f"{_named(facts.in_the_model)} trained one model together over {_rounds(facts.rounds)}, "
        f"on {thousands(patients['trained_on'])} training patients{without}."
        + (f" {too_late(facts.trained_too_late, kept=facts.kept_round)}" if facts.trained_too_late else "")
    )


def too_late(sites: Sequence[str], *, kept: int | None) -> str:
    """Who trained and is not in the model; `kept` is the round that it is of."""
    return (
        f"{listed(sites)} trained only after round {kept}, whose model was kept: nothing that "
        f"{'it' if len(sites) == 1 else 'they'} contributed is in it."
    )


def _evaluated(facts: RunFacts, patients: Mapping[str, Any]) -> str:
    if not facts.evaluated_by:
        return f"{_named(facts.sites)} signed up to evaluate one model and have not done so yet."
    return (
        f"{_named(facts.evaluated_by)} evaluated one model on "
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


def changes(facts: RunFacts) -> Iterator[Cue]:
    """Who came later or left before the end, and restarts; nothing where the run was undisturbed."""
    for site in facts.left_before_the_end:
        rounds = facts.sites[site].rounds
        yield Cue(
            f"{site} left before the end",
            f"{site} trained {'round' if len(rounds) == 1 else 'rounds'} {spans(rounds)} of {facts.rounds} and took "
            "no part in the held-out evaluation; "
            + (
                "nothing that it contributed is in the model that was kept."
                if site in facts.trained_too_late
                else "what it contributed stays in the model."
            ),
        )
    for site in facts.trained_too_late:
        yield Cue(f"{site} is not in the model", too_late([site], kept=facts.kept_round))
    if facts.kind == "training" and facts.rounds:
        for site in facts.joined_for_the_evaluation:
            yield Cue(
                f"{site} joined for the evaluation", f"{site} evaluated the model and trained no round of it."
            )
    if facts.starts > 1:
        yield Cue(
            "The server was restarted",
            f"It was started {facts.starts} times for this run; its durations include all of them.",
        )


def _rounds(count: int) -> str:
    return f"{count} round" if count == 1 else f"{count} rounds"


def _named(sites: Iterable[str]) -> str:
    return listed(list(sites)) or "no hospital"
