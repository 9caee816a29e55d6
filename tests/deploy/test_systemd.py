"""The systemd units: whole, hardened, and such that a hung process is started again."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NAMES = ("stic-server.service", "stic-client@.service")

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine"
)


def _analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_a_unit_is_sound(name: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, once the program is where the unit looks for it."""
    copy = tmp_path / name
    copy.write_text(re.sub(r"/opt/stic/bin/stic-\w+", "/bin/true", (UNITS / name).read_text()))
    checked = _analyze("verify", "--man=no", copy)
    assert (checked.returncode, checked.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_a_unit_is_hardened(name: str) -> None:
    """An exposure of 2.0 at most, on systemd's scale from 0 to 10."""
    checked = _analyze("security", "--offline=true", "--threshold=20", UNITS / name)
    assert checked.returncode == 0, checked.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_restarts_what_hangs_and_not_what_is_wrong(name: str) -> None:
    """Watchdog and notification are on, the stop is Ctrl-C's, and a dedicated user runs it."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNITS / name)
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["WatchdogSec"]
    assert service["Restart"] == "on-failure"
    assert service["KillSignal"] == "SIGINT"
    assert service["User"] == name.partition(".")[0].rstrip("@")
    assert "--log json" in service["ExecStart"]
