"""`stic-server status`: what the files say, of a server that runs and of one that was killed."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stic_core import config_files
from stic_core.config import FederationConfig
from stic_core.errors import UsageError
from stic_core.system.keys import load_certificates, make_key_pair
from stic_server.admission.registry import Presence, admit, revoke
from stic_server.admission.renewal import make_next_ca
from stic_server.cli.app import app
from stic_server.federation.run_folder import RunFolder
from stic_server.setup import NewFederation, initialise
from stic_server.status import file
from stic_server.status.file import StatusFile, read_activity, state_of
from stic_server.status.only_server import only_server
from stic_server.status.report import as_json, describe, expired, status
from support.federation_kit import Recorder, write_small_model, write_tiny_weights
from support.waiting import PATIENCE_S, until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A federation with two sites admitted and one revoked."""
    initialise(
        tmp_path / "server", NewFederation(name="liver", host="127.0.0.1", port=9000, names=("localhost",))
    )
    sites = tmp_path / "server" / "sites"
    for name in ("center1", "center2", "center3"):
        admit(sites, name=name, public_key=make_key_pair(tmp_path / f"{name}.key"))
    revoke(sites, name="center3")
    return tmp_path / "server"


def shown(folder: Path, *, now: dt.datetime | None = None) -> tuple[dict[str, Any], str]:
    """Status for programs and for people."""
    at = now or dt.datetime.now(dt.UTC)
    found = status(folder, config_files.load(folder / "federation.yaml", FederationConfig), now=at)
    assert json.loads(as_json(found)) == found
    return found, describe(found, now=at)


def serving(folder: Path, presence: dict[str, Presence], recorder: Recorder | None = None) -> StatusFile:
    """What a server keeps while it runs."""
    return StatusFile(folder, recorder or Recorder(), presence=lambda: presence)


def awaited(folder: Path, key: str, value: object) -> None:
    """Wait until the file says so."""

    def is_so() -> bool:
        activity = read_activity(folder)
        return activity is not None and getattr(activity, key) == value

    until(is_so, what=lambda: f"{key} is {value!r} in {read_activity(folder)}")


def test_before_the_first_start(folder: Path) -> None:
    """Name, port, who is admitted with which key, how many keys are revoked, certificates, no run."""
    found, text = shown(folder)
    assert (found["federation"], found["port"], found["server"], found["run"]) == (
        "liver",
        9000,
        {"state": "never"},
        None,
    )
    assert [site["site"] for site in found["sites"]] == ["center1", "center2"]
    assert all(
        site["fingerprint"].startswith("SHA256:") and site["online"] is None for site in found["sites"]
    )
    assert [one["site"] for one in found["revoked"]] == ["center3"]
    assert [(one["name"], one["state"]) for one in found["certificates"]] == [("server", "ok"), ("ca", "ok")]
    assert found["warnings"] == []
    assert "no server is running here, and none has run yet" in text
    assert "none so far" in text


def test_while_a_server_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round and the stage, whom it waits for, who is online and when the others were last seen."""
    monkeypatch.setattr(file, "WRITE_S", 0.02)
    monkeypatch.setattr(file, "_WAITING_S", PATIENCE_S)
    now = time.time()
    presence = {"center1": Presence(True, now), "center2": Presence(False, now - 300)}
    recorder = Recorder()
    with serving(folder, presence, recorder) as observer:
        observer.note("a note")
        observer.stage("training")
        observer.round_begins(7, rounds=20)
        observer.waiting(["center2 (last seen 300 s ago)"], 41.0)
        observer.round_done({"round": 6}, rounds=20)
        awaited(folder, "waiting_s", 41.0)
        awaited(folder, "sites", presence)
        found, text = shown(folder)
        server = found["server"]
        assert (server["state"], server["stage"], server["round"], server["rounds"]) == (
            "running",
            "training",
            7,
            20,
        )
        assert [(site["online"], site["last_seen"] is None) for site in found["sites"]] == [
            (True, False),
            (False, False),
        ]
        assert "training, round 7 of 20" in text
        assert "waiting for center2 (last seen 300 s ago), 41 s so far" in text
        assert "offline, last seen 5 min ago" in text
        observer.round_begins(8, rounds=20)
        awaited(folder, "waiting", [])
    assert (recorder.notes, recorder.rows) == (["a note"], [{"round": 6}])  # passed on
    found, text = shown(folder)
    assert found["server"]["state"] == "ended"
    assert "no server is running; the previous server stopped at" in text
    assert found["sites"][0]["online"] is None


def test_nobody_is_waited_for_once_it_is_no_longer_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who waits says so every second; what was said long ago is not shown."""
    monkeypatch.setattr(file, "WRITE_S", 0.02)
    monkeypatch.setattr(file, "_WAITING_S", 0.1)
    with serving(folder, {}) as observer:
        observer.waiting(["center2"], 3.0)
        awaited(folder, "waiting", [])


