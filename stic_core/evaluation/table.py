"""The held-out table: what the command line prints and the report shows, as plain strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from stic_core.evaluation.document import Evaluation, ModelFigures
from stic_core.evaluation.figures import AucFigure, Proportion
from stic_core.evaluation.wording import auc_titles, overall_auc
from stic_core.statistics import Absent, NotEstimable

Row: TypeAlias = tuple[str, ...]


def held_out_table(evaluation: Evaluation, *, class_intervals: bool = True) -> list[Row]:
    """One row a model and held-out set, under a row of headings.

    Columns: model, held-out set, n, accuracy (95 % interval), AUC of each class (95 % logit
    interval), macro AUC; two classes have one AUC, which is shown once.

    Args:
        evaluation: of a run.
        class_intervals: whether the AUC of each class has its interval.
    """
    classes = evaluation.classes
    overall = overall_auc(classes)
    heading = (
        "Model",
        "Held-out set",
        "n",
        "Accuracy",
        *_of_classes(classes).values(),
        overall[0].upper() + overall[1:],
    )
    return [
        heading,
        *(
            row
            for model, figures in evaluation.models.items()
            for row in _rows(model, figures, classes=classes, intervals=class_intervals)
        ),
    ]


def figure(value: Proportion | AucFigure | Absent) -> str:
    """A figure with its interval, or in a word why there is none.

    Example:
        >>> figure(Proportion(0.9, 18, 20, ci95=(0.683, 0.988)))
        '0.900 (0.683-0.988)'
        >>> figure(NotEstimable("no patients"))
        'not estimable'
    """
    if isinstance(value, Absent):
        return value.word
    if isinstance(value.interval, NotEstimable):
        return f"{value.value:.3f} (no interval)"
    low, high = value.interval
    return f"{value.value:.3f} ({low:.3f}-{high:.3f})"


def patients_behind(value: Proportion | AucFigure | Absent) -> int | None:
    """How many patients a figure is of: a pooled one is of the sites that release theirs. None: it does not say."""
    if isinstance(value, Proportion):
        return value.total
    if isinstance(value, AucFigure) and value.positives is not None and value.negatives is not None:
        return value.positives + value.negatives
    return None


def _of_fewer(value: Proportion | AucFigure | Absent, *, n: int, interval: bool = True) -> str:
    """A figure, and of how many patients it is where these are not all of its row."""
    behind, text = patients_behind(value), figure(value) if interval else _short(figure(value))
    return text + ("" if behind in {None, n} else f" of {behind}")


def _rows(model: str, figures: ModelFigures, *, classes: Sequence[str], intervals: bool) -> list[Row]:
    return [
        (
            model,
            name,
            str(found.n),
            _of_fewer(found.accuracy, n=found.n),
            *(_of_fewer(found.auc[label], n=found.n, interval=intervals) for label in _of_classes(classes)),
            figure(found.auc_macro),
        )
        for name, found in figures.sets.items()
    ]


def _of_classes(classes: Sequence[str]) -> dict[str, str]:
    """Columns of single classes; of two classes there are none beside the one AUC."""
    return auc_titles(classes) if len(classes) > 2 else {}


def _short(text: str) -> str:
    """A figure without its interval."""
    return text.partition(" (")[0]
