"""`report.html` of a run: one file that opens without a network, for readers who are no programmers.

Everything in it comes from the run folder (`record.json`, `rounds.jsonl`, `evaluation.json`),
so the report can be rebuilt at any time and shows the numbers that those files hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from stic_core.data.dataset import SPLITS
from stic_core.evaluation import Evaluation, auc_titles, overall_auc, read_evaluation
from stic_core.evaluation.readers.release import StudyFigures
from stic_core.evaluation.run_facts import facts_of
from stic_core.evaluation.run_files import read_record, read_rounds
from stic_core.system.files import write_atomically
from stic_server.report import comparison, plots, taking_part
from stic_server.report import rounds as rounds_of
from stic_server.report.confusion import confusion_view
from stic_server.report.held_out import held_out, verdict
from stic_server.report.markup import environment
from stic_server.report.notices import notices_of
from stic_server.report.patients import patients_of
from stic_server.report.privacy import audits_of
from stic_server.report.readers import keep_study, read_studies, readers_view
from stic_server.report.tables import write_tables
from stic_server.report.wording import absent, terms

Json: TypeAlias = Any
"""What `json.loads` gives."""


def write_report(run: Path, *, readers: Sequence[Path] = ()) -> Path:
    """Write `report.html` into a run folder, and its figures as tables into `report/`.

    Args:
        run: folder with `record.json`; `rounds.jsonl` and `evaluation.json` where the run
            got that far.
        readers: reader studies that sites exported; they are kept in the run's folder, so that
            later reports show them too.

    Returns:
        The path of the report.

    Raises:
        UsageError: the folder contains no run, or a file of it is not in the format that a run writes.
        DataError: a reader study is not one, or is of another model or other patients.
    """
    record, rounds = read_record(run), read_rounds(run)
    evaluation_file = run / "evaluation.json"
    evaluation = read_evaluation(evaluation_file) if evaluation_file.exists() else None
    for file in readers:
        keep_study(run, file, record=record, evaluation=evaluation)
    studies = read_studies(run, record=record, evaluation=evaluation)
    facts = facts_of(record, rounds=rounds, evaluated=evaluation.hospitals if evaluation else ())
    write_tables(
        run / "report",
        rounds=rounds,
        evaluation=evaluation,
        sites=list(facts.sites),
        readers=studies,
    )
    target = run / "report.html"
    page = render(record, rounds=rounds, evaluation=evaluation, readers=studies)
    write_atomically(target, page)
    return target


def render(
    record: Json,
    *,
    rounds: Sequence[Json],
    evaluation: Evaluation | None,
    readers: Mapping[str, StudyFigures] | None = None,
) -> str:
    """The report as HTML.

    Args:
        record: `record.json`.
        rounds: lines of `rounds.jsonl`.
        evaluation: None where there was none.
        readers: reader studies by site.
    """
    studies = readers or {}
    facts = facts_of(record, rounds=rounds, evaluated=evaluation.hospitals if evaluation else ())
    patients, sites = patients_of(facts), list(facts.sites)
    classes = list(record["config"]["task"]["classes"])
    evaluates = facts.kind == "evaluation"
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            absent=absent,
            record=record,
            sites=sites,
            classes=classes,
            binary=len(classes) == 2,
            aucs=auc_titles(classes),
            overall=overall_auc(classes),
            terms=terms(classes),
            splits=SPLITS,
            colours=plots.colour_names(sites),
            phantom=bool(record.get("phantom")) or bool(evaluation and evaluation.phantom),
            patients=patients,
            facts=facts,
            lead=taking_part.lead(facts, patients),
            the_model="the model" if evaluates else "the federated model",
            verdict="This run has not been evaluated on held-out patients."
            if evaluation is None
            else verdict(evaluation, evaluates=evaluates),
            notices=notices_of(record, facts=facts, rounds=rounds, evaluation=evaluation),
            rounds=rounds,
            kept=rounds_of.kept(record, rounds=rounds),
            traffic=rounds_of.traffic(rounds, sites=sites),
            missed=rounds_of.missed(rounds, sites=facts.trained_by),
            missed_spans=rounds_of.missed_spans(rounds, sites=facts.trained_by),
            learning=rounds_of.learning(rounds, sites=sites, best=record.get("best_round")),
            evaluation=evaluation,
            held_out=None
            if evaluation is None
            else held_out(evaluation, sites=sites, classes=classes, readers=studies, evaluates=evaluates),
            confusion=None
            if evaluation is None
            else confusion_view(evaluation.models["federated"].sets, classes=classes),
            audits=audits_of(facts),
            matrix=None if evaluation is None else comparison.matrix(evaluation),
            comparison=None if evaluation is None else comparison.comparisons(evaluation),
            readers=[readers_view(study) for study in studies.values()],
        )
    )
