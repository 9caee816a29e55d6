"""Every answer that a faulty or hostile program could make of an honest one by changing a single place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_AWAY = "\u0001away\u0001"
"""Stands where the absurd text will while the rest is written as JSON."""

ABSURD = (
    "Infinity",
    "-Infinity",
    "NaN",
    "1e400",
    "-1e400",
    "1e308",
    "-1e308",
    "5e-324",
    "-1",
    "0",
    "-0.0",
    "1",
    "0.5",
    "2",
    "1e12",
    str(10**7),
    str(2**53),
    str(2**63),
    str(10**400),
    '""',
    '"1"',
    '"Infinity"',
    json.dumps("x" * 100_000),
    '"<script>alert(1)</script>"',
    '"\\ud800"',
    "null",
    "true",
    "[]",
    "{}",
    "[[]]",
    '{"suppressed": "so"}',
    '{"not_estimable": ""}',
    '{"suppressed": "=1+1"}',
    "[" * 200_000 + "]" * 200_000,
)
"""As JSON text, since most of it cannot be said in Python."""


def changed(text: str) -> Iterator[tuple[str, str]]:
    """Each with a name such as `report.n = NaN`: every place absurd, every key missing, twice or beside another.

    Of a list the first and the last element are changed, and the list itself; of classes, splits and others
    that are alike, the first.

    Args:
        text: JSON of an honest answer.
    """
    whole = json.loads(text)
    for path in list(_paths(whole)):
        name = ".".join(map(str, path)) or "all of it"
        around = _around(whole, path)
        for absurd in ABSURD:
            yield f"{name} = {absurd[:30]}", absurd.join(around)
        if path:
            yield f"{name} missing", _without(whole, path)
        if isinstance(found := _at(whole, path), dict):
            more = json.dumps({**found, "more": 1})
            yield f"{name} with a key more", more.join(around)
            yield f"{name} with a key twice", f"{more[:-1]}, {more[1:]}".join(around)


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(value, dict):
        parts = list(value.values())
        alike = all(isinstance(part, dict) and sorted(part) == sorted(parts[0]) for part in parts)
        for key, part in list(value.items())[: 1 if alike else None]:
            yield from _paths(part, (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} & set(range(len(value)))):
            yield from _paths(value[index], (*path, index))


def _at(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _around(whole: Any, path: tuple[str | int, ...]) -> list[str]:
    """The text before a place and after it."""
    if not path:
        return ["", ""]
    parent, key = _at(whole, path[:-1]), path[-1]
    before, parent[key] = parent[key], _AWAY
    text = json.dumps(whole)
    parent[key] = before
    return text.split(json.dumps(_AWAY))


def _without(whole: Any, path: tuple[str | int, ...]) -> str:
    copy = json.loads(json.dumps(whole))
    del _at(copy, path[:-1])[path[-1]]
    return json.dumps(copy)
