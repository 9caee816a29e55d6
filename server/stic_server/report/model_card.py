"""`model/MODEL_CARD.md`: what the model is for, what it learned from, how well it does, its limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from stic_core.errors import UsageError
from stic_core.evaluation import Evaluation, held_out_table, read_evaluation
from stic_core.evaluation.run_facts import facts_of
from stic_core.evaluation.run_files import read_rounds
from stic_server.report import taking_part
from stic_server.report.comparison import comparisons
from stic_server.report.patients import patients_of
from stic_server.report.wording import absent

Json: TypeAlias = Any

_MEANINGS = {
    "ensemble": "the hospitals' own models, their probabilities averaged.",
    "centralised": "one model trained on all data in one place, which only a simulation can do.",
}


def write_model_card(run: Path) -> Path:
    """Write the card of a run's model, made from its record and evaluation alone.

    Returns:
        The path of the card.

    Raises:
        UsageError: the folder contains no run, or the run was not evaluated.
    """
    try:
        record = json.loads((run / "record.json").read_text(encoding="utf-8"))
        rounds = read_rounds(run)
        evaluation = read_evaluation(run / "evaluation.json")
    except FileNotFoundError as error:
        raise UsageError(
            f"{run} has no evaluated model",
            expected=Path(error.filename).name,
            advice="Evaluate the run first.",
        ) from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{run} cannot be read", got=type(error).__name__) from None
    target = run / "model" / "MODEL_CARD.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(render_card(record, rounds=rounds, evaluation=evaluation), encoding="utf-8")
    return target


def render_card(record: Json, *, rounds: Sequence[Json], evaluation: Evaluation) -> str:
    """The card as Markdown.

    Args:
        record: `record.json`.
        rounds: lines of `rounds.jsonl`.
        evaluation: of the run.
    """
    facts = facts_of(record, rounds=rounds, evaluated=evaluation.sites)
    patients = patients_of(facts)
    environment = Environment(
        loader=PackageLoader("stic_server", "templates"),
        autoescape=select_autoescape(["html"]),  # the card is Markdown: nothing to escape
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        record=record,
        evaluation=evaluation,
        facts=facts,
        lead=taking_part.lead(facts, patients),
        origin=taking_part.origin(facts.origin),
        trained_by=taking_part.listed(facts.trained_by),
        changes=taking_part.changes(facts),
        patients=patients,
        absent=absent,
        table=held_out_table(evaluation),
        named={name: meaning for name, meaning in _MEANINGS.items() if name in evaluation.models},
        comparison=comparisons(evaluation),
        calibration=evaluation.pooled.calibration,
    )
