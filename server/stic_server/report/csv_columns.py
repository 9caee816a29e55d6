"""Cells of the report's tables: a figure with its interval, or why there is none."""

from __future__ import annotations

from stic_core.evaluation.figures import AucFigure, PairedAccuracy, Proportion
from stic_core.statistics import Absent, AucTest, IndependentProportions, NotEstimable

Cells = tuple[object, ...]


def figure(value: Proportion | AucFigure | Absent, *, kind: str) -> Cells:
    """Value, both ends of an interval, its kind, and why it is not there; empty where nothing is.

    Args:
        value: the figure.
        kind: `ci95`, `ci95_logit`, `ci95_wald` or `ci95_newcombe`; `interval` is the one that pages show.
    """
    if kind == "interval":
        kind = f"ci95_{value.interval_kind}" if isinstance(value, AucFigure) else "ci95_logit"
    if isinstance(value, Absent):
        return "", "", "", kind, why(value)
    ends = getattr(value, kind)
    return value.value, *(("", "") if isinstance(ends, NotEstimable) else ends), kind, why(ends)


def parts(value: object, *names: str) -> Cells:
    """Parts of a figure or a test by name; empty where it is not there."""
    return tuple("" if isinstance(value, Absent) else getattr(value, name) for name in names)


def difference(test: AucTest | IndependentProportions | PairedAccuracy | Absent) -> Cells:
    """A difference and both ends of its interval; empty where there is none."""
    return ("", "", "") if isinstance(test, Absent) else (test.difference, *test.ci95)


def counts(rate: Proportion | Absent) -> Cells:
    """Hits, total, share, both ends, and why they are not there."""
    value, low, high, _, reason = figure(rate, kind="ci95")
    return *parts(rate, "correct", "total"), value, low, high, reason


def why(value: object) -> str:
    """The reason of a figure that is not there; empty where it is."""
    return f"{value.word}: {value.reason}" if isinstance(value, Absent) else ""
