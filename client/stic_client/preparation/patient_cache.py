"""Prepared patients on disk, one file each, so that a second preparation does what changed.

A patient's file holds the key it was made under: the contents of the files it was read from,
the manifest's values that matter for the image, and the settings. Files are hashed once;
after that their size and times are trusted, as build tools do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from stic_client.ingest.manifest import PatientRow
from stic_client.ingest.patient import PreparedPatient
from stic_client.ingest.source import files_of, locate
from stic_client.ingest.views import Placement
from stic_core.config import ImageConfig
from stic_core.data.dataset import SPEC_VERSION
from stic_core.errors import DataError
from stic_core.system.files import atomic_file, write_atomically
from stic_core.tensors.array_types import PhaseImages

Stamped: TypeAlias = list[object]
"""Size, two times, inode, sha256 of a file; a list because it goes through JSON."""

_CHECKSUM = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<path>.+)")


CHECKSUMS_FILE = "SHA256SUMS"
"""Optional, in the dataset's root: compressed CT has no checksum of its own, and some damage
still decodes to something like an image."""


def read_checksums(root: Path) -> dict[str, str]:
    """What `sha256sum` wrote in the root: digests by path relative to it; none without the file.

    Raises:
        DataError: a line that is no such line.
    """
    try:
        lines = (root / CHECKSUMS_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError):
        lines = ["?"]
    found = [_CHECKSUM.fullmatch(line) for line in lines if line.strip()]
    if None in found:
        raise DataError(
            f"{CHECKSUMS_FILE} cannot be read",
            expected="lines of sha256sum: digest, two spaces, path",
            advice="Write it in the root: find . -type f | xargs sha256sum > SHA256SUMS.",
        )
    return {match["path"].removeprefix("./"): match["digest"].lower() for match in found if match}


def patient_file(folder: Path, subject: str) -> Path:
    """Where a patient's prepared image lies."""
    return folder / "patients" / f"{subject}.npz"


def key_of(
    row: PatientRow,
    *,
    root: Path,
    image: ImageConfig,
    known: Mapping[str, Stamped],
    checksums: Mapping[str, str],
    hash_new: bool = True,
) -> tuple[str, dict[str, Stamped]]:
    """What a patient's image depends on, as a hash.

    Args:
        known: hashes of files by path, after the size and times they were made at.
        checksums: see `read_checksums`.
        hash_new: also read files that are not known; without, the key is "" where there are any.

    Returns:
        The key, and the stamps of this patient's files.

    Raises:
        PatientError: a path that is not there or leaves the root; a checksum that differs.
    """
    fields = {
        name: value
        for name, value in dataclasses.asdict(dataclasses.replace(row, clinical={}, paths={})).items()
        if name not in {"subject", "split", "label", "label_source", "clinical", "paths"}
    }
    # No pixel depends on these two, but the warning that they are not the images' own does.
    fields["compared"] = [row.clinical.get(name, "") for name in ("age", "gender")]
    digest = hashlib.sha256(
        json.dumps([SPEC_VERSION, image.model_dump(mode="json"), fields, sorted(row.paths)]).encode()
    )
    used: dict[str, Stamped] = {}
    complete = True
    for path in (*(row.paths[name] for name in sorted(row.paths)), row.mask_path, row.liver_mask_path):
        if path:
            for source in files_of(locate(path, subject=row.subject, root=root)):
                name, status = str(source.path), source.path.stat()
                stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
                before = known.get(name)
                if before is not None and before[:4] == stamp:
                    used[name] = before
                elif hash_new:
                    with source.path.open("rb") as file:
                        used[name] = [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
                else:
                    complete = False
                    continue
                value = str(used[name][4])
                if checksums.get(source.path.relative_to(root).as_posix(), value) != value:
                    raise source.refuse(
                        "a file differs from the exported one: its checksum does not match",
                        expected=f"the one in {CHECKSUMS_FILE}",
                        advice="Transfer the file again.",
                    )
                digest.update(value.encode())
        digest.update(b"|")
    return digest.hexdigest() if complete else "", used


def save(folder: Path, *, subject: str, key: str, patient: PreparedPatient) -> None:
    """Write a patient, whole or not at all."""
    path = patient_file(folder, subject)
    meta = {
        "key": key,
        "digests": patient.digests,
        "phantom": patient.phantom,
        "place_known": patient.place_known,
        "rejected": dict(patient.rejected),
        "warnings": patient.warnings,
        "placement": [patient.placement.lesion, patient.placement.size_mm],
    }
    # Not durable: what a power cut tears is a file that `load` does not take, and is made again.
    with atomic_file(path, durable=False) as file:
        np.savez(file, image=patient.image, meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8))


def load(folder: Path, *, subject: str, key: str) -> PreparedPatient | None:
    """The patient, if there is one that was made under this key."""
    try:
        with np.load(patient_file(folder, subject), allow_pickle=False) as file:
            meta = json.loads(file["meta"].tobytes())
            if meta["key"] != key:
                return None
            return PreparedPatient(
                image=file["image"],
                digests=tuple(meta["digests"]),
                phantom=meta["phantom"],
                place_known=meta["place_known"],
                rejected=meta["rejected"],
                warnings=tuple(meta["warnings"]),
                placement=_placement(meta),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def placement_of(folder: Path, *, subject: str, image: PhaseImages) -> Placement | None:
    """Where a patient's lesion lies on a prepared image; None where no file of this version says so.

    Args:
        image: (224, 224, 3); the file may be of a later preparation that came to nothing.
    """
    try:
        with np.load(patient_file(folder, subject), allow_pickle=False) as file:
            same = np.array_equal(file["image"][0], image)
            return _placement(json.loads(file["meta"].tobytes())) if same else None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def _placement(meta: Mapping[str, Any]) -> Placement:
    lesion, size_mm = (
        None if pair is None else (float(pair[0]), float(pair[1])) for pair in meta["placement"]
    )
    return Placement(lesion, size_mm)


def forget(folder: Path, *, keep: Iterable[str]) -> None:
    """Remove patients who are not in the manifest any more, and what a killed run left."""
    names = {f"{subject}.npz" for subject in keep}
    for path in (folder / "patients").glob("*"):
        if path.name not in names:
            path.unlink(missing_ok=True)


def load_known(folder: Path) -> dict[str, Stamped]:
    """Hashes of source files from the last run."""
    try:
        known = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def save_known(folder: Path, *, known: dict[str, Stamped]) -> None:
    """Keep the hashes for the next run."""
    write_atomically(folder / "files.json", json.dumps(known), durable=False)
