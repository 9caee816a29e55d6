"""Room on a disk: taken for real, given up, and never half."""

from __future__ import annotations

from pathlib import Path

import pytest

from stic_core.errors import NoRoomError
from stic_core.system.room import Reserve, allocate
from support.small_disk import SmallDisk


def test_a_reserve_holds_blocks_of_the_disk(tmp_path: Path) -> None:
    """Not a hole in a file; what is given up is free, and filling takes it again."""
    path = tmp_path / "models" / ".reserve"
    reserve = Reserve(path, size=1 << 20, what="the final model")
    assert reserve.left == 0
    assert not reserve.give(1)
    reserve.fill()
    assert reserve.left == 1 << 20
    assert path.stat().st_blocks * 512 >= 1 << 20
    assert reserve.give(1 << 16)
    assert reserve.left == (1 << 20) - (1 << 16)
    reserve.fill()
    assert reserve.left == path.stat().st_size == 1 << 20
    reserve.drop()
    reserve.drop()
    assert not path.exists()


def test_a_full_disk_leaves_a_reserve_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the folder, what is needed and what is free."""
    reserve = Reserve(tmp_path / "r", size=1 << 20, what="the audit log")
    reserve.fill()
    reserve.give(1 << 19)
    SmallDisk(tmp_path, monkeypatch).fill()
    with pytest.raises(NoRoomError) as raised:
        reserve.fill()
    assert str(tmp_path) in str(raised.value.got)
    assert raised.value.expected == "1.0 MB"
    assert reserve.left == 1 << 19


def test_taking_room_keeps_what_a_file_holds(tmp_path: Path) -> None:
    """It grows, and never shrinks."""
    path = tmp_path / "features.f16"
    path.write_bytes(b"begun")
    allocate(path, 4096)
    assert path.read_bytes() == b"begun".ljust(4096, b"\0")
    allocate(path, 5)
    assert path.stat().st_size == 4096
