"""docs/api.md is what the docstrings say now, and has all public names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import stic_core
import stic_server

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_api_page.py"


def test_the_page_is_current_and_complete() -> None:
    """It is made again and compared; each name of the two packages has an entry, and no other name has."""
    spec = importlib.util.spec_from_file_location("make_api_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.make_page()
    assert page == script.PAGE.read_text(encoding="utf-8"), "run python scripts/make_api_page.py"
    shown = {f"{package}.{name}" for package, names in script.GROUPS.values() for name in names}
    assert shown == {
        f"{package.__name__}.{name}" for package in (stic_core, stic_server) for name in package.__all__
    }
    assert shown <= {line.removeprefix("### ") for line in page.splitlines()}
