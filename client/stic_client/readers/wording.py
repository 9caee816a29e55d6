"""What the command prints: one line per judge, then what the comparisons say."""

from __future__ import annotations

from stic_core.evaluation import figure
from stic_core.evaluation.readers.release import StudyFigures
from stic_core.evaluation.readers.wording import (
    WITH,
    between_sentences,
    helped_sentences,
    model_sentences,
    several,
)


def summary(study: StudyFigures) -> list[str]:
    """Lines for a terminal, without any patient."""
    lines = ["PHANTOM: computed patients; says nothing about real patients"] if study.phantom else []
    lines.append(f"{study.n} held-out patients; accuracy with its exact 95 % interval")
    rows = [
        (f"{judge} {WITH[condition]}" if condition else "the model", figures.accuracy)
        for judge, condition, figures in study.judges
    ]
    width = max(len(name) for name, _ in rows)
    lines += [f"  {name:{width}}  {figure(rate)}" for name, rate in rows]
    return [
        *lines,
        *helped_sentences(study),
        *model_sentences(study),
        *between_sentences(study),
        several(study),
    ]
