"""Tables of comparisons: models across hospitals, models in pairs, hospitals, readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from stic_server.report.comparison import matrix
from stic_server.report.csv_columns import blocks, counts, difference, figure, why

Json: TypeAlias = Any
Row: TypeAlias = Sequence[object]

CROSS_SITE = ("model", "held_out_set", "patients", "macro_auc", "lower", "upper", "interval", "why_absent")
COMPARISON = (
    "other_model",
    "held_out_set",
    "patients",
    "figure",
    "federated_minus_other",
    "lower",
    "upper",
    "only_federated_right",
    "only_other_right",
    "test",
    "p",
    "why_absent",
)
BETWEEN = ("site", "other_site", "figure", "difference", "lower", "upper", "test", "p", "why_absent")
HETEROGENEITY = ("class", "model", "auc", "lower", "upper", "tau2", "q", "df", "p", "i2_percent")
READERS = (
    "site",
    "judge",
    "condition",
    "figure",
    "class",
    "hits",
    "total",
    "value",
    "lower",
    "upper",
    "why_absent",
)
PAIRS = (
    "site",
    "first",
    "second",
    "patients",
    "only_first_right",
    "only_second_right",
    "difference",
    "lower",
    "upper",
    "test",
    "p",
    "why_absent",
)


def cross_site(evaluation: Json) -> Iterator[Row]:
    """Macro AUC of every model on every held-out set."""
    for row in matrix(evaluation)["rows"]:
        for cell in row["cells"]:
            auc = cell["auc"]
            reason = why(auc) or why(auc.get("ci95_logit"))
            yield row["model"], cell["where"], cell["n"], *figure(auc, "ci95_logit"), reason


def comparison(evaluation: Json) -> Iterator[Row]:
    """The federated model against each other one: accuracy, then the AUC of each class."""
    for other, block in evaluation.get("comparison", {}).items():
        for where, pair in blocks(block):
            whole = why(pair)
            n = pair.get("n", "")
            accuracy = pair.get("accuracy", {})
            yield (
                *(other, where, n, "accuracy", *difference(accuracy)),
                *(accuracy.get("b", ""), accuracy.get("c", ""), "McNemar", accuracy.get("p", "")),
                whole or why(accuracy),
            )
            for name in evaluation["classes"]:
                test = pair.get("auc", {}).get(name, {})
                yield (
                    *(other, where, n, f"AUC {name}", *difference(test)),
                    *("", "", "DeLong", test.get("p", ""), whole or why(test)),
                )


def between(evaluation: Json) -> Iterator[Row]:
    """Every pair of hospitals, on different patients."""
    for pair in evaluation["between_sites"]["pairs"]:
        accuracy = pair["accuracy"]
        for test, key in (("chi-squared", "p"), ("Fisher", "fisher_p")):
            yield (
                *(*pair["sites"], "accuracy", *difference(accuracy)),
                *(test, accuracy.get(key, ""), why(accuracy)),
            )
        for name, found in pair["auc"].items():
            yield *pair["sites"], f"AUC {name}", *difference(found), "Welch", found.get("p", ""), why(found)


def heterogeneity(evaluation: Json) -> Iterator[Row]:
    """Meta-analysis of the hospitals' AUCs, by class."""
    for name, found in evaluation["between_sites"]["auc"].items():
        for kind in ("fixed", "random"):
            if kind in found:
                summary = found[kind]
                spread = (found[key] for key in ("tau2", "q", "df", "p", "i2"))
                yield name, kind, summary["value"], *summary["ci95"], *spread


def readers(studies: Mapping[str, Json]) -> Iterator[Row]:
    """Every reader and the model, by site."""
    for site, study in studies.items():
        judges = [
            (name, condition, figures)
            for name, by in study["readers"].items()
            for condition, figures in by.items()
        ]
        for judge, condition, figures in (*judges, ("model", "", study["model"])):
            yield site, judge, condition, "accuracy", "", *counts(figures["accuracy"])
            for what in ("sensitivity", "specificity"):
                for name, rate in figures[what].items():
                    yield site, judge, condition, what, name, *counts(rate)


def reader_pairs(studies: Mapping[str, Json]) -> Iterator[Row]:
    """Readers with help against alone, the model against them, and all readers together."""
    for site, study in studies.items():
        pairs = [(f"{name} aided", f"{name} alone", pair) for name, pair in study["helped"].items()]
        pairs += [("model", f"{name} alone", pair) for name, pair in study["against_model"].items()]
        for first, second, pair in pairs:
            yield (
                *(site, first, second, study["n"], pair.get("b", ""), pair.get("c", ""), *difference(pair)),
                *("McNemar", pair.get("p", ""), why(pair)),
            )
        for condition, test in study["between"].items():
            yield (
                *(site, f"all readers {condition}", "", study["n"], "", "", "", "", ""),
                *("Cochran's Q", test.get("p", ""), why(test)),
            )
