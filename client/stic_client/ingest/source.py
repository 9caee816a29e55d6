"""One file of one patient: where it may lie, how it is refused, and how libraries are kept quiet.

What a file holds may be a name, even where a code should be. So nothing read from a file
gets into a message unless it is a number, or a word that this project knows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stic_core.errors import PatientError


@dataclass(frozen=True, slots=True)
class Source:
    """A path of the manifest.

    Args:
        subject: the pseudonym.
        file: the path as the manifest gives it; it is the only one that messages show.
        path: where it is.
        root: the dataset's root, resolved.
    """

    subject: str
    file: str
    path: Path
    root: Path

    def refuse(
        self, what: str, *, got: object = None, expected: object = None, advice: str | None = None
    ) -> PatientError:
        """The error that quarantines this patient."""
        return PatientError(
            what, subject=self.subject, file=self.file, got=got, expected=expected, advice=advice
        )

    def unreadable(self, kind: str, error: Exception) -> PatientError:
        """A library could not read the file; its own words may hold patient data and are dropped."""
        return self.refuse(
            f"it cannot be read as {kind}",
            got=type(error).__name__,
            advice="Export the file again; if it opens elsewhere, convert it to uncompressed DICOM.",
        )

    def inside(self, name: str, *, number: int, of: int) -> Source:
        """A file of this folder, called by its place in it and not by its name.

        Names of files are often accession numbers or worse.

        Args:
            number, of: its place among the folder's files, sorted by path, from 1.
        """
        return Source(self.subject, f"{self.file} (file {number} of {of})", self.path / name, self.root)


def locate(text: str, *, subject: str, root: Path) -> Source:
    """A manifest's path, if it exists and lies inside the dataset's root.

    Args:
        text: relative to `root`; links and `..` are followed before it is judged.
        root: resolved.

    Raises:
        PatientError: it is absolute, leaves the root, or is not there.
    """

    def refuse(what: str, advice: str) -> PatientError:
        # A path that leaves the root may name anything on this machine: it is not repeated.
        return PatientError(what, subject=subject, expected="a path inside the dataset's root", advice=advice)

    if not text or "\0" in text or Path(text).is_absolute() or text.startswith("~"):
        raise refuse("a path is not relative to the dataset's root", "Write it relative to dataset.root.")
    try:
        path = _as_spelled(root, text).resolve(strict=False)
    except UnicodeEncodeError:
        raise refuse(
            "a path has letters that this session cannot write", "Set LC_ALL=C.UTF-8 and run it again."
        ) from None
    except (OSError, RuntimeError):
        raise refuse("a path cannot be resolved", "Remove the links it goes through.") from None
    if not path.is_relative_to(root):
        raise refuse("a path leaves the dataset's root", "Move or copy the files under dataset.root.")
    if not path.exists():
        raise PatientError(
            "it does not exist",
            subject=subject,
            file=text,
            expected="a file or a folder",
            advice="Correct the manifest's path, or export the phase.",
        )
    return Source(subject, text, path, root)


def _as_spelled(root: Path, text: str) -> Path:
    """A path with the accents of its names composed as they are on the disk: Macs decompose them."""
    path = root
    for name in Path(text).parts:
        exact = path / name
        plain = unicodedata.normalize("NFC", name)
        same = (
            [exact]
            if exact.exists() or not path.is_dir()
            else [other for other in path.iterdir() if unicodedata.normalize("NFC", other.name) == plain]
        )
        path = same[0] if len(same) == 1 else exact
    return path


def files_of(source: Source) -> list[Source]:
    """The files of a folder and the folders in it, sorted by path; or the one file.

    Raises:
        PatientError: a link in it leads out of the root, or there are no files.
    """
    if source.path.is_file():
        return [source]
    found: list[str] = []
    for folder, folders, names in os.walk(source.path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (*folders, *names):
            if not (Path(folder) / name).resolve().is_relative_to(source.root):
                raise source.refuse(
                    "a link in the folder leaves the dataset's root",
                    advice="Copy the files instead of linking.",
                )
        found += [
            str((Path(folder) / name).relative_to(source.path))
            for name in names
            if not name.startswith(".") and (Path(folder) / name).is_file()
        ]
    if not found:
        raise source.refuse(
            "the folder is empty", expected="files of one phase", advice="Export the phase again."
        )
    return [
        source.inside(name, number=number, of=len(found))
        for number, name in enumerate(sorted(found), start=1)
    ]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that a library says of a file reaches a log, a warning or the terminal.

    pydicom and highdicom warn with the value they dislike, which may be a name; GDCM and
    ITK write to the process's stderr with the file's path.
    """
    # Imported here: the command line must not wait for them.
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with contextlib.suppress(ImportError):
        import gdcm

        gdcm.Trace.WarningOff()
        gdcm.Trace.ErrorOff()
        gdcm.Trace.DebugOff()
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom", "pylibjpeg", "openjpeg")]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.disabled = True
        try:
            yield
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled
