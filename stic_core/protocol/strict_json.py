"""JSON as messages use it: bounded in length and depth, with numbers that a double holds, each key once.

JSON in general, and the parser that pydantic uses, take `NaN`, `Infinity`, `1e999`, integers of
any length and the same key twice. A message has none of them, so they are refused before
anything is made of the text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NoReturn

from stic_core.errors import ProtocolError

LONGEST = 1_000_000
"""Characters of a message; the longest of ours, 16 classes with a histogram each, have a quarter of that."""

DEEPEST = 16
"""Objects and lists within each other; ours have seven."""

LONGEST_TEXT = 1000
"""Characters of one text in a message, such as a refusal's reason."""

LARGEST_INTEGER = 2**63 - 1


class _NotPlainError(Exception):
    """Carries what was found."""


def check_json(text: str) -> None:
    """Refuse what no message of ours has.

    Raises:
        ProtocolError: says what was found, never the value itself.

    Example:
        >>> check_json('{"loss": 0.5}')
        >>> check_json('{"loss": Infinity}')  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        stic_core.errors.ProtocolError: a message is not plain JSON; got Infinity; expected numbers ...
    """
    try:
        if len(text) > LONGEST:
            raise _NotPlainError(f"{len(text)} characters")
        # Python reads no integer of more than 4300 digits, which would take time with their square.
        _check_values(json.loads(text, object_pairs_hook=_object, parse_constant=_constant))
    except _NotPlainError as error:
        found = str(error)
    except RecursionError:
        found = "too many values within each other"
    except ValueError:
        found = "something else"
    else:
        return
    raise ProtocolError(
        "a message is not plain JSON",
        got=found,
        expected=f"numbers that a double holds, each key once, printable texts of up to {LONGEST_TEXT} characters, "
        f"{DEEPEST} levels and {LONGEST} characters at most",
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotPlainError("a key twice")
    return found


def _constant(name: str) -> NoReturn:
    raise _NotPlainError(name)


def _check_values(value: object) -> None:
    """Level by level: a deep message must not exhaust our own stack."""
    level = [value]
    for _ in range(DEEPEST):
        level = [part for one in level for part in _parts(one)]
        if not level:
            return
    raise _NotPlainError("too many values within each other")


def _parts(value: object) -> Iterable[object]:
    """What is in a value, which is checked itself."""
    match value:
        case float():
            if math.isinf(value):
                raise _NotPlainError("a number beyond a double")
        case int():
            if abs(value) > LARGEST_INTEGER:
                raise _NotPlainError("an integer beyond 64 bits")
        case str():
            _check_text(value)
        case dict():
            return (*value, *value.values())
        case list():
            return value
        case _:  # true, false and null
            pass
    return ()


def _check_text(text: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise _NotPlainError(f"a text of more than {LONGEST_TEXT} characters")
    if not text.isprintable():
        raise _NotPlainError("a text that cannot be printed")
