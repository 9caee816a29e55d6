"""`model/MODEL_CARD.md` and `.html`: what the model is for, what it learned from, how well it does, its limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from stic_core.data.dataset import SPLITS
from stic_core.errors import UsageError
from stic_core.evaluation import Evaluation, held_out_table, listed, read_evaluation
from stic_core.evaluation.run_facts import RunFacts, facts_of
from stic_core.evaluation.run_files import read_record, read_rounds
from stic_core.system.files import write_atomically
from stic_server.report import taking_part
from stic_server.report.comparison import comparisons
from stic_server.report.held_out import verdict
from stic_server.report.markup import environment
from stic_server.report.notices import notices_of
from stic_server.report.patients import patients_of
from stic_server.report.rounds import kept
from stic_server.report.wording import absent

Json: TypeAlias = Any

_MEANINGS = {
    "ensemble": "the hospitals' own models, their probabilities averaged.",
    "centralised": "one model trained on all data in one place, which only a simulation can do.",
}


def write_model_card(run: Path) -> Path:
    """Write the card of a run's model in both forms, made from the run's files alone.

    Returns:
        The path of `MODEL_CARD.md`; `MODEL_CARD.html` lies beside it.

    Raises:
        UsageError: the folder contains no run, or the run was not evaluated.
    """
    record, rounds = read_record(run), read_rounds(run)
    try:
        evaluation = read_evaluation(run / "evaluation.json")
    except FileNotFoundError:
        raise UsageError(
            f"{run} has no evaluated model", expected="evaluation.json", advice="Evaluate the run first."
        ) from None
    target = run / "model" / "MODEL_CARD.md"
    write_atomically(target, render_card(record, rounds=rounds, evaluation=evaluation))
    page = render_card(record, rounds=rounds, evaluation=evaluation, as_page=True)
    write_atomically(target.with_suffix(".html"), page)
    return target


def render_card(
    record: Json, *, rounds: Sequence[Json], evaluation: Evaluation, as_page: bool = False
) -> str:
    """The card, as Markdown or as a page; both say the same, from one template.

    Args:
        record: `record.json`.
        rounds: lines of `rounds.jsonl`.
        evaluation: of the run.
        as_page: HTML.
    """
    facts = facts_of(record, rounds=rounds, evaluated=evaluation.hospitals)
    template = environment(escape=as_page).get_template("model_card.html.j2" if as_page else "model_card.j2")
    text = template.render(
        format="card_markdown.j2",
        record=record,
        phantom=evaluation.phantom,
        evaluation=evaluation,
        facts=facts,
        origin=taking_part.origin(facts.origin),
        trained_by=listed(facts.in_the_model),
        verdict=verdict(evaluation, evaluates=facts.kind == "evaluation"),
        notices=notices_of(record, facts=facts, rounds=rounds, evaluation=evaluation),
        kept=kept(record, rounds=rounds),
        data=lambda code: _data(facts, code=code),
        absent=absent,
        table=held_out_table(evaluation),
        named={name: meaning for name, meaning in _MEANINGS.items() if name in evaluation.models},
        comparison=comparisons(evaluation),
        calibration=evaluation.pooled.calibration,
    )
    return text if as_page else re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _data(facts: RunFacts, *, code: Callable[[str], str]) -> list[list[object]]:
    """Rows of the table of patients: each hospital by split, then all."""
    patients = patients_of(facts)
    rows: list[list[object]] = []
    for site, part in facts.sites.items():
        if site in patients["unknown"]:
            rows.append([site, *["not recorded" for _ in SPLITS], ""])
            continue
        counts = [patients["sites"][site][split] for split in SPLITS]
        digest = code(part.description.get("test_fingerprint", "")[:16])
        rows.append([site, *(str(one.n) + _by_class(one.classes) for one in counts), digest])
    return [*rows, ["all", *patients["totals"].values(), ""]]


def _by_class(counts: Json) -> str:
    if absent(counts):
        return ""
    return " (" + ", ".join(f"{name} {count}" for name, count in counts.items()) + ")"
