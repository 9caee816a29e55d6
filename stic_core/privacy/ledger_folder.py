"""A ledger's folder: one file per entry, read whole, and written by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from stic_core.system.files import PRIVATE, write_atomically

Entry = TypeVar("Entry")


class LedgerFolder(Generic[Entry]):
    """Entries by their keys.

    Args:
        folder: holds a file for each entry; None keeps them in memory, where all data are in one place anyway.
        read: an entry from its file.

    Raises:
        DataError: by `read`, of an entry that cannot be read.
    """

    def __init__(self, folder: Path | None, *, read: Callable[[Path], Entry]) -> None:
        self._folder, self._read = folder, read
        self.entries: dict[str, Entry] = {}
        self._load()

    def _load(self) -> None:
        if self._folder is not None and self._folder.is_dir():
            self.entries = {path.stem: self._read(path) for path in sorted(self._folder.glob("*.json"))}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Know all entries, and let nobody else write meanwhile: clients of two studies may share the folder.

        Raises:
            DataError: an entry cannot be read.
        """
        if self._folder is None:
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._load()
            yield
        finally:
            os.close(lock)

    def keep(self, key: str, entry: Entry, *, text: str) -> None:
        """Write an entry down; it is on the disk when this returns.

        Args:
            text: its JSON.
        """
        if self._folder is not None:
            write_atomically(self._folder / f"{key}.json", text, mode=PRIVATE)
        self.entries[key] = entry
