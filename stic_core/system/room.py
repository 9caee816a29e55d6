"""Room on a disk: which errors say that there is none, and room that is set aside while there is some."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from stic_core.errors import NoRoomError

FREE_SOME = "Free some space: a client that is running then continues by itself."
"""What to do about it."""

RUN_AGAIN = "Free some space and run the same command again: it resumes."
"""The same, for a command that ends."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: OSError) -> bool:
    """Whether the disk is full, or the user's quota of it: what somebody can free."""
    return error.errno in _FULL


def cannot_write(error: OSError) -> bool:
    """Whether an error is of writing alone, and meets every file there: never a patient's fault."""
    return is_full(error) or error.errno in {errno.EFBIG, errno.EROFS}


def readable(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def free_in(folder: Path) -> str:
    """The room in a folder, or in the one that it will be made in; with its name."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return f"{readable(shutil.disk_usage(there).free)} free in {folder}"


def allocate(path: Path, size: int) -> None:
    """Take room for a file; what it holds stays.

    Without it, a write through a memory map on a full disk would end the process by a signal.

    Raises:
        OSError: there is none; the file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            os.ftruncate(descriptor, before)  # some file systems keep what they found
            raise
    finally:
        os.close(descriptor)


def reserve(path: Path, size: int, *, what: str, advice: str = FREE_SOME) -> None:
    """Take room for a file, as `allocate` does, and say so where there is none.

    Args:
        what: the room is for.

    Raises:
        NoRoomError: the disk has less; the file is as it was.
    """
    try:
        allocate(path, size)
    except OSError as error:
        if not is_full(error):
            raise
        raise NoRoomError(
            f"not enough disk space for {what}",
            got=free_in(path.parent),
            expected=readable(size),
            advice=advice,
        ) from None


class Reserve:
    """A file that holds room until something that must not fail needs it.

    Args:
        path: of the file, in the folder where the room will be needed.
        size: bytes.
        what: they are for.
    """

    def __init__(self, path: Path, *, size: int, what: str) -> None:
        self._path, self._size, self._what = path, size, what

    @property
    def left(self) -> int:
        """Bytes that it holds."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def fill(self) -> None:
        """Hold all of it again.

        Raises:
            NoRoomError: the disk has less; it holds what it held.
        """
        if self.left >= self._size:
            return
        reserve(self._path, self._size, what=self._what)

    def give(self, count: int) -> bool:
        """Give up so many bytes; whether there were any."""
        left = self.left
        if left:
            os.truncate(self._path, max(0, left - count))
        return left > 0

    def drop(self) -> None:
        """Give up all of it."""
        self.give(self.left)
        self._path.unlink(missing_ok=True)
