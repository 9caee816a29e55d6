"""`reader_study.html`: one file that opens without a network and stays in the hospital."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stic_client.html import template
from stic_client.readers.own_study import ModelCurve, OwnStudy
from stic_core.evaluation import auc_titles, p_text, points
from stic_core.evaluation.document import Curve
from stic_core.evaluation.readers.release import StudyFigures
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

WIDE, ROW = 300, 30
"""Width of the plot of accuracies for 0 to 100 %, and the height of a reader's row, in its own units."""

LABELS_AT, LABELS_FROM, LABEL_HEIGHT = 112, 62, 13
"""Names of points: x of their column, y of the first, and how far apart they are, in the plot's units."""

COLOURS = 8


@dataclass(frozen=True, slots=True)
class Mark:
    """A reader's point on the ROC plot of a class.

    Args:
        colour: CSS variable of the reader.
        x, y: in the plot's units.
        title: what a screen reader reads out.
    """

    judge: str
    colour: str
    condition: str
    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class Label:
    """A judge's name, and the point that it belongs to.

    Args:
        x, y: of the point.
        at: y of the name.
    """

    colour: str
    x: float
    y: float
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """The ROC plot of one class.

    Args:
        points: of the model's curve, for SVG.
        links: from each reader alone to the same with help.
        missing: judges without a point, and why.
    """

    name: str
    curve: ModelCurve
    points: str
    links: list[dict[str, str]]
    marks: list[Mark]
    labels: list[Label]
    missing: list[str]


@dataclass(frozen=True, slots=True)
class Change:
    """A reader's accuracy alone and with help, in the units of the plot that shows both.

    Args:
        y: of the row's middle.
        told: accuracy alone, with help, and the difference with its p value.
    """

    reader: str
    colour: str
    y: float
    alone: float
    aided: float
    told: tuple[str, str, str]


def render(study: OwnStudy) -> str:
    """The page as HTML."""
    figures = study.figures
    colours = {reader: f"s{at % COLOURS + 1}" for at, reader in enumerate(figures.readers)}
    titles = auc_titles(figures.classes)
    return template("readers.html.j2", p=p_text, points=points).render(
        study=figures,
        own=study,
        absent=lambda value: isinstance(value, Absent),
        binary=len(figures.classes) == 2,
        colours=colours,
        side=SIDE,
        called=WITH,
        changes=_changes(figures, colours=colours),
        row_height=ROW,
        model_at=None if isinstance(figures.model.accuracy, Absent) else WIDE * figures.model.accuracy.value,
        wide=WIDE,
        labels_at=LABELS_AT,
        panels=[_panel(study, name, colours=colours) for name in study.roc if name in titles],
        helped=helped_sentences(figures),
        against=model_sentences(figures),
        between=between_sentences(figures),
        several=several(figures),
    )


def _changes(study: StudyFigures, *, colours: Mapping[str, str]) -> list[Change]:
    """One row per reader with both accuracies; the greatest gain first."""
    rows = []
    for reader, by in study.readers.items():
        alone, aided, pair = by["alone"].accuracy, by["aided"].accuracy, study.helped[reader]
        if isinstance(alone, Absent) or isinstance(aided, Absent) or isinstance(pair, Absent):
            continue  # the site's own page sees every count
        told = (
            f"{100 * alone.value:.0f} %",
            f"{100 * aided.value:.0f} %",
            f"{points(pair.difference)} points, {p_text(pair.p)}",
        )
        rows.append((reader, alone.value, aided.value, told))
    rows.sort(key=lambda row: row[1] - row[2])
    return [
        Change(reader, colours[reader], ROW * (at + 0.5), WIDE * alone, WIDE * aided, told)
        for at, (reader, alone, aided, told) in enumerate(rows)
    ]


def _panel(study: OwnStudy, name: str, *, colours: Mapping[str, str]) -> Panel:
    marks, missing = _marks(study.figures, name, colours=colours)
    curve = study.roc[name]
    return Panel(name, curve, _line(curve.points), _links(marks), marks, _labels(marks), missing)


def _labels(marks: Sequence[Mark]) -> list[Label]:
    """Names of the points with help and of the model's, in a column where few readers stand, each led to its point."""
    named = sorted((mark for mark in marks if mark.condition != "alone"), key=lambda mark: mark.y)
    apart = min(LABEL_HEIGHT, (SIDE - LABELS_FROM) / max(1, len(named)))
    return [
        Label(mark.colour, mark.x, mark.y, LABELS_FROM + apart * at, mark.judge)
        for at, mark in enumerate(named)
    ]


def _line(curve: Curve) -> str:
    return " ".join(f"{SIDE * x:.1f},{SIDE * (1 - y):.1f}" for x, y in curve)


def _links(marks: list[Mark]) -> list[dict[str, str]]:
    """From each reader alone to the same with help; the two stand one after the other."""
    return [
        {"colour": a.colour, "path": f"M{a.x:.1f} {a.y:.1f}L{b.x:.1f} {b.y:.1f}"}
        for a, b in pairwise(marks)
        if (a.condition, b.condition) == ("alone", "aided")
    ]


def _marks(study: StudyFigures, name: str, *, colours: Mapping[str, str]) -> tuple[list[Mark], list[str]]:
    """Points of a class, and which judges have none."""
    marks, missing = [], []
    for judge, condition, figures in study.judges:
        sensitivity, specificity = figures.sensitivity[name], figures.specificity[name]
        called = f"{judge} {WITH[condition]}" if condition else "the model"
        why = next((rate for rate in (sensitivity, specificity) if isinstance(rate, Absent)), None)
        if isinstance(sensitivity, Absent) or isinstance(specificity, Absent):
            assert why is not None
            missing.append(f"{called} ({why.reason})")
            continue
        marks.append(
            Mark(
                judge=judge if condition else "the model",
                colour=colours[judge] if condition else "ink",
                condition=condition or "model",
                x=SIDE * (1 - specificity.value),
                y=SIDE * (1 - sensitivity.value),
                title=f"{called}: sensitivity {sensitivity.value:.2f}, specificity {specificity.value:.2f}",
            )
        )
    return marks, missing
