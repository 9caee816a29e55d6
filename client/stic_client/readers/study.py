"""The study from files to files: diagnoses and scores in, tables, page and export out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from stic_client.readers.own_study import ModelCurve, OwnStudy
from stic_client.readers.scores import ModelScores, computed_scores, read_scores
from stic_core import statistics
from stic_core.config import PolicyConfig, SiteConfig
from stic_core.data.dataset import SiteDataset, load_dataset
from stic_core.errors import DataError
from stic_core.evaluation.document import Curve
from stic_core.evaluation.figures import Json, PairedAccuracy, Proportion, auc_figure
from stic_core.evaluation.readers.release import StudyFigures, figures_of, numbered, release
from stic_core.evaluation.readers.study import Confusion, ReaderStudy, evaluate_readers, read_diagnoses
from stic_core.evaluation.reports import HeldOutReport
from stic_core.models.saved import ModelDescription, read_model
from stic_core.privacy.looks import HeldOutLooks, patients_of
from stic_core.protocol.audit_log import AuditLog, Entry
from stic_core.statistics import Absent, NotEstimable, TestResult
from stic_core.system.files import PRIVATE, write_atomically, write_csv
from stic_core.tasks import Task

Row: TypeAlias = Sequence[object]

RESULT_FILE, PAGE_FILE = "reader_study.json", "reader_study.html"
PERFORMANCE = ("judge", "condition", "figure", "class", "hits", "total", "value", "lower", "upper")
COMPARISONS = (
    "first",
    "second",
    "n",
    "only_first_right",
    "only_second_right",
    "difference",
    "lower",
    "upper",
    "p",
)


@dataclass(frozen=True, slots=True)
class Written:
    """What a study left.

    Args:
        result, page: the site's own files.
        export: the file that may leave, None where none was asked for.
        figures: of the study, under the readers' own names.
        called: under which name each reader is exported.
    """

    result: Path
    page: Path
    export: Path | None
    figures: StudyFigures
    called: Mapping[str, str]


def study_readers(
    config: SiteConfig,
    *,
    readings: Path,
    model: Path,
    predictions: Path | None = None,
    out: Path,
    export: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Compare readers, readers with help, and the model on the site's held-out patients.

    Args:
        readings: the readers' diagnoses.
        model: a model's folder, as a run leaves it.
        predictions: predict's table of that model's scores; None computes them here.
        out: folder for the site's own files.
        export: the file with what may leave, under the site's policy.
        progress: told patients done and patients in all, where scores are computed.

    Raises:
        DataError: a file that cannot be used, or no held-out patients.
        WeightsError: another backbone than the model's.
    """
    saved = read_model(model)
    description = saved.description
    dataset = load_dataset(config.dataset.prepared)
    task = Task(name=description.task, classes=description.classes)
    rows, labels = dataset.indices("test", task), dataset.label_indices("test", task)
    if not len(rows):
        raise DataError(
            "the site has no held-out patients",
            expected=f"patients of {', '.join(task.classes)} whose split is test",
        )
    subjects = [dataset.subjects[row] for row in rows]
    truth = {subject: task.classes[label] for subject, label in zip(subjects, labels, strict=True)}
    # The file is checked before minutes are spent on scores.
    diagnoses = read_diagnoses(readings, truth=truth, classes=task.classes)
    if predictions is None:
        scores = computed_scores(config, saved, dataset, rows=rows, progress=progress)
    else:
        scores = read_scores(predictions, subjects=subjects, classes=task.classes)
    said = scores.logits.argmax(axis=1)
    found = evaluate_readers(
        diagnoses,
        model={subject: task.classes[k] for subject, k in zip(subjects, said, strict=True)},
        truth=truth,
        classes=task.classes,
    )
    facts = _facts(config, description, dataset)
    called = numbered(list(found.readers))
    own = release(
        found,
        policy=PolicyConfig(min_cell=1),
        names={name: name for name in found.readers},
        classes=task.classes,
        **facts,
    )
    study = OwnStudy(
        figures_of(own),
        roc=_roc(scores, labels, classes=task.classes),
        rounded_scores=scores.rounded,
        confusion=_confusions(found),
        exported_as=called,
    )
    # All of it has the readers' names and small counts: for its owner alone.
    result, page = out / RESULT_FILE, out / PAGE_FILE
    text = json.dumps(study.as_json(), indent=1, allow_nan=False) + "\n"
    write_atomically(result, text, mode=PRIVATE)
    _write_tables(out, study)
    from stic_client.readers.page import render

    write_atomically(page, render(study), mode=PRIVATE)
    if export is not None:
        look = HeldOutLooks(config.held_out).find(
            description.digest, patients=patients_of(subjects), classes=task.classes
        )
        let_out = release(
            found,
            policy=config.policy,
            names=called,
            classes=task.classes,
            model=None if look is None or look.report is None else HeldOutReport.model_validate(look.report),
            **facts,
        )
        _export(config, let_out.model_dump_json(indent=1) + "\n", path=export, run=description.run_id)
    return Written(result, page, export, study.figures, called)


