"""Notifications: what is sent, that it is bounded, and that nothing that fails stops the work."""

from __future__ import annotations

import json
import ssl
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from stic_core.config import NotifyConfig
from stic_core.errors import ConfigError
from stic_core.system.notifier import Notifier
from stic_core.system.terminal import Terminal
from stic_server.admission.certificates import make_certificates

KEEP = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"


def _told(notifier: Notifier) -> list[str]:
    """One event; the lines that say what failed."""
    failures: list[str] = []
    notifier.tell("site-gone", "center2 is not online", facts={"site": "center2"}, failed=failures.append)
    notifier.close()
    return failures


def test_a_command_gets_the_event_without_a_shell(tmp_path: Path) -> None:
    """On stdin; arguments are what they are, and nothing else is sent."""
    out = tmp_path / "$(touch x); event.json"
    assert not _told(Notifier(side="server", name="liver", command=[sys.executable, "-c", KEEP, str(out)]))
    document = json.loads(out.read_text())
    assert document.pop("time")
    assert document == {
        "event": "site-gone",
        "side": "server",
        "name": "liver",
        "text": "center2 is not online",
        "site": "center2",
    }
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/nowhere/at-all"], "the command cannot be started (No such file or directory)"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "the command ended with exit code 3"),
        (["/bin/true", "a\0b"], "the command cannot be started (it contains a NUL character)"),
        (["/bin/sh", "-c", "sleep 60 & sleep 60"], "the command took more than 0.2 s"),
    ],
)
def test_what_fails_is_said(command: list[str], said: str) -> None:
    """And a command that hangs is ended together with what it started."""
    began = time.monotonic()
    failures = _told(Notifier(side="client", name="center1", command=command, timeout_s=0.2))
    assert failures == [f"notification failed: {said}"]
    assert time.monotonic() - began < 30


def test_a_command_that_does_not_read_is_no_fault_of_the_run() -> None:
    """Its stdin is closed under our hands: only its exit code counts."""
    assert not _told(Notifier(side="client", name="center1", command=["/bin/true"]))


def test_too_many_events_are_dropped_and_said() -> None:
    """Whoever tells does not wait."""
    failures: list[str] = []
    notifier = Notifier(side="server", name="liver", command=["/bin/sleep", "30"], timeout_s=0.01)
    for number in range(200):
        notifier.tell("site-gone", str(number), facts={}, failed=failures.append)
    assert any("dropped" in line for line in failures)


def test_only_what_was_asked_for_is_told() -> None:
    """A command that would fail is not started."""
    notifier = Notifier(side="server", name="liver", command=["/nowhere"], events=["run-over"])
    assert not _told(notifier)


class _Hook(BaseHTTPRequestHandler):
    """Answers a POST as its path says."""

    got: list[bytes]

    def do_POST(self) -> None:
        """Keep the body."""
        self.got.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response({"/moved": 302, "/broken": 500}.get(self.path, 204))
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/ok", None),
        ("/moved", "the webhook answers HTTP 302"),
        ("/broken", "the webhook answers HTTP 500"),
    ],
)
def test_a_webhook_gets_the_event(
    path: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS that this machine trusts; no redirect is followed, and its address is in no line."""
    make_certificates(tmp_path, names=["localhost"])
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("NO_PROXY", "*")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    hook = type("Hook", (_Hook,), {"got": []})
    with HTTPServer(("127.0.0.1", 0), hook) as listener:
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        address = f"https://localhost:{listener.server_port}{path}"
        failures = _told(Notifier(side="server", name="liver", webhook=address))
        listener.shutdown()
    assert [json.loads(body)["event"] for body in hook.got] == ["site-gone"]
    assert failures == ([] if said is None else [f"notification failed: {said}"])


def test_a_webhook_that_is_not_there_names_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only why."""
    monkeypatch.setenv("NO_PROXY", "*")
    failures = _told(Notifier(side="server", name="liver", webhook="https://127.0.0.1:1/s3cret"))
    assert failures == ["notification failed: the webhook cannot be reached (ConnectionRefusedError)"]


def test_a_webhook_whose_answer_drips_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's limit is one of each wait, and a name that is looked up has none: the whole is bounded."""
    over = threading.Event()

    def drip(*_: object, **__: object) -> None:
        over.wait(30)
        raise TimeoutError

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", drip)
    notifier = Notifier(side="server", name="liver", webhook="https://chat.example/s3cret", timeout_s=0.05)
    began = time.monotonic()
    assert _told(notifier) == ["notification failed: the webhook took more than 0.05 s"]
    assert time.monotonic() - began < 10
    over.set()


def test_a_terminal_tells_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What failed is one of its lines; the end waits until the last event is told."""
    out = tmp_path / "event.json"
    slow = "import time; time.sleep(0.3); " + KEEP
    with Terminal(
        notifier=Notifier(side="server", name="liver", command=[sys.executable, "-c", slow, str(out)])
    ) as terminal:
        terminal.event("run-over", "run r is complete", run="r")
    assert json.loads(out.read_text())["run"] == "r"
    with Terminal(notifier=Notifier(side="server", name="liver", command=["/nowhere"])) as terminal:
        terminal.event("run-over", "run r is complete", run="r")
    assert "notification failed: the command cannot be started" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"webhook": "http://chat.example/x"},
        {"webhook": "https://"},
        {"webhook": "https://user:password@chat.example/x"},
        {"webhook": "file:///etc/passwd"},
        {"command": "mail -s x somebody"},
        {"command": [""]},
        {"webhook": "https://chat.example/x", "events": ["patient-seen"]},
        {"command": ["a"], "timeout_s": 3600},
    ],
)
def test_what_cannot_be_notified_is_refused(wrong: dict[str, object]) -> None:
    """When the configuration is read, not when the first event comes."""
    from stic_core.config import FederationConfig
    from stic_core.config_files import parse

    with pytest.raises(ConfigError, match="notify"):
        parse({"notify": wrong}, FederationConfig, source="federation.yaml")
    assert NotifyConfig.model_validate({"command": ["a", "b c"]}).command == ("a", "b c")


def test_a_notifier_that_is_not_asked_starts_no_thread() -> None:
    """And its end takes no time."""
    before = threading.active_count()
    Notifier(side="server", name="liver", command=["/bin/true"]).close()
    assert threading.active_count() == before
