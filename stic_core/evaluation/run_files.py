"""A run's `record.json` and `rounds.jsonl` for whoever reads a finished folder; `document` reads `evaluation.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stic_core.errors import UsageError


def read_record(run: Path) -> dict[str, Any]:
    """`record.json` of a run's folder.

    Raises:
        UsageError: there is none, or it was altered.
    """
    path = run / "record.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path.parent} contains no run", expected=path.name) from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read as JSON", got=type(error).__name__) from None
    if not isinstance(found, dict):
        raise _other_format(path, found, expected="an object")
    if not (isinstance(found.get("run_id"), str) and isinstance(found.get("sites"), dict)):
        raise _other_format(path, found, expected="an object with run_id and sites")
    return found


def read_rounds(run: Path) -> tuple[dict[str, Any], ...]:
    """`rounds.jsonl` of a run's folder, one value per round; empty where there is none.

    Raises:
        UsageError: it was altered.
    """
    path = run / "rounds.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        # A line without its end was being written when the server stopped.
        found = tuple(json.loads(line) for line in lines if line.endswith("\n"))
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read as JSON lines", got=type(error).__name__) from None
    for line in found:
        if not (
            isinstance(line, dict)
            and isinstance(line.get("round"), int)
            and isinstance(line.get("sites"), list)
        ):
            raise _other_format(path, line, expected="an object per line, with round and sites")
    return found


def _other_format(path: Path, found: object, *, expected: str) -> UsageError:
    return UsageError(
        f"{path} is not in the format that a run writes", got=type(found).__name__, expected=expected
    )
