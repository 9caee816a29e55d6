"""What report and card say of who took part, where the kept model is not the last one."""

from __future__ import annotations

from typing import Any

import pytest

from stic_core.evaluation.run_facts import RunFacts, facts_of
from stic_server.report import taking_part
from stic_server.report.patients import patients_of


def _facts(rounds: dict[int, str], *, best: int | None, evaluated: str = "") -> RunFacts:
    """Sites are letters; each has 10 patients per split."""
    split = {"n": 10, "classes": {"HCC": 5, "ICC": 5}}
    described = {"patients": dict.fromkeys(("train", "val", "test"), split)}
    record: dict[str, Any] = {"run_id": "r", "sites": dict.fromkeys("abc", described)}
    if best is not None:
        record["best_round"] = best
    lines = [{"round": number, "sites": list(sites)} for number, sites in rounds.items()]
    return facts_of(record, rounds=lines, evaluated=evaluated)


@pytest.mark.parametrize(
    ("rounds", "best", "within", "late"),
    [
        ({1: "ab", 2: "ab", 3: "abc"}, 2, "ab", "c"),  # c joined after the round that was kept
        ({1: "ab", 2: "abc", 3: "ab"}, 2, "abc", ""),  # in the kept round's own average
        ({1: "abc", 2: "ab", 3: "ab"}, 3, "abc", ""),  # earlier averages are in it
        ({1: "a", 2: "b", 3: "c"}, 1, "a", "bc"),
        ({1: "ab", 2: "abc"}, None, "abc", ""),  # nothing is kept yet
    ],
)
def test_a_site_is_in_the_model_from_its_first_round_on(
    rounds: dict[int, str], best: int | None, within: str, late: str
) -> None:
    """Whoever trained only after the kept round is not in the model, and neither are its patients."""
    facts = _facts(rounds, best=best)
    assert (facts.in_the_model, facts.trained_too_late) == (tuple(within), tuple(late))
    patients = patients_of(facts)
    assert patients["trained_on"] == 10 * len(within)
    lead, cues = taking_part.lead(facts, patients), list(taking_part.changes(facts))
    assert ("is in it" in lead) == any("not in the model" in cue.headline for cue in cues) == bool(late)


@pytest.mark.parametrize(("best", "stays"), [(1, False), (2, True)])
def test_what_a_site_that_left_contributed(best: int, stays: bool) -> None:
    """It stays in the model only where its rounds came before the one that was kept."""
    facts = _facts({1: "ab", 2: "abc", 3: "ab"}, best=best, evaluated="ab")
    told = next(cue.text for cue in taking_part.changes(facts) if cue.headline.startswith("c left"))
    assert ("stays in the model" in told) == stays
