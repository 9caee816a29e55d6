"""What the validation library found wrong, in this project's words.

Its own English ("Input should be a valid integer, unable to parse string as an integer") reaches no message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import ErrorDetails

MISSING, UNKNOWN = "missing", "extra_forbidden"
"""Kinds of a fault that are no wrong value."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first fault of a document.

    Args:
        key: its path, "" for the whole document.
        kind: the library's name of it, such as `MISSING`.
        got: what stands there, short, None where that is not to be shown.
        expected: what would have been right.
        meant: the right value that was probably meant, if one is close.
        more: how many other keys are wrong.
    """

    key: str
    kind: str
    got: str | None
    expected: str
    meant: str | None
    more: int


def first_fault(error: ValidationError, data: object = None) -> Fault:
    """The first key that is wrong, and everything that its value might have been.

    Args:
        data: the document; where it is None, paths may name alternatives of a value too.
    """
    by_key: dict[str, list[ErrorDetails]] = {}
    for one in error.errors(include_url=False):
        by_key.setdefault(_path(one, data), []).append(one)
    top = next(iter(by_key))
    # Of a value that may be a word or a table, the fault inside of the table is the one to tell.
    inner = [key for key in by_key if top and key.startswith(f"{top}.")]
    key = max([top, *inner], key=len)
    found = by_key[key]
    first = found[0]
    choices = [choice for one in found if one["type"] == "literal_error" for choice in _choices(one)]
    near = get_close_matches(str(first["input"]).lower(), {name.lower() for name in choices}, n=1)
    return Fault(
        key,
        first["type"],
        None if first["type"] in {MISSING, UNKNOWN} else shown(first["input"]),
        " or ".join(dict.fromkeys(expected(one) for one in found)),
        next((name for name in choices if near and name.lower() == near[0]), None),
        len(by_key) - 1 - len(inner),
    )


def expected(one: ErrorDetails) -> str:
    """What would have been right in one place."""
    words = _WORDS.get(one["type"], "another kind of value")
    text = words(one) if callable(words) else words.format(**one.get("ctx", {}))
    if one["type"] == "string_type" and isinstance(one["input"], bool | int | float):
        return f"{text}, in quotes"
    return text


def shown(value: object) -> str | None:
    """A value as messages show it: on one line, short, and no address, which may hold a secret."""
    if isinstance(value, str):
        return (
            None
            if "://" in value or "@" in value
            else repr(value if len(value) <= _LONG else value[:_LONG] + "...")
        )
    if isinstance(value, dict):
        return "a table of keys" + (f": {', '.join(map(str, list(value)[:5]))}" if value else "")
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "nothing" if value is None else repr(value)[:_LONG]


def _path(one: ErrorDetails, data: object) -> str:
    """The keys alone: of a value with alternatives the library's path also names the alternative."""
    parts: list[str] = []
    place = data
    for number, part in enumerate(one["loc"]):
        last = number == len(one["loc"]) - 1
        if data is not None and not _leads(place, part) and not (last and one["type"] == MISSING):
            continue
        place = place[part] if _leads(place, part) else None  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]
        parts.append(str(part))
    return ".".join(parts)


def _leads(place: object, part: int | str) -> bool:
    if isinstance(place, dict):
        return part in place
    return isinstance(place, list | tuple) and isinstance(part, int) and part < len(place)


def _choices(one: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", str(one.get("ctx", {}).get("expected", "")))


def _pattern(one: ErrorDetails) -> str:
    pattern = one.get("ctx", {}).get("pattern", "")
    return PATTERNS.get(pattern, f"text of the form {pattern}")


def _ours(one: ErrorDetails) -> str:
    return one["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")


_LONG = 60

PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        r"^[a-z0-9][a-z0-9-]{0,31}$": "1 to 32 lower-case letters, digits and hyphens",
        r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": "1 to 64 letters, digits, hyphens and underscores",
        r"^[A-Za-z0-9_-]{1,16}$": "1 to 16 letters, digits, hyphens and underscores",
        r"^(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}$": "host:port, such as server.example.org:8443",
        r"^[0-9a-f]{64}$": "64 hexadecimal digits, a plan's hash",
        r"^(auto|cpu|cuda(:\d+)?)$": "auto, cpu, cuda or cuda:N",
    }
)
"""What the patterns of the configuration stand for."""

_WORDS: Mapping[str, str | Callable[[ErrorDetails], str]] = MappingProxyType(
    {
        MISSING: "a value",
        UNKNOWN: "no such key",
        **dict.fromkeys(("string_type", "string_sub_type", "string_unicode"), "text"),
        "string_too_short": "at least {min_length} characters",
        "string_too_long": "at most {max_length} characters",
        "string_pattern_mismatch": _pattern,
        **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
        **dict.fromkeys(("float_type", "float_parsing"), "a number"),
        "finite_number": "a finite number",
        **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
        "greater_than": "more than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "less than {lt}",
        "less_than_equal": "at most {le}",
        "literal_error": lambda one: " or ".join(_choices(one)) or "nothing else than what is listed",
        **dict.fromkeys(("list_type", "tuple_type", "set_type", "iterable_type"), "a list"),
        **dict.fromkeys(
            ("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"),
            "a table of keys",
        ),
        "too_short": "at least {min_length} of them",
        "too_long": "at most {max_length} of them",
        "none_required": "nothing (null)",
        **dict.fromkeys(("path_type", "path_not_file"), "a path"),
        **dict.fromkeys(("json_invalid", "json_type"), "JSON"),
        **dict.fromkeys(("value_error", "assertion_error"), _ours),
    }
)
