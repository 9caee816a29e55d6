"""Reporting checklists filled for a run."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from stic_core.evaluation.run_files import read_rounds
from stic_server.cli.app import app as server
from stic_server.report.checklist import DOCUMENTS, SECTIONS, filled, read_checklist, write_checklist
from stic_server.report.checklist_facts import FACTS
from stic_server.report.model_card import write_model_card
from stic_server.report.page import write_report
from support.sample_run import write_sample_run

GUIDELINES = {"tripod-ai": 52, "claim": 44, "stard-ai": 38}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two hospitals with comparisons."""
    folder = tmp_path_factory.mktemp("run")
    write_sample_run(folder)
    write_report(folder)
    write_model_card(folder)
    return folder


@pytest.mark.parametrize(("guideline", "items"), GUIDELINES.items())
def test_every_item_is_there_once_and_has_an_answer(guideline, items):
    """Numbers are those of the published list; no item is left without a place, a fact or a task for the authors."""
    checklist = read_checklist(guideline)
    numbers = [item.item for item in checklist.items if item.item != "AI"]
    assert len(checklist.items) == items
    assert len(numbers) == len(set(numbers))
    last = {"tripod-ai": 27, "claim": 44, "stard-ai": 30}[guideline]
    assert {int(re.match(r"\d+", number)[0]) for number in numbers} == set(range(1, last + 1))
    assert all(item.where or item.facts or item.authors for item in checklist.items)


def test_each_fact_is_used_and_each_section_is_one_of_the_report(run):
    """Names in code and lists agree, and a full run's report has every section that a checklist may point to."""
    items = [item for guideline in GUIDELINES for item in read_checklist(guideline).items]
    assert {name for item in items for name in item.facts} == set(FACTS)
    page = (run / "report.html").read_text()
    known = set(re.findall(r'<section id="([a-z-]+)">', page))
    assert set(SECTIONS) - {"notices"} <= known
    assert {name for item in items for name in item.where} <= {*SECTIONS, *DOCUMENTS}


@pytest.mark.parametrize("guideline", GUIDELINES)
def test_every_link_leads_somewhere(run, guideline):
    """To an anchor of the run's report, or to a file in the run's folder."""
    page = write_checklist(run, guideline).read_text()
    report = (run / "report.html").read_text()
    links = set(re.findall(r'href="([^"]+)"', page))
    assert any(link.startswith("report.html#") for link in links)
    for link in links:
        file, _, anchor = link.partition("#")
        assert (run / file).is_file()
        assert not anchor or f'id="{anchor}"' in report


def test_what_it_says_of_the_run_is_in_the_runs_files(run):
    """Patients, kept round, performance and versions, and not those of another run."""
    write_checklist(run, "claim")
    record = json.loads((run / "record.json").read_text())
    evaluation = json.loads((run / "evaluation.json").read_text())
    table = (run / "checklist-claim.csv").read_text(encoding="utf-8-sig")
    rows = {row["item"]: row for row in csv.DictReader(io.StringIO(table))}
    held_out = sum(site["patients"]["test"]["n"] for site in record["sites"].values())
    assert f"{held_out} held-out patients" in rows["21"]["this_run"]
    assert f"round {record['best_round']} of" in rows["26"]["this_run"]
    accuracy = evaluation["pooled"]["accuracy"]
    assert f"accuracy {accuracy['correct']} of {accuracy['total']}" in rows["38"]["this_run"]
    assert record["versions"]["torch"] in rows["23"]["this_run"]
    assert rows["44"]["state"] == "authors"


def test_a_run_without_evaluation_points_to_nothing_that_is_not_there(run, tmp_path):
    """No performance, no model card, no section that its report lacks; the authors' part stays."""
    for name in ("record.json", "rounds.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    report = write_report(tmp_path).read_text()
    record = json.loads((tmp_path / "record.json").read_text())
    rows = filled(
        read_checklist("tripod-ai"), record=record, rounds=(), evaluation=None, report=report, plan={}
    )
    links = {link for row in rows for link, _ in row.places}
    assert "report.html#held-out" not in links
    assert "model/MODEL_CARD.html" not in links
    (performance,) = (row for row in rows if row.item.item == "23a")
    assert (performance.facts, performance.state) == ((), "authors")


def test_the_command_writes_several(run, capsys):
    """`report --checklist` may be given more than once, and names what it wrote."""
    server(["report", str(run), "--checklist", "claim", "--checklist", "stard-ai"], standalone_mode=False)
    said = capsys.readouterr().out.split()
    assert str(run / "checklist-claim.html") in said
    assert str(run / "checklist-stard-ai.html") in said


def test_it_says_how_a_run_began_and_what_protected_it(run, tmp_path):
    """A warm start, masks and noise are the plan's; without a plan nothing is said of them."""
    record = json.loads((run / "record.json").read_text())
    record["config"]["training"]["privacy"] = {"epsilon": 3.0, "delta": 1e-4, "max_grad_norm": 1.0}
    report = (run / "report.html").read_text()

    def said(plan):
        rows = filled(
            read_checklist("claim"),
            record=record,
            rounds=read_rounds(run),
            evaluation=None,
            report=report,
            plan=plan,
        )
        return {row.item.item: " ".join(row.facts) for row in rows}

    masked = said({"warm_start": True, "secure_aggregation": {"threshold": 0.667}})
    assert "an earlier model's weights" in masked["24"]
    assert "only as a sum" in masked["25"]
    assert "epsilon 3, delta 0.0001" in masked["25"]
    plain = said({"warm_start": False, "secure_aggregation": None})
    assert "random (seed" in plain["24"]
    assert "only as a sum" not in plain["25"]
    assert "trained on it" not in said({})["24"]
