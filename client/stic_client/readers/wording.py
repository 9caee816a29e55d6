"""What the command prints: a line a judge, then what the comparisons say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stic_core.evaluation import figure
from stic_core.evaluation.readers.wording import (
    WITH,
    between_sentences,
    helped_sentences,
    model_sentences,
    several,
)


def summary(study: Mapping[str, Any]) -> list[str]:
    """Lines for a terminal, without any patient.

    Args:
        study: what `reader_study.json` holds.
    """
    lines = ["PHANTOM: computed patients; nothing here is of people"] if study["phantom"] else []
    lines.append(f"{study['n']} held-out patients; accuracy with its exact 95 % interval")
    rows = [
        (f"{reader} {WITH[condition]}", figures["accuracy"])
        for reader, by in study["readers"].items()
        for condition, figures in by.items()
    ]
    rows.append(("the model", study["model"]["accuracy"]))
    width = max(len(name) for name, _ in rows)
    lines += [f"  {name:{width}}  {figure(rate, interval='ci95')}" for name, rate in rows]
    return [
        *lines,
        *helped_sentences(study),
        *model_sentences(study),
        *between_sentences(study),
        several(study),
    ]
