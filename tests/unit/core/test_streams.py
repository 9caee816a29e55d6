"""Programs whose standard streams are closed or full, and which may not write as much as they would."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stic_core.data.dataset import load_dataset
from stic_core.errors import NoRoomError
from stic_core.system import command_errors, streams
from support.federation_kit import write_site_dataset
from support.small_disk import SmallDisk

PROGRAM = """
import sys
from stic_core.errors import SticError
from stic_core.system import command_errors

def command(standalone_mode):
    words = open(sys.argv[1], "w")
    print("the product" * 10_000)
    print("the conversation", file=sys.stderr)
    words.write("whole")
    words.close()
    if sys.argv[2] == "fails":
        raise SticError("something is wrong")

command_errors.run(command, name="test")
"""


@pytest.mark.parametrize("ends", ["well", "fails"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full", "| true"])
def test_streams_that_nobody_reads(tmp_path: Path, closed: str, ends: str) -> None:
    """The work is done, no file takes what was meant for a stream, and the exit code is the work's."""
    words = tmp_path / "words"
    shell = (
        f'"$0" -c "$1" "$2" "$3" {closed}; test {"$?" if "|" not in closed else "${PIPESTATUS[0]}"} -eq $4'
    )
    product_lost = closed in {">/dev/full", "| true"}
    code = "1" if ends == "fails" or product_lost else "0"
    ran = subprocess.run(
        ["bash", "-c", shell, sys.executable, PROGRAM, str(words), ends, code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr
    if not product_lost:
        assert words.read_text() == "whole"


def test_a_stderr_that_fails_does_not_end_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose log cannot be written any more goes on."""
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        streams.secure()
        sys.stderr.write("kept\n")
        sys.stderr.flush()
        assert sys.stderr.isatty() is False
    sys.stderr.write("lost, for the file is closed")
    sys.stderr.flush()
    assert (tmp_path / "log").read_text() == "kept\n"


def test_a_full_disk_leaves_the_dataset_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room is taken before the first image is written: through a memory map the end would be a signal."""
    write_site_dataset(tmp_path, seed=0)
    before = load_dataset(tmp_path, verify=True)
    disk = SmallDisk(tmp_path, monkeypatch)
    disk.fill()
    with pytest.raises(NoRoomError) as raised:
        write_site_dataset(tmp_path, seed=1)
    assert raised.value.expected == "3.6 MB"  # 24 images of 224 x 224 x 3
    np.testing.assert_array_equal(load_dataset(tmp_path, verify=True).images, before.images)
    assert not list(tmp_path.glob(".*"))
    disk.clear()
    write_site_dataset(tmp_path, seed=1)
    assert load_dataset(tmp_path, verify=True).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO]
)
def test_what_the_system_says_is_one_line(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do, and without the file's name, which may be a patient's."""
    monkeypatch.setattr(sys, "argv", ["test"])

    def command(*, standalone_mode: bool) -> None:
        raise OSError(number, "system's own words", "/data/Secret^Name.dcm")

    with pytest.raises(SystemExit) as ended:
        command_errors.run(command, name="test")
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("test: ")
    assert said.count("\n") == 1
    assert "Secret" not in said
