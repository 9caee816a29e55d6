"""What stands in the box at the top of a report: the cues, whose data look alike, who was missing, restarts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from stic_core.evaluation import Evaluation, listed, read_evaluation
from stic_core.evaluation.run_facts import RunFacts, facts_of
from stic_core.evaluation.run_files import read_record, read_rounds
from stic_server.report.cues import Cue, cues_of
from stic_server.report.rounds import missed_spans
from stic_server.report.taking_part import changes

Json: TypeAlias = Any

SAME_DATA = {"fingerprint": "the same prepared patients", "test_fingerprint": "the same held-out patients"}
"""By the key of a digest in a hospital's description: what hospitals with equal ones have in common."""


def notices_of(
    record: Mapping[str, Json],
    *,
    facts: RunFacts,
    rounds: Sequence[Mapping[str, Json]],
    evaluation: Evaluation | None,
) -> tuple[Cue, ...]:
    """All of a run, those about the result first.

    Args:
        record: `record.json`.
        facts: of the run.
        rounds: lines of `rounds.jsonl`.
        evaluation: None where the run was not evaluated.
    """
    return (
        *cues_of(record, rounds=rounds, evaluation=evaluation),
        *_twins(facts),
        *changes(facts),
        *_gaps(facts, rounds=rounds),
    )


def read_notices(run: Path) -> tuple[Cue, ...]:
    """All of the run in a folder; see `notices_of`.

    Raises:
        UsageError: the folder contains no run, or a file of it is not in the format that a run writes.
    """
    record, rounds, path = read_record(run), read_rounds(run), run / "evaluation.json"
    evaluation = read_evaluation(path) if path.exists() else None
    facts = facts_of(record, rounds=rounds, evaluated=evaluation.hospitals if evaluation else ())
    return notices_of(record, facts=facts, rounds=rounds, evaluation=evaluation)


def _twins(facts: RunFacts) -> Iterator[Cue]:
    """Hospitals whose data have one digest: their patients are counted twice."""
    told: set[tuple[str, ...]] = set()
    for key, what in SAME_DATA.items():
        groups: dict[str, list[str]] = {}
        for site, part in facts.sites.items():
            # Hospitals without a held-out patient have one digest too, that of nobody.
            nobody = key == "test_fingerprint" and not part.description.get("patients", {}).get(
                "test", {}
            ).get("n")
            if (digest := part.description.get(key)) and not nobody:
                groups.setdefault(digest, []).append(site)
        for group in map(tuple, groups.values()):
            if len(group) > 1 and group not in told:
                told.add(group)
                yield Cue(
                    f"{listed(group)} have {what}",
                    "Their digests are equal, so these patients are counted more than once, and figures look more "
                    "certain than they are. Find out which hospital they belong to, and repeat the run.",
                )


def _gaps(facts: RunFacts, *, rounds: Sequence[Mapping[str, Json]]) -> Iterator[Cue]:
    """Rounds that went on without a hospital; of those that left, `changes` says it."""
    here = [site for site in facts.trained_by if site not in facts.left_before_the_end]
    if spans := missed_spans(rounds, sites=here):
        yield Cue(
            f"{listed([site for site, _ in spans])} did not take part in every round",
            f"The model was trained without {listed([f'{site} in {_rounds(span)}' for site, span in spans])}.",
        )


def _rounds(span: str) -> str:
    return f"round{'s' if ',' in span or 'to' in span else ''} {span}"
