"""`reader_study.html`: one file that opens without a network and stays in the hospital."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from stic_client.html import template
from stic_client.readers.own_study import OwnStudy
from stic_core.evaluation import p_text, points
from stic_core.evaluation.document import Curve
from stic_core.evaluation.readers.release import JudgeFigures, StudyFigures
from stic_core.evaluation.readers.wording import (
    WITH,
    between_sentences,
    helped_sentences,
    model_sentences,
    several,
)
from stic_core.statistics import Absent

SIDE = 200
"""Side of a plot's unit square, in its own units."""

COLOURS = 8


@dataclass(frozen=True, slots=True)
class Mark:
    """A reader's point on the ROC plot of a class.

    Args:
        colour: CSS variable of the reader.
        x, y: in the plot's units.
        title: what a screen reader reads out.
    """

    colour: str
    condition: str
    x: float
    y: float
    title: str


def render(study: OwnStudy) -> str:
    """The page as HTML."""
    figures = study.figures
    colours = {reader: f"s{at % COLOURS + 1}" for at, reader in enumerate(figures.readers)}
    return template("readers.html.j2", p=p_text, points=points).render(
        study=figures,
        own=study,
        absent=lambda value: isinstance(value, Absent),
        colours=colours,
        side=SIDE,
        called=WITH,
        panels=[
            (name, curve, _line(curve.points), _links(marks), marks)
            for name, curve in study.roc.items()
            for marks in [_marks(figures, name, colours=colours)]
        ],
        helped=helped_sentences(figures),
        against=model_sentences(figures),
        between=between_sentences(figures),
        several=several(figures),
    )


def _line(curve: Curve) -> str:
    return " ".join(f"{SIDE * x:.1f},{SIDE * (1 - y):.1f}" for x, y in curve)


def _links(marks: list[Mark]) -> list[dict[str, str]]:
    """From each reader alone to the same with help; the two stand one after the other."""
    return [
        {"colour": a.colour, "path": f"M{a.x:.1f} {a.y:.1f}L{b.x:.1f} {b.y:.1f}"}
        for a, b in pairwise(marks)
        if (a.condition, b.condition) == ("alone", "aided")
    ]


def _marks(study: StudyFigures, name: str, *, colours: Mapping[str, str]) -> list[Mark]:
    marks = [
        _mark(figures, name, colour=colours[judge], judge=judge, condition=condition)
        if condition
        else _mark(figures, name, colour="ink", judge="the model", condition="model")
        for judge, condition, figures in study.judges
    ]
    return [mark for mark in marks if mark is not None]


def _mark(figures: JudgeFigures, name: str, *, colour: str, judge: str, condition: str) -> Mark | None:
    sensitivity, specificity = figures.sensitivity[name], figures.specificity[name]
    if isinstance(sensitivity, Absent) or isinstance(specificity, Absent):
        return None
    return Mark(
        colour,
        condition,
        SIDE * (1 - specificity.value),
        SIDE * (1 - sensitivity.value),
        f"{judge}{' ' + WITH[condition] if condition in WITH else ''}: sensitivity {sensitivity.value:.2f}, "
        f"specificity {specificity.value:.2f}",
    )
