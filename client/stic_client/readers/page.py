"""`reader_study.html`: one file that opens without a network and stays in the hospital."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from stic_client.html import template
from stic_core.evaluation import p_text, points
from stic_core.evaluation.readers.wording import (
    WITH,
    between_sentences,
    helped_sentences,
    model_sentences,
    several,
)

Json: TypeAlias = Any

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


def render(study: Mapping[str, Json]) -> str:
    """The page as HTML.

    Args:
        study: what `reader_study.json` holds.
    """
    colours = {reader: f"s{at % COLOURS + 1}" for at, reader in enumerate(study["readers"])}
    return template("readers.html.j2", p=p_text, points=points).render(
        study=study,
        colours=colours,
        side=SIDE,
        called=WITH,
        panels=[
            (name, curve, _line(curve["points"]), _links(marks), marks)
            for name, curve in study["roc"]["classes"].items()
            for marks in [_marks(study, name, colours=colours)]
        ],
        helped=helped_sentences(study),
        against=model_sentences(study),
        between=between_sentences(study),
        several=several(study),
    )


def _line(curve: Json) -> str:
    return " ".join(f"{SIDE * x:.1f},{SIDE * (1 - y):.1f}" for x, y in curve)


def _links(marks: list[Mark]) -> list[dict[str, str]]:
    """From each reader alone to the same with help; the two stand one after the other."""
    return [
        {"colour": a.colour, "path": f"M{a.x:.1f} {a.y:.1f}L{b.x:.1f} {b.y:.1f}"}
        for a, b in pairwise(marks)
        if (a.condition, b.condition) == ("alone", "aided")
    ]


def _marks(study: Mapping[str, Json], name: str, *, colours: Mapping[str, str]) -> list[Mark]:
    marks = []
    for reader, by in study["readers"].items():
        for condition, figures in by.items():
            mark = _mark(figures, name, colour=colours[reader], judge=reader, condition=condition)
            marks += [mark] if mark else []
    model = _mark(study["model"], name, colour="ink", judge="the model", condition="model")
    return [*marks, model] if model else marks


def _mark(figures: Json, name: str, *, colour: str, judge: str, condition: str) -> Mark | None:
    sensitivity, specificity = figures["sensitivity"][name], figures["specificity"][name]
    if "value" not in sensitivity or "value" not in specificity:
        return None
    return Mark(
        colour,
        condition,
        SIDE * (1 - specificity["value"]),
        SIDE * (1 - sensitivity["value"]),
        f"{judge}{' ' + WITH[condition] if condition in WITH else ''}: sensitivity {sensitivity['value']:.2f}, "
        f"specificity {specificity['value']:.2f}",
    )
