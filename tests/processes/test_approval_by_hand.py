"""A person at the hospital approves a plan, with the commands that are there for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.federation_kit import make_home
from support.waiting import PATIENCE_S, await_line

pytestmark = pytest.mark.processes


def test_a_run_waits_for_an_approval_by_hand(tmp_path: Path) -> None:
    """Real processes: the server shows who has to approve; `approve --yes` at the site lets the run go on."""
    home = make_home(tmp_path, rounds=1)
    home.edit(home.site("center1") / "site.yaml", policy__plans="approved")
    with (
        home.running("stic-client", "--site", "center1", "--once"),
        home.running("stic-client", "--site", "center2", "--once"),
        home.running("stic-server", "start") as server,
    ):
        lines = await_line(server, "is not approved at this site yet")
        assert "stic-client --site center1 approve" in lines[-1]
        shown = home.run("stic-server", "plan")
        approved = home.run("stic-client", "--site", "center1", "approve", "--yes")
        assert approved.returncode == 0, approved.stderr
        assert approved.stdout.splitlines()[0] == shown.stdout.splitlines()[0]  # the same hash at both ends
        output, _ = server.communicate(timeout=PATIENCE_S)
        assert server.returncode == 0, output


def test_what_a_hospitals_command_writes_is_its_own(tmp_path: Path) -> None:
    """Whatever the umask says: nothing that enroll writes can be read by others."""
    home = make_home(tmp_path, sites=("center1",))
    made = home.run(
        *("stic-client", "--site", "center9", "enroll", "--server", "127.0.0.1:1"),
        *("--ca", str(home.path / "server" / "ca.crt"), "--data", str(tmp_path)),
    )
    assert made.returncode == 0, made.stderr
    written = [home.site("center9"), *home.site("center9").iterdir()]
    assert len(written) > 3
    assert [path.name for path in written if path.stat().st_mode & 0o077] == []


def test_without_a_terminal_nobody_is_asked(tmp_path: Path) -> None:
    """Run by a service: exit code 2 and the way out, not an endless question."""
    home = make_home(tmp_path, sites=("center1",))
    file = tmp_path / "plan.json"
    assert home.run("stic-server", "plan", "--out", str(file)).returncode == 0
    result = home.run("stic-client", "--site", "center1", "approve", str(file))
    assert result.returncode == 2
    assert "add --yes" in result.stderr
