"""Flower contacts nobody in our processes, and its log is shown as ours is."""

from __future__ import annotations

import ast
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stic_core.system.command_errors import adopt_log

ROOT = Path(__file__).parents[2]


def _imports_flower(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.partition(".")[0] == "flwr" for name in names):
            return True
    return False


FLOWERS = sorted(
    ".".join(path.relative_to(ROOT / side).with_suffix("").parts)
    for side in ("server", "client")
    for path in (ROOT / side).rglob("*.py")
    if _imports_flower(path)
)


def test_the_modules_that_import_flower_are_found() -> None:
    """So that the test below has something to look at."""
    assert {"stic_client.flower_link", "stic_server.flower_link"} <= set(FLOWERS)


@pytest.mark.parametrize("module", FLOWERS)
def test_no_telemetry_and_no_update_check(module: str) -> None:
    """Whichever module of ours is imported first, and whatever the environment says."""
    code = (
        f"import {module}, os\n"
        "from flwr.supercore.telemetry import FLWR_TELEMETRY_ENABLED\n"
        "print(FLWR_TELEMETRY_ENABLED, os.environ['FLWR_DISABLE_UPDATE_CHECK'])\n"
    )
    environment = os.environ | {"FLWR_TELEMETRY_ENABLED": "1", "FLWR_DISABLE_UPDATE_CHECK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0 1\n"


def test_a_librarys_log_is_shown_as_ours(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under the name that it is given, past its own handler; what is minor is no error."""
    library = logging.getLogger("quiet-test-library")
    library.addHandler(logging.StreamHandler(sys.stderr))
    library.setLevel(logging.INFO)
    adopt_log("quiet-test-library", name="quiet-test", minor="[ApiError:")
    with caplog.at_level(logging.INFO):
        library.error("[/v1/fleet][ApiError:%d] no", 3)
        library.error("the port is taken")
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("quiet-test", "INFO", "[/v1/fleet][ApiError:3] no"),
        ("quiet-test", "ERROR", "the port is taken"),
    ]
    assert capsys.readouterr().err == ""
