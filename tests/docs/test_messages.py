"""What a person reads when things go wrong that no program causes: a full disk, a damaged file, a mistyped value."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
from pathlib import Path

import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from stic_client.cli.data import show_checks
from stic_client.flower_link import _run
from stic_client.participation.participant import Participant
from stic_client.preflight import Result
from stic_client.preflight.outcome import Check, Outcome
from stic_core import config, config_files
from stic_core.errors import ConfigError, DataError, ProtocolError, UsageError
from stic_core.protocol.messages import Finish
from stic_core.system import command_errors
from stic_core.system.files import write_atomically
from stic_core.system.keys import load_private
from stic_core.system.terminal import Terminal
from stic_server.admission.certificates import make_certificates
from stic_server.admission.renewal import check_keys, renew
from stic_server.federation.run_folder import RunFolder
from stic_server.status.report import status
from support.federation_kit import Recorder, site_config

FULL = Path("/dev/full")
"""Linux: every write fails for want of room."""


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, what to do, and no traceback; the file's name, which may be a patient's, is not said."""

    def command(*, standalone_mode: bool) -> None:
        with FULL.open("w") as file:
            file.write("anything")

    with pytest.raises(SystemExit) as ended:
        command_errors.run(command, name="stic-server")
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert (
        said
        == "stic-server: no space left on the disk. Free some space and run the same command again: it resumes.\n"
    )


def test_json_nested_by_the_thousand_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A file that was altered, not a fault of ours."""

    def command(*, standalone_mode: bool) -> None:
        json.loads("[" * 100_000)

    with pytest.raises(SystemExit) as ended:
        command_errors.run(command, name="stic-server")
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("stic-server: a file is nested too deeply to be read.")


def test_a_recursion_of_our_own_is_not_hidden() -> None:
    """It is no file's fault."""

    def command(*, standalone_mode: bool) -> None:
        command(standalone_mode=standalone_mode)

    with pytest.raises(RecursionError):
        command_errors.run(command, name="stic-server")


def test_another_fault_of_the_system_is_not_hidden() -> None:
    """What is not known is a fault of ours, and shows where."""

    def command(*, standalone_mode: bool) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    with pytest.raises(OSError, match="Bad file"):
        command_errors.run(command, name="stic-server")


def test_what_was_written_of_a_file_does_not_keep_the_disk_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is removed, and the file before it is whole."""
    path = tmp_path / "state"
    write_atomically(path, b"before")

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"after")
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    assert path.read_bytes() == b"before"


def test_a_fingerprint_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """`:AB:` is two digits of a fingerprint, and was once shown as an emoji."""
    fingerprint = "17:AB:02:SOS:4E"
    found = Outcome("center1", (Check("ca", "ok", fingerprint),))
    show_checks(Result(found, None, None))
    with Terminal() as terminal:
        terminal.note(fingerprint)
    said = capsys.readouterr()
    assert fingerprint in said.out
    assert fingerprint in said.err


@pytest.mark.parametrize("text", ['{"status": "runn', "", "[1"])
def test_a_damaged_record_is_one_line(tmp_path: Path, text: str) -> None:
    """A run whose record is torn is named, at the start of a server and in its status."""
    folder = tmp_path / "server"
    make_certificates(folder, names=["localhost"])
    federation = config.FederationConfig(runs=tmp_path / "runs")
    run = tmp_path / "runs" / "stic-20260101-000000-000"
    run.mkdir(parents=True)
    (run / "record.json").write_text(text)
    with pytest.raises(DataError, match=r"record\.json is damaged"):
        RunFolder(run).read_record()
    with pytest.raises(DataError, match="move it away"):
        status(folder, federation, now=dt.datetime.now(dt.UTC))


def test_a_missing_certificate_says_how_to_make_it(tmp_path: Path) -> None:
    """And that is what mends it."""
    make_certificates(tmp_path, names=["localhost"])
    (tmp_path / "server.crt").unlink()
    with pytest.raises(UsageError, match=r"no certificate at .*stic-server renew"):
        check_keys(tmp_path)
    renew(tmp_path, names=["localhost"])
    check_keys(tmp_path)


def test_a_lost_key_is_not_sent_in_a_circle(tmp_path: Path) -> None:
    """`enroll` refuses a site that is enrolled already, so the message leads to the runbook as well."""
    with pytest.raises(UsageError, match=r"docs/runbook\.md"):
        load_private(tmp_path / "site.key")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds: many", "rounds; got 'many'; expected a whole number"),
        ("task: liver", "task; got 'liver'; expected malignant or"),
        ("a: [1", "is not YAML. Look for"),
    ],
)
def test_a_mistyped_value_reads_as_a_sentence(text: str, said: str) -> None:
    """Without the words that the library puts before it."""
    with pytest.raises(ConfigError) as raised:
        config_files.parse_text(text, config.FederationConfig, source="federation.yaml")
    assert said in str(raised.value), str(raised.value)
    assert "Input should" not in str(raised.value)
    assert "Value error" not in str(raised.value)


@pytest.mark.parametrize("damage", ["no folder", "tampered"])
def test_what_cannot_be_logged_is_not_answered(tmp_path: Path, damage: str) -> None:
    """The site's people read why; nothing is given to the transport."""
    seen = Recorder()
    kept = site_config(tmp_path, site="center1")
    if damage == "tampered":
        kept.audit.with_suffix(".head").write_text("junk")
    else:
        kept = kept.model_copy(update={"audit": tmp_path / "tiny.safetensors" / "audit.jsonl"})
    site = Participant(kept, seen)
    with pytest.raises((OSError, DataError)):
        site.answer(Finish(run_id="r", status="complete"), None)
    assert seen.notes[-1].startswith("no request is answered: the audit log cannot be written (")


@pytest.mark.parametrize("ours", [True, False])
def test_a_question_that_is_not_understood_is_one_line(
    ours: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as another version's; only a fault that nobody foresaw shows where it happened."""
    for name, value in (("_task_id", 1), ("_run_id", 1), ("_node_id", SUPERLINK_NODE_ID)):
        monkeypatch.setattr(TaskIdentity, name, value)  # a message says from whom it is
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        raise ProtocolError("another version", advice="Install the same.") if ours else ZeroDivisionError

    question = Message(RecordDict(), 1, MessageType.QUERY)
    reply = _run(
        app, question, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    )
    assert reply.error.reason == ("ProtocolError" if ours else "ZeroDivisionError")
    (record,) = caplog.records
    assert "a request could not be answered: " in record.getMessage()
    assert bool(record.exc_info) is not ours
