"""What people name wrongly on a command line: each option that takes a file, and each name, of both programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from stic_client.cli import app as client
from stic_core.system import command_errors
from stic_core.system.keys import make_key_pair
from stic_server.cli.app import app as server
from support.federation_kit import make_home

APPS = {"stic-client": client, "stic-server": server}
SITE = ("stic-client", "--site", "center1")
FILES = [
    (*SITE, "audit", "--config", "@"),
    ("stic-client", "--site", "new", "enroll", "--server", "a:1", "--ca", "@", "--data", "."),
    ("stic-client", "--site", "new", "enroll", "--server", "a:1", "--ca", "@CA", "--data", "@"),
    (*SITE, "approve", "@", "--yes"),
    (*SITE, "prepare", "--scan", "@"),
    (*SITE, "predict", "--model", "@", "--manifest", "@"),
    (*SITE, "readers", "--readings", "@", "--model", "@"),
    ("stic-client", "import", "mct-ltdiag", "@", "--out", "out"),
    ("stic-server", "evaluate", "--model", "@"),
    ("stic-server", "plan", "--evaluate", "@"),
    ("stic-server", "plan", "--config", "@"),
    ("stic-server", "send-model", "@"),
    ("stic-server", "report", "@"),
    ("stic-server", "compare", "@", "@"),
    ("stic-server", "export", "@", "--onnx"),
    ("stic-server", "import-keras", "@", "--out", "out"),
    ("stic-server", "simulate", "--out", "out", "--phantom", "--config", "@"),
    ("stic-server", "admit", "center4", "@"),
    *[("stic-server", *words, "--config", "@") for words in (["status"], ["renew"], ["sites"], ["audit"])],
    ("stic-server", "revoke", "center1", "--config", "@"),
    ("stic-server", "init", "--config", "@"),
]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a home and with things that are none of what anybody asks for."""
    folder = tmp_path_factory.mktemp("wrong")
    make_home(folder, sites=("center1",))
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "binary").write_bytes(bytes(range(256)) * 40)
    (folder / "loop").symlink_to(folder / "loop")
    make_key_pair(folder / "key")
    return folder


KINDS = ("folder", "missing", "empty", "binary", "key", "loop", "empty/under", "n" * 300)


def _said(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    """Exit code and the last line on stderr of a command in a folder."""
    monkeypatch.setenv("STIC_HOME", str(folder))
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        command_errors.run(APPS[words[0]], name=words[0])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "b3BlbnNzaC1rZXktdjE" not in said  # a private key's own text
    return ended.value.code, said.splitlines()[-1]


@pytest.mark.parametrize("words", FILES, ids=" ".join)
def test_a_wrong_file_is_one_line(
    words: tuple[str, ...], wrong: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever stands in its place: no traceback, the exit code of an error, and nothing is written over."""
    before = {path.name: path.read_bytes() for path in wrong.iterdir() if path.is_file()}
    ca = str(wrong / "server" / "ca.crt")
    for kind in KINDS:
        if (kind == "folder" and words[-2:] == ("--data", "@")) or (kind == "missing" and words[1] == "init"):
            continue
        line = [{"@": str(wrong / kind), "@CA": ca}.get(word, word) for word in words]
        code, said = _said(line, wrong, monkeypatch, capsys)
        assert code in {1, 2, 3}, (kind, said)
        assert f"{words[0]}: " in said, (kind, said)
        assert len(said) < 900
    assert {path.name: path.read_bytes() for path in wrong.iterdir() if path.is_file()} == before
    assert not (wrong / "sites" / "new").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("stic-client --site Center1 check", "Did you mean center1?"),
        ("stic-client check --site center_1", "Did you mean center-1?"),
        ("stic-client --site center1 --site-x y", "No such option"),
        (
            "stic-client --site center1 check --site center2",
            "--site was given twice; got center1 and center2",
        ),
        ("stic-client check", "no site was given"),
        ("stic-server admit Center1 key.pub", "Did you mean center1?"),
        ("stic-server admit 'center 1' key.pub", "Did you mean center-1?"),
        ("stic-server admit ../evil key.pub", "not a valid site name"),
        ("stic-server admit center1 key", "must never leave its site"),
        ("stic-server admit center1 key.pub", "--replace"),
        ("stic-server revoke Center1", "Did you mean center1?"),
        ("stic-server report test-run", "there is no run test-run"),
        ("stic-client --site center1 crossval --task HCC_ICC", "Did you mean hcc-icc?"),
        ("stic-client --site center1 check --task Malign", "Did you mean malignant?"),
        ("stic-client --site center1 approve --withdraw --yes", "no plan is approved here"),
        ("stic-client --site center1 approve folder --yes", "is a folder"),
        ("stic-client --site new enroll --server a:1 --ca server/ca.key --data .", "is a private key"),
        ("stic-client --site new enroll --server a:1 --ca server/ca.crt --data gone", "does not exist"),
        ("stic-client --site new enroll --server a:1 --ca server/ca.crt --data empty", "is not a folder"),
        ("stic-server plan --out key", "It is not overwritten"),
        ("stic-server init --config mine.yaml", "federation.yaml, in a folder"),
        ("stic-server audit --config gone.yaml", "does not exist"),
    ],
)
def test_a_wrong_name_is_answered(
    words: str, said: str, wrong: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what was probably meant, or what to do."""
    import shlex

    code, line = _said(shlex.split(words), wrong, monkeypatch, capsys)
    assert code == 2, line
    assert said in line


def test_a_run_is_found_by_its_id(
    wrong: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the folder that federation.yaml names, and in ./runs; a mistyped one is told the nearest."""
    from stic_server.cli.options import run_folder

    monkeypatch.setenv("STIC_HOME", str(wrong))
    monkeypatch.chdir(wrong)
    run = wrong / "runs" / "test-20260101-000000-000"
    run.mkdir(parents=True, exist_ok=True)
    (run / "record.json").write_text("{}")
    assert run_folder(Path(run.name), None).resolve() == run.resolve()
    monkeypatch.chdir(wrong / "folder")
    assert run_folder(Path(run.name), wrong / "server" / "federation.yaml") == run
    code, line = _said(["stic-server", "report", "test-20260101-000000-001"], wrong, monkeypatch, capsys)
    assert code == 2
    assert f"Did you mean {run.name}?" in line
