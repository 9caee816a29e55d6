"""Models against one another: the cross-site matrix, and paired comparisons on the same patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stic_core import statistics
from stic_core.evaluation import (
    Evaluation,
    auc_titles,
    favours,
    listed,
    multiplicity,
    overall_auc,
    p_text,
    paired_sentence,
)
from stic_core.evaluation.document import Comparison, PairFigures
from stic_core.evaluation.figures import AucFigure, PairedAccuracy
from stic_core.statistics import MARGIN, Absent, AucTest, NotEstimable, Suppressed
from stic_server.report import plots
from stic_server.report.wording import absent, spoken, title_of

FEDERATED = "the federated model"


def matrix(evaluation: Evaluation) -> dict[str, Any]:
    """Macro AUC of every model on every held-out set: `columns`, and `rows` with their cells."""
    sizes = {where: figures.n for where, figures in evaluation.models["federated"].sets.items()}
    rows = []
    for name, model in evaluation.models.items():
        cells = []
        for where in sizes:
            found = model.sets.get(where)
            auc = NotEstimable("not evaluated there") if found is None else found.auc_macro
            cells.append(
                {
                    "where": where,
                    "n": 0 if found is None else found.n,
                    "auc": auc,
                    "share": _shade(auc.value) if isinstance(auc, AucFigure) else 0.0,
                    "own": name == f"{where} alone",
                }
            )
        rows.append({"model": name, "title": title_of(name), "cells": cells})
    return {"columns": list(sizes.items()), "rows": rows}


def comparisons(evaluation: Evaluation) -> dict[str, Any] | None:
    """The federated model against each other one; None where the run compared none.

    Returns:
        `others` (name, title, sentence, pooled, rows), `tests`, `several`, `panels`, `lead`, `margin`.
    """
    compared = evaluation.comparison
    if not compared:
        return None
    others = [
        {
            "name": other,
            "title": spoken(other),
            "sentence": _sentence(other, found.pooled),
            "pooled": found.pooled,
            "rows": list(found.sets.items()),
        }
        for other, found in compared.items()
    ]
    tests = sum(1 for _ in _tests(compared, classes=evaluation.classes))
    return {
        "others": others,
        "tests": tests,
        "several": multiplicity(tests),
        "panels": _panels(
            {other: found.pooled for other, found in compared.items()}, classes=evaluation.classes
        ),
        "lead": _lead(compared),
        "margin": non_inferiority(compared.get("centralised"), classes=evaluation.classes),
    }


def non_inferiority(found: Comparison | None, *, classes: Sequence[str]) -> str | None:
    """What the paired differences say of the margin; None where nothing was trained on pooled data."""
    if found is None:
        return None
    promise = (
        f"Fixed before training: the federated model counts as non-inferior to training on all data in one place "
        f"where the lower end of the 95 % interval of the difference in {overall_auc(classes)} lies above -{MARGIN}."
    )
    tests = {name: test for name in classes if isinstance(test := found.pooled.auc.get(name), AucTest)}
    if missing := [name for name in classes if name not in tests]:
        return f"{promise} No conclusion is possible here: the difference is missing for {listed(missing)}."
    mean, (low, high) = statistics.mean_difference(list(tests.values()))
    verdict = statistics.NonInferiority(mean, (low, high)).verdict
    shown = "It is non-inferior" if verdict == "non-inferior" else "Non-inferiority is not shown"
    return (
        f"{promise} The difference is {mean:+.3f}, and its interval at most {low:+.3f} to {high:+.3f}. "
        f"{shown} on these patients, for this one training."
    )


def _shade(auc: float) -> float:
    """0 at chance, 1 at a perfect AUC; squared, since most AUCs worth a look lie above 0.8."""
    return max(0.0, (auc - 0.5) / 0.5) ** 2


def _sentence(other: str, pooled: PairFigures) -> str:
    if isinstance(pooled.accuracy, Absent):
        why = absent(pooled.accuracy)
        return f"Whether {FEDERATED} is right more often than {spoken(other)} cannot be said: {why}."
    return paired_sentence(FEDERATED, spoken(other), pooled.accuracy, n=pooled.n)


def _lead(compared: Mapping[str, Comparison]) -> str:
    """One sentence for the summary: who was right more often, patient by patient."""
    settled, open_ones, worse = [], [], []
    for other, found in compared.items():
        accuracy = found.pooled.accuracy
        if isinstance(accuracy, Absent):
            continue
        side = favours(accuracy)
        sets = [pair for pair in found.sites.values() if isinstance(pair, PairFigures)]
        kept = any(isinstance(pair.accuracy, Suppressed) for pair in sets)
        of = f" of the {found.pooled.n} patients whose hospitals released these counts" if kept else ""
        text = f"{spoken(other)} ({accuracy.b} patients to {accuracy.c}{of}; {p_text(accuracy.decisive_p)})"
        (settled if side > 0 else worse if side < 0 else open_ones).append(text)
    if not (settled or worse or open_ones):
        return ""
    parts = []
    if settled:
        parts.append(f"the federated model is ahead of {listed(settled)}")
    if worse:
        parts.append(f"the federated model is behind {listed(worse)}")
    if open_ones:
        parts.append(f"no difference is shown from {listed(open_ones)}")
    return (
        f"In accuracy, {'; '.join(parts)}. The counts are of patients whom only one of the two models got right "
        "(McNemar's test, exact below 25 such patients; p values not corrected for their number)."
    )


def _tests(
    compared: Mapping[str, Comparison], *, classes: Sequence[str]
) -> Iterator[PairedAccuracy | AucTest]:
    """Every test that the comparison shows."""
    for found in compared.values():
        for pair in found.sets.values():
            if isinstance(pair, PairFigures):
                aucs = (pair.auc[name] for name in auc_titles(classes))
                yield from (test for test in (pair.accuracy, *aucs) if not isinstance(test, Absent))


def _panels(pooled: Mapping[str, PairFigures], *, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Figures of the pooled differences: accuracy, then the AUC of each class."""
    kinds: dict[str, Mapping[str, PairedAccuracy | AucTest | Absent | None]] = {
        "Accuracy": {other: pair.accuracy for other, pair in pooled.items()},
        **{
            title: {other: pair.auc.get(name) for other, pair in pooled.items()}
            for name, title in auc_titles(classes).items()
        },
    }
    shown = {
        title: [
            {"name": _short(other), "value": test.difference, "low": test.ci95[0], "high": test.ci95[1]}
            for other, test in of.items()
            if isinstance(test, PairedAccuracy | AucTest)
        ]
        for title, of in kinds.items()
    }
    widest = max(
        (abs(row[end]) for rows in shown.values() for row in rows for end in ("low", "high")), default=0.0
    )
    return [
        (title, plots.differences(rows, widest=widest, label=f"Difference of {title}, federated minus other"))
        for title, rows in shown.items()
        if rows
    ]


def _short(other: str) -> str:
    return other if other in {"ensemble", "centralised"} else f"{other} alone"
