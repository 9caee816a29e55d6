"""`predictions/`: the table and the pages of one run of `predict`, or of none.

A table beside pages of another run would show a patient the wrong scores. So all files of an earlier run go
before the first new one comes, and the table of scores comes last: whatever kills the run in between, there is
no table, and a table that is there belongs to every page beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stic_core.errors import UsageError
from stic_core.system.files import PRIVATE, write_atomically, write_csv

SCORES_FILE, REFUSED_FILE, INDEX_FILE, PAGES = "scores.csv", "refused.csv", "index.html", "patients"

REFUSED_COLUMNS = ("subject_id", "file", "reason", "message")

PAGE_MARK = '<meta name="generator" content="stic-client predict">'
"""In each page: how a later run knows what it may replace."""

_OLD_PAGE_MARK = " - scores"
_BEGINNING = 1500


class ResultFolder:
    """A folder for results.

    Args:
        path: made where it is missing; files that predict did not write stay as they are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def claimed(self, subjects: Iterable[str]) -> Iterator[None]:
        """Keep other runs of predict out of it.

        Args:
            subjects: whose pages may be written.

        Raises:
            UsageError: another run writes there, or a file that predict did not write would be replaced.
        """
        pages = self.path / PAGES
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"{self.path} is not a folder", advice="Give another --out.") from None
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be written", got=error.strerror, advice="Give another --out."
            ) from None
        lock = FileLock(self.path / ".predict.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"another predict is writing to {self.path}", advice="Wait for it, or give another --out."
            ) from None
        with lock:
            if pages.exists() and not pages.is_dir():
                raise UsageError(f"{pages} is not a folder", advice="Give another --out.")
            names = [self.path / name for name in (SCORES_FILE, REFUSED_FILE, INDEX_FILE)]
            for path in (*names, *(pages / f"{subject}.html" for subject in subjects)):
                if path.exists() and not _is_ours(path):
                    raise UsageError(
                        f"{path} was not written by predict", advice="It is not replaced: give another --out."
                    )
            yield

    def replace(
        self,
        *,
        refused: Iterable[Sequence[object]],
        index: str,
        pages: Iterable[tuple[str, str]] = (),
        scores: tuple[Sequence[object], Iterable[Sequence[object]]] | None = None,
    ) -> None:
        """Remove what an earlier run left, and write this one's results.

        Args:
            refused: rows of `REFUSED_COLUMNS`.
            index: the page over all patients.
            pages: subject and page; made when they are written.
            scores: columns and rows; None where nobody has any.
        """
        self._remove_earlier()
        for subject, page in pages:
            write_atomically(self.path / PAGES / f"{subject}.html", page, mode=PRIVATE, durable=False)
        write_csv(self.path / REFUSED_FILE, REFUSED_COLUMNS, refused, mode=PRIVATE)
        write_atomically(self.path / INDEX_FILE, index, mode=PRIVATE)
        if scores is not None:
            write_csv(self.path / SCORES_FILE, *scores, mode=PRIVATE)

    def _remove_earlier(self) -> None:
        """The table first; then what it was about, and what a killed run left."""
        for name in (SCORES_FILE, REFUSED_FILE, INDEX_FILE):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.path, self.path / PAGES):
            for partial in folder.glob(".*.partial"):
                if any(mark in partial.name for mark in (".html.", f"{SCORES_FILE}.", f"{REFUSED_FILE}.")):
                    partial.unlink()
        for page in (self.path / PAGES).glob("*.html"):
            if _is_ours(page):
                page.unlink()


def _is_ours(path: Path) -> bool:
    """Whether predict wrote a file, by how it begins."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        text = file.read(_BEGINNING).decode("utf-8", "replace")
    if path.suffix == ".html":
        return PAGE_MARK in text or _OLD_PAGE_MARK in text
    wanted = ",".join(REFUSED_COLUMNS) if path.name == REFUSED_FILE else "subject_id,score_"
    return text.startswith(wanted)
