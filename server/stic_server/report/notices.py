"""What stands in the box at the top of a report: who was missing, whose data look alike, and the cues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from stic_core.evaluation import Evaluation, listed
from stic_server.report.cues import Cue, cues_of
from stic_server.report.rounds import missed_spans

Json: TypeAlias = Any

SAME_DATA = {"fingerprint": "the same prepared patients", "test_fingerprint": "the same held-out patients"}
"""By the record's key of a digest: what hospitals with equal ones have in common."""


def notices_of(
    record: Mapping[str, Json], *, rounds: Sequence[Mapping[str, Json]], evaluation: Evaluation | None
) -> tuple[Cue, ...]:
    """All of a run, those about the result first.

    Args:
        record: `record.json`.
        rounds: lines of `rounds.jsonl`.
        evaluation: None where the run was not evaluated.
    """
    return (
        *cues_of(record, rounds=rounds, evaluation=evaluation),
        *_twins(record),
        *_absent(record, rounds=rounds, evaluation=evaluation),
    )


def _twins(record: Mapping[str, Json]) -> Iterator[Cue]:
    """Hospitals whose data have one digest: their patients are counted twice."""
    told: set[tuple[str, ...]] = set()
    for key, what in SAME_DATA.items():
        groups: dict[str, list[str]] = {}
        for site, facts in sorted(record["sites"].items()):
            if digest := facts.get(key):
                groups.setdefault(digest, []).append(site)
        for group in map(tuple, groups.values()):
            # Hospitals without a held-out patient have one digest too, that of nobody.
            empty = key == "test_fingerprint" and all(
                record["sites"][site]["patients"]["test"]["n"] == 0 for site in group
            )
            if len(group) > 1 and group not in told and not empty:
                told.add(group)
                yield Cue(
                    f"{listed(group)} have {what}",
                    "their digests are equal, so these patients are counted more than once, and figures look more "
                    "certain than they are. Find out which hospital they belong to, and repeat the run.",
                )


def _absent(
    record: Mapping[str, Json], *, rounds: Sequence[Mapping[str, Json]], evaluation: Evaluation | None
) -> Iterator[Cue]:
    sites = sorted(record["sites"])
    if spans := missed_spans(rounds, sites=sites):
        told = listed([f"{site} in {_rounds(span)}" for site, span in spans])
        yield Cue(
            f"{listed([site for site, _ in spans])} did not take part in every round",
            f"the model was trained without {told}.",
        )
    silent = [site for site in sites if evaluation is not None and site not in evaluation.sites]
    if silent:
        yield Cue(
            f"{listed(silent)} did not evaluate the model",
            f"the held-out figures are without {'its' if len(silent) == 1 else 'their'} patients.",
        )


def _rounds(span: str) -> str:
    return f"round{'s' if ',' in span or 'to' in span else ''} {span}"
