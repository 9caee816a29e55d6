"""A reporting checklist filled for a run: where each item stands in the run's files, and what only the authors can say.

The items lie in `checklists/*.yaml`, in our words; a journal wants its own form, into which the rows are copied. A row
says only what the run's files hold: a place that this run's report lacks is not named, and what no file says is left
to the authors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stic_core.errors import UsageError
from stic_core.evaluation import Evaluation, read_evaluation
from stic_core.evaluation.run_facts import facts_of
from stic_core.evaluation.run_files import read_record, read_rounds
from stic_core.system.files import write_atomically, write_csv
from stic_server.report.checklist_facts import FACTS, RunContext
from stic_server.report.markup import environment
from stic_server.report.patients import patients_of

Json: TypeAlias = Any


SECTIONS = {
    "summary": "Summary",
    "notices": "Before you quote these figures",
    "held-out": "Held-out results",
    "matrix": "Every model at every hospital",
    "comparison": "The federated model against the others",
    "roc": "ROC curves",
    "confusion": "Confusion",
    "calibration": "Calibration",
    "between": "Do the hospitals differ?",
    "sites": "Who took part",
    "learning": "Learning",
    "rounds": "Rounds and traffic",
    "versions": "Versions and fingerprints",
    "limits": "Limits",
}
"""Sections of `report.html`, by the id that they have there (the notices stand in the summary)."""

DOCUMENTS = {
    "card": "model/MODEL_CARD.html",
    "docs-data": "docs/data.md of the software",
    "docs-models": "docs/models.md of the software",
    "docs-leaves": "docs/what-leaves.md of the software",
}


class Item(BaseModel):
    """One item of a checklist.

    Args:
        item: its number in the published list.
        part: the section it belongs to.
        asks: what is to be reported, in our words.
        where: names of `SECTIONS` and `DOCUMENTS`.
        facts: names of `FACTS`.
        authors: what no file of a run can say; "" if nothing is missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: Annotated[str, Field(pattern=r"^([0-9]{1,2}[a-g]?|AI)$")]
    part: str
    asks: str
    where: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    authors: str = ""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := [name for name in self.where if name not in SECTIONS and name not in DOCUMENTS]:
            raise ValueError(f"no such place: {unknown}")
        if unknown := [name for name in self.facts if name not in FACTS]:
            raise ValueError(f"no such fact: {unknown}")
        return self


class Checklist(BaseModel):
    """A published checklist."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    title: str
    source: str
    meant_for: Annotated[str, Field(alias="for")]
    note: str = ""
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One item as this run answers it.

    Args:
        item: of the checklist.
        places: (link, title) of what the run's files hold on it.
        facts: sentences about this run.
    """

    item: Item
    places: tuple[tuple[str, str], ...]
    facts: tuple[str, ...]

    @property
    def state(self) -> str:
        """`in the run's files`, `in part`, or `authors`."""
        known = bool(self.places or self.facts)
        if known and not self.item.authors:
            return "in the run's files"
        return "in part" if known else "authors"


def read_checklist(guideline: str) -> Checklist:
    """The published items, in our words.

    Args:
        guideline: `tripod-ai`, `claim` or `stard-ai`.
    """
    file = resources.files("stic_server.report") / "checklists" / f"{guideline}.yaml"
    return Checklist.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def write_checklist(run: Path, guideline: str) -> Path:
    """Write `checklist-NAME.html` and the same rows as `checklist-NAME.csv` beside a run's `report.html`.

    Returns:
        The page.

    Raises:
        UsageError: the folder contains no run, or a file of it is not in the format that a run writes.
    """
    record, rounds = read_record(run), read_rounds(run)
    file = run / "evaluation.json"
    evaluation = read_evaluation(file) if file.exists() else None
    checklist = read_checklist(guideline)
    report = (run / "report.html").read_text(encoding="utf-8")
    rows = filled(
        checklist, record=record, rounds=rounds, evaluation=evaluation, report=report, plan=_plan_of(run)
    )
    target = run / f"checklist-{guideline}.html"
    write_csv(target.with_suffix(".csv"), CSV_HEADING, [_csv_row(row) for row in rows])
    write_atomically(
        target,
        environment()
        .get_template("checklist.html.j2")
        .render(
            checklist=checklist,
            record=record,
            rows=rows,
            phantom=bool(record.get("phantom")) or bool(evaluation and evaluation.phantom),
            states={state: sum(row.state == state for row in rows) for state in STATES},
        ),
    )
    return target


STATES = ("in the run's files", "in part", "authors")
CSV_HEADING = ("item", "part", "asks", "state", "where", "this_run", "authors")


def _csv_row(row: Row) -> Sequence[object]:
    item = row.item
    where = "; ".join(f"{title} ({link})" for link, title in row.places)
    return item.item, item.part, item.asks, row.state, where, " ".join(row.facts), item.authors


def filled(
    checklist: Checklist,
    *,
    record: Json,
    rounds: Sequence[Json],
    evaluation: Evaluation | None,
    report: str,
    plan: Mapping[str, Any],
) -> list[Row]:
    """The rows of a checklist for one run.

    Args:
        record: `record.json`.
        rounds: lines of `rounds.jsonl`.
        evaluation: None where the run has none yet.
        report: `report.html`, whose sections decide what can be pointed to.
        plan: `plan.json`; empty where there is none.
    """
    facts = facts_of(record, rounds=rounds, evaluated=evaluation.hospitals if evaluation else ())
    context = RunContext(
        record=record, facts=facts, patients=patients_of(facts), evaluation=evaluation, plan=plan
    )
    there = {*re.findall(r'<section id="([a-z-]+)">', report), *DOCUMENTS}
    if '<div class="notices"' in report:
        there.add("notices")
    if evaluation is None:
        there.remove("card")
    return [
        Row(
            item=item,
            places=tuple(_place(name) for name in item.where if name in there),
            facts=tuple(said for name in item.facts if (said := FACTS[name](context)) is not None),
        )
        for item in checklist.items
    ]


def _plan_of(run: Path) -> Mapping[str, Any]:
    """The plan as the hospitals approved it; none in the folders of simulations by older versions."""
    try:
        found = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UsageError(f"{run / 'plan.json'} cannot be read as JSON", got=type(error).__name__) from None
    return found if isinstance(found, dict) else {}


def _place(name: str) -> tuple[str, str]:
    if name in SECTIONS:
        return f"report.html#{'summary' if name == 'notices' else name}", SECTIONS[name]
    title = DOCUMENTS[name]
    return ("" if name.startswith("docs-") else title), title
