"""The held-out table: what the command line prints and the report shows, as plain strings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = tuple[str, ...]


def held_out_table(document: Mapping[str, Any], *, class_intervals: bool = True) -> list[Row]:
    """One row a model and held-out set, under a row of headings.

    Columns: model, held-out set, n, accuracy (95 % interval), AUC of each class (95 % logit
    interval), macro AUC.

    Args:
        document: `evaluation.json`.
        class_intervals: whether the AUC of each class has its interval.
    """
    classes = document["classes"]
    heading = ("Model", "Held-out set", "n", "Accuracy", *(f"AUC {name}" for name in classes), "Macro AUC")
    rows = [heading]
    for model, block in models_of(document).items():
        rows += _rows(model, block, classes=classes, intervals=class_intervals)
    return rows


def models_of(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Each model's `sites` and `pooled`, by the name it has in tables, the federated one first.

    Args:
        document: `evaluation.json`; older ones know no ensemble, and only a simulation can
            train on all patients in one place.
    """
    alone = {f"{owner} alone": block for owner, block in document["local_only"].items()}
    joint = {name: document[name] for name in ("ensemble", "centralised") if name in document}
    return {"federated": document, **alone, **joint}


def figure(block: Mapping[str, Any], *, interval: str = "ci95_logit") -> str:
    """A figure with its interval, or in a word why there is none.

    Example:
        >>> figure({"value": 0.9, "ci95_logit": [0.81, 0.95]})
        '0.900 (0.810-0.950)'
        >>> figure({"suppressed": "fewer than 5 patients"})
        'suppressed'
    """
    if "suppressed" in block:
        return "suppressed"
    if "not_estimable" in block:
        return "not estimable"
    ends = block.get(interval)
    if not isinstance(ends, list | tuple):
        return f"{block['value']:.3f} (no interval)"
    return f"{block['value']:.3f} ({ends[0]:.3f}-{ends[1]:.3f})"


def _rows(model: str, block: Mapping[str, Any], *, classes: list[str], intervals: bool) -> list[Row]:
    held_out = [*block["sites"].items(), ("pooled", block["pooled"])]
    return [
        (
            model,
            name,
            str(figures["n"]),
            figure(figures["accuracy"], interval="ci95"),
            *(
                _short(text) if not intervals else text
                for text in (figure(figures["auc"][label]) for label in classes)
            ),
            figure(figures["auc_macro"]),
        )
        for name, figures in held_out
    ]


def _short(text: str) -> str:
    """A figure without its interval."""
    return text.partition(" (")[0]
