"""`stic-client check` against a real server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stic_client.connection.enroll import enroll
from support.federation_kit import make_home
from support.waiting import PATIENCE_S, await_line

pytestmark = pytest.mark.processes


def test_check_against_a_real_server(tmp_path: Path) -> None:
    """Admitted: exit code 0. A key that the server does not know: 1, and the server is as before."""
    home = make_home(tmp_path, sites=("center1",))
    stranger = home.site("stranger")
    shutil.copytree(home.site("center1"), stranger)
    for name in ("site.key", "site.pub"):
        (stranger / name).unlink()
    enroll(
        tmp_path / "new", site="stranger", address="h:1", ca=stranger / "ca.crt", root=tmp_path, crop_mm=None
    )
    for name in ("site.key", "site.pub"):
        shutil.copy(tmp_path / "new" / name, stranger / name)
    home.edit(stranger / "site.yaml", site="stranger")
    with home.running("stic-server", "start") as server:
        await_line(server, "listening on")
        good = home.run("stic-client", "--site", "center1", "check", "--json")
        bad = home.run("stic-client", "--site", "stranger", "check", "--json")
        shown = home.run("stic-client", "--site", "center1", "check")
    document = json.loads(good.stdout)
    statuses = {check["name"]: check["status"] for check in document["checks"]}
    assert good.returncode == 0, good.stdout
    assert document["passed"] is True
    online = ("server", "certificate", "clock", "admitted", "protocol")
    assert {statuses[name] for name in online} == {"ok"}
    assert Path(document["page"]).parent == home.site("center1")
    assert bad.returncode == 1
    refused = {check["name"]: check for check in json.loads(bad.stdout)["checks"]}
    assert refused["server"]["status"] == "ok"
    assert refused["admitted"]["status"] == "problem"
    assert "stic-server admit stranger" in refused["admitted"]["remedy"]
    assert "center1 is ready" in shown.stdout
    assert "Traceback" not in good.stderr + bad.stderr + shown.stderr


def test_check_does_not_disturb_a_client_that_runs(tmp_path: Path) -> None:
    """Beside a client that is online: admitted, and that client goes through the run to its end."""
    home = make_home(tmp_path, sites=("center1", "center2"), rounds=2)
    with (
        home.running("stic-server", "start") as server,
        home.running("stic-client", "--site", "center1", "--once") as client,
    ):
        await_line(client, "online")
        result = home.run("stic-client", "--site", "center1", "check", "--json")
        with home.running("stic-client", "--site", "center2", "--once"):
            output, _ = server.communicate(timeout=PATIENCE_S)
        assert client.wait(PATIENCE_S) == 0
    assert server.returncode == 0, output
    statuses = {check["name"]: check["status"] for check in json.loads(result.stdout)["checks"]}
    assert statuses["admitted"] == "ok"
    (run,) = (tmp_path / "runs").iterdir()
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [row["sites"] for row in rows] == [["center1", "center2"]] * 2
