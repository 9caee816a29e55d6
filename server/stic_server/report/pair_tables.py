"""Tables of comparisons: models across hospitals, models in pairs, hospitals, readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from stic_core.evaluation import Evaluation, auc_titles
from stic_core.evaluation.document import PairFigures
from stic_core.evaluation.figures import PairedAccuracy
from stic_core.evaluation.readers.release import StudyFigures
from stic_core.statistics import Absent, NotEstimable
from stic_server.report.comparison import matrix
from stic_server.report.csv_columns import counts, difference, figure, parts, why

Row: TypeAlias = Sequence[object]

CROSS_SITE = ("model", "held_out_set", "patients", "macro_auc", "lower", "upper", "interval", "why_absent")
COMPARISON = (
    "other_model",
    "held_out_set",
    "patients",
    "figure",
    "federated_minus_other",
    "lower",
    "upper",
    "only_federated_right",
    "only_other_right",
    "test",
    "p",
    "why_absent",
)
BETWEEN = ("site", "other_site", "figure", "difference", "lower", "upper", "test", "p", "why_absent")
HETEROGENEITY = ("class", "model", "auc", "lower", "upper", "tau2", "q", "df", "p", "i2_percent")
READERS = (
    "site",
    "judge",
    "condition",
    "figure",
    "class",
    "hits",
    "total",
    "value",
    "lower",
    "upper",
    "why_absent",
)
PAIRS = (
    "site",
    "first",
    "second",
    "patients",
    "only_first_right",
    "only_second_right",
    "difference",
    "lower",
    "upper",
    "test",
    "p",
    "why_absent",
)


def cross_site(evaluation: Evaluation) -> Iterator[Row]:
    """Macro AUC of every model on every held-out set."""
    for row in matrix(evaluation)["rows"]:
        for cell in row["cells"]:
            yield row["model"], cell["where"], cell["n"], *figure(cell["auc"], kind="interval")


def comparison(evaluation: Evaluation) -> Iterator[Row]:
    """The federated model against each other one: accuracy, then the AUC of each class."""
    for other, found in evaluation.comparison.items():
        for where, pair in found.sets.items():
            n = pair.n if isinstance(pair, PairFigures) else ""
            accuracy = pair.accuracy if isinstance(pair, PairFigures) else pair
            cells = (*parts(accuracy, "b", "c"), *_mcnemar(accuracy), why(accuracy))
            yield other, where, n, "accuracy", *difference(accuracy), *cells
            for name, title in auc_titles(evaluation.classes).items():
                test = pair.auc[name] if isinstance(pair, PairFigures) else pair
                cells = ("", "", "DeLong", *parts(test, "p"), why(test))
                yield other, where, n, title, *difference(test), *cells


def between(evaluation: Evaluation) -> Iterator[Row]:
    """Every pair of hospitals, on different patients."""
    for pair in evaluation.between_sites.pairs:
        found = pair.accuracy
        for test, p in (("chi-squared", "p"), ("Fisher", "fisher_p")):
            yield *pair.sites, "accuracy", *difference(found), test, *parts(found, p), why(found)
        for name, title in auc_titles(evaluation.classes).items():
            test = pair.auc[name]
            yield *pair.sites, title, *difference(test), "Welch", *parts(test, "p"), why(test)


def heterogeneity(evaluation: Evaluation) -> Iterator[Row]:
    """Meta-analysis of the hospitals' AUCs, by class."""
    for name in auc_titles(evaluation.classes):
        found = evaluation.between_sites.auc[name]
        if isinstance(found, NotEstimable):
            continue
        kinds = {"fixed": found.fixed, "random": found.random, "hartung-knapp": found.hartung_knapp}
        for kind, summary in kinds.items():
            if summary is not None:
                spread = (found.tau2, found.q, found.df, found.p, found.i2)
                yield name, kind, summary.value, *summary.ci95, *spread
        if isinstance(found.prediction, tuple):
            yield name, "prediction", "", *found.prediction, *("",) * 5


def readers(studies: Mapping[str, StudyFigures]) -> Iterator[Row]:
    """Every reader and the model, by site."""
    for site, study in studies.items():
        for judge, condition, figures in study.judges:
            yield site, judge, condition, "accuracy", "", *counts(figures.accuracy)
            for what, rates in (("sensitivity", figures.sensitivity), ("specificity", figures.specificity)):
                for name, rate in rates.items():
                    yield site, judge, condition, what, name, *counts(rate)


def reader_pairs(studies: Mapping[str, StudyFigures]) -> Iterator[Row]:
    """Readers with help against alone, the model against them, and all readers together."""
    for site, study in studies.items():
        for first, second, pair in study.pairs:
            cells = (*parts(pair, "b", "c"), *difference(pair), *_mcnemar(pair), why(pair))
            yield site, first, second, study.n, *cells
        for condition, test in study.between.items():
            cells = ("", "", "", "", "", "Cochran's Q", *parts(test, "p"), why(test))
            yield site, f"all readers {condition}", "", study.n, *cells


def _mcnemar(pair: PairedAccuracy | Absent) -> tuple[object, ...]:
    """The test and its p value."""
    return ("McNemar", "") if isinstance(pair, Absent) else (pair.test, pair.decisive_p)