def test_a_server_that_fails_leaves_no_server_behind(folder: Path) -> None:
    """An error, or Ctrl-C, is an end."""
    with pytest.raises(KeyboardInterrupt), serving(folder, {}):
        raise KeyboardInterrupt
    assert shown(folder)[0]["server"]["state"] == "ended"


def test_a_later_process_with_the_same_number_is_no_server(folder: Path) -> None:
    """Numbers of processes are used again; when it began tells them apart."""
    with serving(folder, {}):
        pass
    path = folder / "status.json"
    activity = json.loads(path.read_text()) | {"ended": None}
    path.write_text(json.dumps(activity))
    assert shown(folder)[0]["server"]["state"] == "running"  # this very process wrote it
    path.write_text(json.dumps(activity | {"process_began": activity["process_began"] - 1}))
    assert shown(folder)[0]["server"]["state"] == "killed"


def test_a_server_that_hangs_or_is_on_a_machine_that_is_gone(folder: Path) -> None:
    """Its file gets old; a process of another machine cannot be looked at."""
    with serving(folder, {}):
        pass
    path = folder / "status.json"
    activity = json.loads(path.read_text()) | {"ended": None, "host": "elsewhere", "pid": 1, "written": 1.8e9}
    path.write_text(json.dumps(activity))
    read = read_activity(folder)
    assert read is not None
    assert state_of(read, now=read.written + 1) == "running"
    assert state_of(read, now=read.written + 60) == "silent"
    later = dt.datetime.fromtimestamp(read.written + 90, dt.UTC)
    assert "process 1 on elsewhere has been silent for 90 s" in shown(folder, now=later)[1]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', "null"])
def test_a_file_that_is_none_of_ours(folder: Path, content: str) -> None:
    """It is as if there were none; `status` never fails on it."""
    (folder / "status.json").write_text(content)
    assert shown(folder)[0]["server"] == {"state": "never"}


def test_certificates_near_their_end(folder: Path) -> None:
    """A warning for each from thirty days before; expired, and the exit code says it."""
    ends = {
        name: load_certificates(folder / f"{name}.crt")[0].not_valid_after_utc for name in ("server", "ca")
    }
    found, text = shown(folder, now=ends["server"] - dt.timedelta(days=29))
    assert [one["state"] for one in found["certificates"]] == ["expires soon", "ok"]
    assert "warning: the server's certificate expires on" in text
    assert "in 29 days; run stic-server renew" in text
    assert not expired(found)
    found, text = shown(folder, now=ends["ca"] - dt.timedelta(days=29))
    assert [one["state"] for one in found["certificates"]] == ["expired", "expires soon"]
    assert "warning: the server's certificate expired on" in text
    assert "run stic-server renew --ca" in text
    assert expired(found)


def test_a_next_ca_is_not_forgotten(folder: Path) -> None:
    """Its fingerprint, and what is left to do; its own end is no reason for the exit code."""
    made = make_next_ca(folder)
    found, text = shown(folder)
    assert [one["name"] for one in found["certificates"]] == ["server", "ca", "ca-next"]
    assert f"warning: a next CA is waiting ({made.fingerprint})" in text
    assert "renew --ca --switch" in text
    assert not expired(found)


