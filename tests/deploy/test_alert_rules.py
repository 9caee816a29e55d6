"""The alert rules under Prometheus' own tool (Debian: `apt-get install prometheus`)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.deploy

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"


@pytest.mark.parametrize(
    "arguments", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")]
)
def test_promtool(arguments: tuple[str, ...]) -> None:
    """The rules parse; nothing sounds while all is well, and each fault sounds its alert."""
    promtool = shutil.which("promtool")
    assert promtool is not None, "promtool is needed: apt-get install prometheus"
    done = subprocess.run([promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