def _facts(config: SiteConfig, description: ModelDescription, dataset: SiteDataset) -> dict[str, Json]:
    task = Task(name=description.task, classes=description.classes)
    return {
        "site": config.site,
        "run_id": description.run_id,
        "model_digest": description.digest,
        "test_fingerprint": dataset.fingerprint_for(task, "test"),
        "task": description.task,
        "phantom": bool(description.phantom) or dataset.phantom,
    }


def _roc(scores: ModelScores, labels: np.ndarray, *, classes: Sequence[str]) -> dict[str, ModelCurve]:
    """The model's exact ROC of each class; it has one step per patient, so it stays at the site."""
    margins = statistics.margins(scores.logits)
    curves = {}
    for k, name in enumerate(classes):
        positive = labels == k
        auc = statistics.delong(margins[:, k], positive=positive)
        curve: Curve = ()
        if isinstance(auc, statistics.Auc):
            false, true = statistics.roc_points(margins[:, k], positive=positive)
            curve = tuple((float(x), float(y)) for x, y in zip(false, true, strict=True))
        curves[name] = ModelCurve(auc_figure(auc), curve)
    return curves


def _confusions(found: ReaderStudy) -> dict[str, Confusion | dict[str, Confusion]]:
    return {
        "model": found.model.confusion,
        **{reader: {c: by[c].confusion for c in by} for reader, by in found.readers.items()},
    }


def _export(config: SiteConfig, text: str, *, path: Path, run: str) -> None:
    """Write what may leave, and have it in the log of all that leaves before it is there."""
    data = text.encode()
    AuditLog(config.audit).append(
        Entry(
            direction="out",
            peer="file",
            kind="reader-study",
            run=run,
            round=0,
            tensors=(),
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            content=json.loads(text),
            decision="exported",
        )
    )
    write_atomically(path, data)


def _write_tables(out: Path, study: OwnStudy) -> None:
    tables: dict[str, tuple[Row, Iterator[Row]]] = {
        "reader_performance.csv": (PERFORMANCE, _performance_rows(study.figures)),
        "reader_comparisons.csv": (COMPARISONS, _comparison_rows(study.figures)),
        "model_roc.csv": (
            ("class", "false_positive_rate", "true_positive_rate"),
            ((name, x, y) for name, curve in study.roc.items() for x, y in curve.points),
        ),
    }
    for name, (heading, rows) in tables.items():
        write_csv(out / name, heading, rows, mode=PRIVATE)


def _performance_rows(study: StudyFigures) -> Iterator[Row]:
    for judge, condition, figures in study.judges:
        yield judge, condition, "accuracy", "", *_rate(figures.accuracy)
        for what, rates in (("sensitivity", figures.sensitivity), ("specificity", figures.specificity)):
            for name, rate in rates.items():
                yield judge, condition, what, name, *_rate(rate)


def _rate(rate: Proportion | Absent) -> Row:
    if isinstance(rate, Absent) or isinstance(rate.ci95, NotEstimable):
        return "", "", "", "", ""
    return rate.correct, rate.total, rate.value, *rate.ci95


def _comparison_rows(study: StudyFigures) -> Iterator[Row]:
    for first, second, pair in study.pairs:
        assert isinstance(pair, PairedAccuracy)  # the site's own eyes see every count
        yield first, second, study.n, pair.b, pair.c, pair.difference, *pair.ci95, pair.p
    for condition, test in study.between.items():
        if isinstance(test, TestResult):
            yield f"all readers {condition}", "Cochran's Q", study.n, "", "", "", "", "", test.p
