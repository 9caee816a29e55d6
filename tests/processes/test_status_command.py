"""`stic-server status` beside a server that was killed, and its exit codes."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from stic_core.system.keys import load_certificates
from stic_server.admission.certificates import load_key, pem
from stic_server.status.file import read_activity, state_of
from support.federation_kit import Home, make_home
from support.waiting import until

pytestmark = pytest.mark.processes

_KILLED = """
import time
from pathlib import Path
from stic_server.federation.sites import RunObserver
from stic_server.status.file import StatusFile
with StatusFile(Path({folder!r}), RunObserver(), presence=dict) as observer:
    observer.stage("training")
    observer.round_begins(7, rounds=20)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A federation with two sites admitted."""
    return make_home(tmp_path)


def test_after_kill_9_the_file_is_known_as_old(home: Home) -> None:
    """The process that wrote it is gone: no server is running; it says in which round the last one was, and when."""
    folder = home.federation.parent

    def state() -> str:
        found = read_activity(folder)
        assert found is not None
        return state_of(found, now=dt.datetime.now(dt.UTC).timestamp())

    def in_round_7() -> bool:
        found = read_activity(folder)
        return found is not None and found.round == 7

    code = _KILLED.format(folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            until(in_round_7, what="the file says the round")
            assert state() == "running"
            process.kill()
            # Dead, and not yet waited for by its parent: its number still has an entry.
            until(lambda: state() != "running", what="the dead server shows")
            assert state() == "killed"
        finally:
            process.kill()
    found = json.loads(home.run("stic-server", "status", "--json").stdout)
    text = home.run("stic-server", "status").stdout
    assert found["server"]["state"] == "killed"
    written = dt.datetime.fromisoformat(found["server"]["written"])
    assert "round 7 of 20" in text
    assert f"{written:%Y-%m-%d %H:%M:%S} UTC" in text


def _expire(folder: Path) -> None:
    """Put a certificate of the same CA in place whose last day is over."""
    ca, key = load_certificates(folder / "ca.crt")[0], load_key(folder / "ca.key", missing="")
    old = load_certificates(folder / "server.crt")[0]
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(ca.subject)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=10))
        .not_valid_after(now - dt.timedelta(days=1))
    )
    (folder / "server.crt").write_bytes(pem(builder.sign(key, hashes.SHA384())))


def test_the_command_and_its_exit_codes(home: Home, tmp_path: Path) -> None:
    """0; 1 with an expired certificate, and 0 again once it is renewed; 2 without a federation: the real script."""

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return home.run("stic-server", *arguments, script=True)

    result = command("status")
    assert (result.returncode, result.stderr) == (0, "")
    assert "center2" in result.stdout
    _expire(home.federation.parent)
    result = command("status", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["certificates"][0]["state"] == "expired"
    result = command("renew")
    assert result.returncode == 0, result.stderr
    assert command("status").returncode == 0
    assert command("status", "--config", str(tmp_path / "none.yaml")).returncode == 2