def test_the_last_run(folder: Path) -> None:
    """Its state: finished, or interrupted, with what to do; the checkpoints say how far it came."""
    for run_id, record in (
        ("liver-20260101-000000-000", {"status": "complete", "rounds": 20}),
        ("liver-20260102-000000-000", {"status": "running"}),
    ):
        run = folder / "runs" / run_id
        (run / "checkpoints").mkdir(parents=True)
        facts = {
            "started": "2026-01-02T00:00:00+00:00",
            "sites": {"b": {}, "a": {}},
            "config": {"rounds": 20},
        }
        (run / "record.json").write_text(json.dumps(facts | record))
    for number in (5, 6):
        (run / "checkpoints" / f"round-{number:05d}-{'0' * 16}.safetensors").touch()
    found, text = shown(folder)
    assert (found["run"]["run_id"], found["run"]["status"], found["run"]["rounds_done"]) == (
        "liver-20260102-000000-000",
        "interrupted",
        6,
    )
    assert "interrupted, 6 of 20 rounds" in text
    assert "stic-server start resumes it" in text
    (run / "record.json").write_text(json.dumps(facts | {"status": "complete", "rounds": 20}))
    assert shown(folder)[0]["run"]["status"] == "complete"


def test_a_broken_key_file_is_a_warning(folder: Path) -> None:
    """`status` shows the others all the same."""
    (folder / "sites" / "center9.pub").write_text("not a key")
    found, text = shown(folder)
    assert [site["site"] for site in found["sites"]] == ["center1", "center2"]
    assert "warning: sites/center9.pub" in text


def test_the_part_of_each_site_is_shown(folder: Path) -> None:
    """Why an online site does not take part: what it waits for, how far it is, or why it was refused."""
    parts = {
        "center1": "has to approve plan 0123456789ab",
        "center2": "is computing features, 12 of 40",
    }
    here = {site: Presence(True, time.time()) for site in (*parts, "center4", "center5")}
    here["center5"] = Presence(False, time.time())
    parts["center5"] = "takes part"
    for name in ("center4", "center5"):
        admit(folder / "sites", name=name, public_key=make_key_pair(folder.parent / f"{name}.key"))
    with serving(folder, here) as observer:
        observer.parts(parts)
        awaited(folder, "parts", parts)
        awaited(folder, "sites", here)
        found, text = shown(folder)
    shown_parts = {site["site"]: site["part"] for site in found["sites"]}
    assert shown_parts.pop("center4") == "will be asked to take part before the next round"
    assert shown_parts.pop("center5").startswith("took part so far")
    del parts["center5"]
    assert shown_parts == parts
    for words in parts.values():
        assert words in text
    found, text = shown(folder)  # of a server that ended nothing is known
    assert {site["part"] for site in found["sites"]} == {None}


@pytest.mark.parametrize("command", ["start", "evaluate", "send-model"])
def test_one_server_per_federation(folder: Path, tmp_path: Path, command: str) -> None:
    """Whatever would serve is refused while a server runs, before it listens or touches a run; also on another port."""
    text = (folder / "federation.yaml").read_text()
    (folder / "federation.yaml").write_text(text.replace("9000", "9001"))
    model = write_small_model(tmp_path / "model", backbone=write_tiny_weights(tmp_path / "tiny.safetensors"))
    run = tmp_path / "runs" / "liver-1"
    run.mkdir(parents=True)
    record = {"status": "complete", "sites": {"center1": {}}, "model_digest": "0"}
    (run / "record.json").write_text(json.dumps(record))
    arguments = {"start": [], "evaluate": ["--model", str(model)], "send-model": [str(run)]}[command]
    with only_server(folder), serving(folder, {}):
        result = CliRunner().invoke(
            app, [command, *arguments, "--config", str(folder / "federation.yaml")], standalone_mode=False
        )
    assert isinstance(result.exception, UsageError)
    assert result.exception.what == "a server of this federation is already running"
    assert "process" in str(result.exception.got)
    assert json.loads((run / "record.json").read_text()) == record
    with only_server(folder):  # the one before has ended
        pass


def test_one_server_per_run(tmp_path: Path) -> None:
    """A copied federation whose `runs` is the first one's: the second server leaves the run alone."""
    run = RunFolder(tmp_path)
    with run.locked(), pytest.raises(UsageError, match="another server is working on run"), run.locked():
        pass
    with run.locked():
        pass
