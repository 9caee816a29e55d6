"""Files that are replaced whole or not at all, whatever kills the process in between."""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PRIVATE = 0o600
"""Mode of a file that only its owner reads."""


def write_atomically(
    path: Path, content: bytes | str, *, mode: int = 0o666, durable: bool = True, new: bool = False
) -> None:
    """Write a file whole or not at all; text is written as UTF-8. See `atomic_file`."""
    with atomic_file(path, mode=mode, durable=durable, new=new) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_csv(
    path: Path,
    columns: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    mode: int = 0o666,
    durable: bool = True,
) -> None:
    """Write a table as CSV in UTF-8, whole or not at all; see `atomic_file`."""
    with (
        atomic_file(path, mode=mode, durable=durable) as file,
        io.TextIOWrapper(file, encoding="utf-8", newline="") as text,
    ):
        writer = csv.writer(text)
        writer.writerow(columns)
        writer.writerows(rows)


@contextmanager
def atomic_file(
    path: Path, *, mode: int = 0o666, durable: bool = True, new: bool = False
) -> Iterator[BinaryIO]:
    """A file to write to that takes its name at the end; until then `path` stays as it was.

    Its content lies beside `path` as `.NAME.NUMBER.partial`. That is removed if the block
    raises, and stays behind if the process is killed; no reader looks at it.

    Args:
        path: its folder is made where it is missing.
        mode: permissions from the first byte on, less the umask.
        durable: on the disk before this returns, so that a power cut leaves the old file or the
            new one. Without it, a power cut may leave an empty file.
        new: never replace a file.

    Raises:
        FileExistsError: `new`, and there is a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    partial.unlink(missing_ok=True)  # a process with the same number was killed
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
        put_in_place(partial, path, durable=durable, new=new)
    except BaseException:
        partial.unlink(missing_ok=True)  # on a full disk, what was written would keep it full
        raise


def partial_of(path: Path) -> Path:
    """Where this thread writes a file before it has its name.

    A thread's number is unique on the machine, so that no two writers share one.
    """
    return path.with_name(f".{path.name}.{threading.get_native_id()}.partial")


def put_in_place(partial: Path, path: Path, *, durable: bool = True, new: bool = False) -> None:
    """Give a file that is complete its name; see `atomic_file`, which most callers want.

    Args:
        partial: in the same folder, and closed.
    """
    if durable:
        _flush(partial)
    if new:
        os.link(partial, path)  # one step, which fails where a file is
        partial.unlink()
    else:
        partial.replace(path)
    if durable:
        flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Flush a folder to the disk, so that names that were given or taken survive a power cut."""
    _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
