"""Models against one another: the cross-site matrix, and paired comparisons on the same patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from stic_core.evaluation import favours, listed, models_of, multiplicity, p_text, paired_sentence
from stic_server.report import plots
from stic_server.report.wording import absent, interval, spoken, title_of

Json: TypeAlias = Any

MARGIN = 0.05
"""The macro AUC that the federated model may lack against training on pooled data (pre-registered)."""

FEDERATED = "the federated model"


def matrix(evaluation: Json) -> Json:
    """Macro AUC of every model on every held-out set: `columns`, and `rows` with their cells."""
    columns = [*evaluation["sites"], "pooled"]
    rows = []
    for name, block in models_of(evaluation).items():
        cells = []
        for where in columns:
            found = block["pooled"] if where == "pooled" else block["sites"].get(where)
            auc: Json = {"not_estimable": "not evaluated there"} if found is None else found["auc_macro"]
            cells.append(
                {
                    "where": where,
                    "n": 0 if found is None else found["n"],
                    "auc": auc,
                    "share": _shade(auc["value"]) if "value" in auc else 0.0,
                    "own": name == f"{where} alone",
                }
            )
        rows.append({"model": name, "title": title_of(name), "cells": cells})
    sizes = {where: _n(evaluation, where) for where in columns}
    return {"columns": [(where, sizes[where]) for where in columns], "rows": rows}


def comparisons(evaluation: Json) -> Json | None:
    """The federated model against each other one; None where the run compared none.

    Returns:
        `others` (name, title, sentence, rows), `tests`, `several`, `panels`, `lead`, `margin`.
    """
    compared = evaluation.get("comparison")
    if not compared:
        return None
    others = [
        {
            "name": other,
            "title": spoken(other),
            "sentence": _sentence(other, block["pooled"]),
            "rows": [*block["sites"].items(), ("pooled", block["pooled"])],
        }
        for other, block in compared.items()
    ]
    tests = sum(1 for _ in _tests(compared))
    return {
        "others": others,
        "tests": tests,
        "several": multiplicity(tests),
        "panels": _panels(compared, classes=evaluation["classes"]),
        "lead": _lead(compared),
        "margin": non_inferiority(compared.get("centralised"), classes=evaluation["classes"]),
    }


def non_inferiority(block: Json | None, *, classes: Sequence[str]) -> str | None:
    """What the paired differences say of the margin; None where nothing was trained on pooled data.

    No site releases the covariance between the classes' differences, so the interval of their
    mean has the mean of their half widths, which is an upper bound.
    """
    if block is None:
        return None
    promise = (
        f"Fixed before training: the federated model counts as non-inferior to training on all data in one place "
        f"where the lower end of the 95 % interval of the difference in macro AUC lies above -{MARGIN}."
    )
    found = {name: block["pooled"].get("auc", {}).get(name, {}) for name in classes}
    missing = [name for name, test in found.items() if "difference" not in test]
    if missing:
        return f"{promise} It cannot be said here: the difference is missing for {listed(missing)}."
    mean = sum(test["difference"] for test in found.values()) / len(classes)
    half = sum((test["ci95"][1] - test["ci95"][0]) / 2 for test in found.values()) / len(classes)
    shown = "It is non-inferior" if mean - half > -MARGIN else "Non-inferiority is not shown"
    return (
        f"{promise} The difference is {mean:+.3f}, and its interval at most {mean - half:+.3f} to {mean + half:+.3f}. "
        f"{shown} on these patients, for this one training."
    )


def _n(evaluation: Json, where: str) -> int:
    return evaluation["pooled"]["n"] if where == "pooled" else evaluation["sites"][where]["n"]


def _shade(auc: float) -> float:
    """0 at chance, 1 at a perfect AUC; squared, since most AUCs worth a look lie above 0.8."""
    return max(0.0, (auc - 0.5) / 0.5) ** 2


def _sentence(other: str, pooled: Json) -> str:
    accuracy = pooled.get("accuracy", pooled)
    if (why := absent(accuracy)) is not None:
        return f"Whether {FEDERATED} is right more often than {spoken(other)} cannot be said: {why}."
    return paired_sentence(FEDERATED, spoken(other), {"n": pooled["n"], **accuracy})


def _lead(compared: Json) -> str:
    """One sentence for the summary: who was right more often, patient by patient."""
    settled, open_ones, worse = [], [], []
    for other, block in compared.items():
        accuracy = block["pooled"].get("accuracy", {})
        if interval(accuracy.get("ci95")) is None:
            continue
        side = favours(accuracy)
        text = f"{spoken(other)} ({accuracy['b']} to {accuracy['c']}, {p_text(accuracy['p'])})"
        (settled if side > 0 else worse if side < 0 else open_ones).append(text)
    if not (settled or worse or open_ones):
        return ""
    parts = []
    if settled:
        parts.append(f"it is ahead of {listed(settled)}")
    if worse:
        parts.append(f"it is behind {listed(worse)}")
    if open_ones:
        parts.append(f"these patients do not settle it against {listed(open_ones)}")
    return (
        f"Counting the patients that only one of two models got right, {'; '.join(parts)} "
        "(McNemar's test; p values not corrected for their number)."
    )


def _tests(compared: Json) -> Iterator[float]:
    """Every p value that the comparison shows."""
    for block in compared.values():
        for found in (*block["sites"].values(), block["pooled"]):
            tests = (found.get("accuracy", {}), *found.get("auc", {}).values())
            yield from (test["p"] for test in tests if absent(test) is None and "p" in test)


def _panels(compared: Json, *, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Figures of the pooled differences: accuracy, then the AUC of each class."""

    def rows(of: Mapping[str, Json]) -> list[dict[str, Json]]:
        return [
            {
                "name": _short(other),
                "value": test["difference"],
                "low": test["ci95"][0],
                "high": test["ci95"][1],
            }
            for other, test in of.items()
            if interval(test.get("ci95")) is not None
        ]

    pooled = {other: block["pooled"] for other, block in compared.items()}
    kinds = {"Accuracy": {other: block.get("accuracy", {}) for other, block in pooled.items()}} | {
        f"AUC {name}": {other: block.get("auc", {}).get(name, {}) for other, block in pooled.items()}
        for name in classes
    }
    shown = {title: found for title, of in kinds.items() if (found := rows(of))}
    ends = [abs(row[end]) for found in shown.values() for row in found for end in ("low", "high")]
    return [
        (
            title,
            plots.differences(found, widest=max(ends), label=f"Difference of {title}, federated minus other"),
        )
        for title, found in shown.items()
    ]


def _short(other: str) -> str:
    return other if other in {"ensemble", "centralised"} else f"{other} alone"
