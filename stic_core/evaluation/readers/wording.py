"""A reader study in plain words, the same on the site's page, on its terminal and in the report."""

from __future__ import annotations

from stic_core.evaluation.figures import PairedAccuracy
from stic_core.evaluation.readers.release import StudyFigures
from stic_core.evaluation.wording import (
    difference,
    mcnemar_name,
    multiplicity,
    p_text,
    paired_sentence,
    verdict,
)
from stic_core.statistics import TestResult

WITH = {"alone": "alone", "aided": "with the model's help"}
"""How a condition is called."""


def helped_sentences(study: StudyFigures) -> list[str]:
    """Each reader with the model's help against alone."""
    return [
        _helped(reader, pair, n=study.n)
        for reader, pair in study.helped.items()
        if isinstance(pair, PairedAccuracy)
    ]


def model_sentences(study: StudyFigures) -> list[str]:
    """The model against each reader alone."""
    return [
        paired_sentence("the model", f"{reader} alone", pair, n=study.n)
        for reader, pair in study.against_model.items()
        if isinstance(pair, PairedAccuracy)
    ]


def between_sentences(study: StudyFigures) -> list[str]:
    """Whether the readers differ from one another."""
    return [
        f"Do the {test.df + 1} readers differ among themselves, {WITH[condition]}? Cochran's Q = "
        f"{test.statistic:.2f}, {test.df} degree{'' if test.df == 1 else 's'} of freedom, {p_text(test.p)}."
        for condition, test in study.between.items()
        if isinstance(test, TestResult)
    ]


def several(study: StudyFigures) -> str:
    """How many tests the study shows, and what that means."""
    every = (*study.helped.values(), *study.against_model.values(), *study.between.values())
    return multiplicity(sum(isinstance(test, PairedAccuracy | TestResult) for test in every))


def _helped(reader: str, pair: PairedAccuracy, *, n: int) -> str:
    if pair.b == pair.c == 0:
        return f"{reader}: right and wrong on the same of the {n} patients, with the model's help and alone."
    return (
        f"{reader}: with the model's help right on {pair.b} of the {n} patients that were wrong without it, "
        f"and wrong on {pair.c} that were right without it ({mcnemar_name(pair)}, {p_text(pair.decisive_p)}). "
        f"Accuracy with help minus without: {difference(pair)}. "
        + verdict(
            pair,
            open_question="whether the help makes a difference",
            first="the help",
            second="reading alone",
        )
    )
