"""Cells of the report's tables: a figure with its interval, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Json: TypeAlias = Any


def blocks(document: Json) -> list[tuple[str, Json]]:
    """Held-out sets in the order of the report, the pooled one last."""
    return [*document["sites"].items(), ("pooled", document["pooled"])]


def figure(block: Json, interval: str) -> tuple[object, object, object, str]:
    """Value, both ends and name of an interval; empty where they are not."""
    ends = block.get(interval)
    lower, upper = ends if isinstance(ends, list) else ("", "")
    return block.get("value", ""), lower, upper, interval


def difference(test: Json) -> tuple[object, object, object]:
    """A difference and both ends of its interval; empty where there is none."""
    lower, upper = test.get("ci95") or ("", "")
    return test.get("difference", ""), lower, upper


def counts(rate: Json) -> tuple[object, ...]:
    """Hits, total, share, both ends, and why they are not there."""
    value, lower, upper, _ = figure(rate, "ci95")
    return rate.get("correct", ""), rate.get("total", ""), value, lower, upper, why(rate)


def why(value: Json) -> str:
    """The reason of a figure that is not there; empty where it is."""
    if not isinstance(value, Mapping):
        return ""
    if "suppressed" in value:
        return f"suppressed: {value['suppressed']}"
    return f"not estimable: {value['not_estimable']}" if "not_estimable" in value else ""
