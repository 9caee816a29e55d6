"""A whole phantom cohort on disk: files, manifest, and a stamp that says it is complete."""

from __future__ import annotations

import csv
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from stic_core.data.clinical import VARIABLES
from stic_core.data.ct import PHASES
from stic_core.errors import UsageError
from stic_core.phantom.centres import CENTRES, Centre
from stic_core.phantom.dicom import write_slice
from stic_core.phantom.patient import PhantomPatient, draw_patient
from stic_core.phantom.render import render, scene
from stic_core.system import signals

GENERATOR_VERSION = 2
"""Raised with every change that alters a file; a cohort of another version is made anew."""

MANIFEST_COLUMNS = (
    "subject_id",
    "split",
    "label",
    "label_source",
    "layout",
    *(f"{phase}_path" for phase in PHASES),
    "mask_phase",
    "lesion_row",
    "lesion_col",
    "registered",
    *VARIABLES,
)

SPLITS = ("train", "val", "test")
SPLIT_STEP = 100_000  # patients of a split keep their numbers when another split grows

_STAMP = "phantom.json"


@dataclass(frozen=True, slots=True)
class Member:
    """A patient's place in a cohort."""

    subject: str
    split: str
    label: str
    index: int


def members(*, centre: Centre, counts: Mapping[str, int]) -> tuple[Member, ...]:
    """Who is in a cohort, without drawing anybody.

    Each next patient is of the class that is furthest below its share, so that the first n
    patients of a split are stratified for every n.

    Args:
        centre: its class shares.
        counts: patients by split.

    Raises:
        UsageError: an unknown split, or a count that is none.

    Example:
        >>> [m.label for m in members(centre=CENTRES["center1"], counts={"test": 4})]
        ['HCC', 'META', 'HCC', 'ICC']
    """
    out: list[Member] = []
    for split, count in counts.items():
        if split not in SPLITS or not 0 <= count < SPLIT_STEP:
            raise UsageError(
                "counts of a phantom cohort",
                got=f"{split}: {count}",
                expected=f"{', '.join(SPLITS)}, each 0 to {SPLIT_STEP - 1}",
            )
        filled = dict.fromkeys((label for label, _ in centre.shares), 0)
        for number in range(count):
            label = max(centre.shares, key=lambda pair: pair[1] * (number + 1) - filled[pair[0]])[0]
            filled[label] += 1
            index = SPLITS.index(split) * SPLIT_STEP + number
            out.append(Member(f"{centre.name}-{split}-{number:04d}", split, label, index))
    return tuple(out)


def write_cohort(
    folder: Path,
    *,
    centre: str | Centre,
    seed: int,
    counts: Mapping[str, int],
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a centre's patients as a hospital would have them on disk.

    Leaves `<folder>/<subject>/{nc,art,pv}.dcm` and `<folder>/manifest.csv`. What is there
    already from equal arguments and the same generator stays; anything else is rewritten.

    Args:
        folder: made where it is missing.
        centre: a name of `CENTRES`, or a centre of one's own.
        seed: equal seeds give equal bytes.
        counts: patients by split, such as `{"train": 140, "test": 80}`.
        workers: processes that render.
        progress: called with patients done and patients in all.

    Returns:
        The manifest's path.

    Raises:
        UsageError: an unknown centre, split or class, or a count that is none.
    """
    if isinstance(centre, str):
        if centre not in CENTRES:
            raise UsageError("no such phantom centre", got=repr(centre), expected=" or ".join(CENTRES))
        centre = CENTRES[centre]
    cohort = members(centre=centre, counts=counts)
    manifest, stamp = folder / "manifest.csv", folder / _STAMP
    made_from = {
        "generator": GENERATOR_VERSION,
        "centre": json.loads(json.dumps(asdict(centre))),
        "seed": seed,
        "counts": dict(counts),
        "phantom": True,
    }
    if _is_complete(folder, stamp=stamp, made_from=made_from, cohort=cohort):
        if progress:
            progress(len(cohort), len(cohort))
        return manifest

    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    rows: dict[str, dict[str, str]] = {}
    for done, (subject, row) in enumerate(
        _written(folder, cohort, centre=centre, seed=seed, workers=workers), start=1
    ):
        rows[subject] = row
        if progress:
            progress(done, len(cohort))
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=MANIFEST_COLUMNS)
        writer.writeheader()
        writer.writerows(rows[member.subject] for member in cohort)
    stamp.write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")
    return manifest


def write_patient(folder: Path, *, member: Member, centre: Centre, seed: int) -> dict[str, str]:
    """Render and write one patient's three files.

    Returns:
        The patient's row of the manifest.
    """
    patient = draw_patient(centre=centre, label=member.label, seed=seed, index=member.index)
    drawn = scene(patient)
    home = folder / member.subject
    home.mkdir(parents=True, exist_ok=True)
    for phase in PHASES:
        hu = render(patient, phase, drawn=drawn)
        write_slice(home / f"{phase}.dcm", patient=patient, phase=phase, hu=hu, subject=member.subject)
    return manifest_row(patient, member=member)


def manifest_row(patient: PhantomPatient, *, member: Member) -> dict[str, str]:
    """What the manifest says of a patient; the lesion is marked on the portal venous phase."""
    row, col = patient.lesion_pixel("pv")
    return {
        "subject_id": member.subject,
        "split": member.split,
        "label": member.label,
        "label_source": "pathology",
        "layout": "dicom_slices",
        **{f"{phase}_path": f"{member.subject}/{phase}.dcm" for phase in PHASES},
        "mask_phase": "pv",
        "lesion_row": f"{row:.1f}",
        "lesion_col": f"{col:.1f}",
        "registered": "0",
        **patient.clinical,
    }


def _is_complete(
    folder: Path, *, stamp: Path, made_from: Mapping[str, object], cohort: tuple[Member, ...]
) -> bool:
    try:
        same = json.loads(stamp.read_text(encoding="utf-8")) == made_from
    except (FileNotFoundError, ValueError):
        return False
    files = (folder / member.subject / f"{phase}.dcm" for member in cohort for phase in PHASES)
    return same and (folder / "manifest.csv").is_file() and all(file.is_file() for file in files)


def _written(
    folder: Path, cohort: tuple[Member, ...], *, centre: Centre, seed: int, workers: int
) -> Iterator[tuple[str, dict[str, str]]]:
    if workers <= 1:
        for member in cohort:
            yield member.subject, write_patient(folder, member=member, centre=centre, seed=seed)
        return
    # Spawn: the caller may hold threads (a server, torch), which a forked child would inherit locked.
    pool = ProcessPoolExecutor(max_workers=workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        with signals.held_back():  # the first job starts the processes
            jobs = {
                pool.submit(write_patient, folder, member=member, centre=centre, seed=seed): member
                for member in cohort
            }
        for job in as_completed(jobs):
            yield jobs[job].subject, job.result()
    finally:
        # On an interrupt, too: the running patients finish, the waiting ones are dropped.
        pool.shutdown(wait=True, cancel_futures=True)
