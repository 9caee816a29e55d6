"""Docstring examples are tests: pytest collects them beside these (`--doctest-modules`)."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "stic_core", ROOT / "server" / "stic_server", ROOT / "client" / "stic_client")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def examples() -> dict[str, str]:
    """Each docstring's part from `Example:` on, by where it stands."""
    found = {}
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = (ast.get_docstring(node) or "") if isinstance(node, DOCUMENTED) else ""
            if "Example" in text.replace(":", "").splitlines() or ">>>" in text:
                found[f"{path.relative_to(ROOT)}: {getattr(node, 'name', '')}"] = text
    return found


def test_every_example_can_be_run() -> None:
    """What stands under `Example:` begins with a prompt, so that it is collected and can fail."""
    found = examples()
    assert len(found) >= 33
    for where, text in found.items():
        assert ">>>" in text.partition("Example:")[2], where


def test_the_suite_collects_them(pytestconfig: pytest.Config) -> None:
    """All three packages are among the paths that a plain `pytest` collects."""
    assert pytestconfig.getoption("--doctest-modules")
    collected = [ROOT / path for path in pytestconfig.getini("testpaths")]
    assert all(any(package.is_relative_to(path) for path in collected) for package in PACKAGES)


def test_no_module_is_loaded_twice() -> None:
    """Collecting a file for its examples takes the module that is there: two of them would be two of each class."""
    files = Counter(
        file
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None)) and any(Path(file).is_relative_to(p) for p in PACKAGES)
    )
    assert files
    assert [file for file, times in files.items() if times > 1] == []
