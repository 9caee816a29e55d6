"""A disk that is full when a test says so, at the level of the system's calls that this project makes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest


class SmallDisk:
    """A folder whose disk can be full: what is flushed or allocated there then takes room that was given up before.

    Args:
        folder: and all in it.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder.resolve()
        self._free: int | None = None
        self._sizes: dict[Path, int] = {}
        self._fsync, self._allocate, self._truncate = os.fsync, os.posix_fallocate, os.truncate
        patch.setattr(os, "fsync", self._flush)
        patch.setattr(os, "posix_fallocate", self._take)
        patch.setattr(os, "truncate", self._cut)

    def fill(self) -> None:
        """Not a byte is left."""
        self._free = 0
        self._sizes = {path: path.stat().st_size for path in self._folder.rglob("*") if path.is_file()}

    def clear(self) -> None:
        """There is room for everything."""
        self._free = None

    def _spend(self, count: int) -> None:
        if self._free is not None:
            if count > self._free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._free -= count

    def _here(self, path: Path) -> bool:
        return path.is_file() and path.is_relative_to(self._folder)

    def _flush(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if self._here(path):
            size = path.stat().st_size
            self._spend(max(0, size - self._sizes.get(path, 0)))
            if not path.name.endswith(".partial"):  # that name is given away, and used again
                self._sizes[path] = size
        self._fsync(descriptor)

    def _take(self, descriptor: int, offset: int, size: int) -> None:
        if self._here(Path(f"/proc/self/fd/{descriptor}").readlink()):
            self._spend(max(0, offset + size - os.fstat(descriptor).st_size))
        self._allocate(descriptor, offset, size)

    def _cut(self, path: Path, size: int) -> None:
        if self._free is not None and self._here(Path(path)):
            self._free += max(0, Path(path).stat().st_size - size)
        self._truncate(path, size)
