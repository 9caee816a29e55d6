"""Arrays that a site keeps from one round to the next, such as int8's rounding error.

They are kept by round. A server that was killed asks for its last round again, and perhaps for the
one before, and a site that was killed is asked again for the round that it was in: each time the
site begins with what it had before that round, and so answers as it did the first time.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load, save

from stic_core.errors import DataError
from stic_core.system.files import write_atomically
from stic_core.tensors.flat import FlatArray

_NAME = re.compile(r"^round-(\d{5})\.safetensors$")
_KEEP = 3
"""Rounds: a server resumes from one of its two newest checkpoints, and so asks for the last round or the one before."""

KEPT_COPIES = _KEEP + 1
"""On the disk at most: a further round is written before the oldest one goes."""

_RUNS = 8
"""Runs that are kept: one that was interrupted may be resumed, one that was given up never says so."""


class SiteArrays:
    """Named arrays of one run.

    Args:
        folder: of the run; None keeps them in memory, for sites that live no longer than the process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._rounds: dict[int, Mapping[str, FlatArray]] = {}
        if folder is not None and folder.is_dir():
            self._rounds = {
                int(match[1]): _read(path)
                for path in sorted(folder.iterdir())
                if (match := _NAME.match(path.name))
            }

    def before(self, number: int) -> Mapping[str, FlatArray]:
        """What the site had when it began a round; empty where it had nothing.

        Args:
            number: of the round, from 1.
        """
        earlier = [done for done in self._rounds if done < number]
        return self._rounds[max(earlier)] if earlier else {}

    def keep(self, number: int, arrays: Mapping[str, FlatArray]) -> None:
        """Keep what the site has after a round, on the disk before this returns; of later rounds nothing.

        Args:
            number: of the round, from 1.
            arrays: by name; where there are none, nothing is written.
        """
        rounds = {done: kept for done, kept in self._rounds.items() if done < number}
        if arrays:
            rounds[number] = dict(arrays)
        rounds = dict(sorted(rounds.items())[-_KEEP:])
        if self._folder is not None:
            if arrays:
                write_atomically(self._path(number), save(dict(arrays)))
            for gone in self._rounds.keys() - rounds.keys():
                self._path(gone).unlink(missing_ok=True)
        self._rounds = rounds

    def discard(self) -> None:
        """The run is over."""
        self._rounds = {}
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"round-{number:05d}.safetensors"


def arrays_of_run(folder: Path, run_id: str) -> SiteArrays:
    """The arrays of one run among a site's; those of runs that were given up go, the oldest first.

    Args:
        folder: holds a folder for each run.

    Raises:
        DataError: a file is damaged.
    """
    if folder.is_dir():
        others = [path for path in folder.iterdir() if path.is_dir() and path.name != run_id]
        others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in others[_RUNS - 1 :]:
            shutil.rmtree(path, ignore_errors=True)
    return SiteArrays(folder / run_id)


def _read(path: Path) -> Mapping[str, FlatArray]:
    try:
        return load(path.read_bytes())
    except SafetensorError:
        raise DataError(
            f"{path.parent.name}/{path.name} is damaged",
            advice="Delete the run's folder there: the run continues without what was kept, "
            "and its model then differs in the last bits.",
        ) from None
