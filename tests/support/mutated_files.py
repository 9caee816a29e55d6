"""Broken files by the hundred, and what came of each; shared by the suite and the benchmark.

A mutated file must be refused, or be accepted with an image that is right: equal to the
original's, or different in no more pixels than bytes were changed (uncompressed pixels have no
checksum). Damage inside compressed code that still decodes to something like an image is
counted apart: DICOM's compressed syntaxes give no means to see it.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from stic_client.ingest.manifest import PatientRow
from stic_client.ingest.patient import open_phases
from stic_client.preparation import worker_pool
from stic_core.data.ct import window
from stic_core.errors import PatientError
from support.ingest_files import (
    PHASES,
    SIZE,
    SPACING,
    body,
    ct_dataset,
    enhanced_dataset,
    manifest_row,
    row_of,
    save,
)

MUTATIONS = ("truncated", "bit flips in the header", "bit flips anywhere", "zeroed block", "cut out", "swapped block",
             "extended", "mislabelled")  # fmt: skip


# Their streams have no checksum, and a decoder takes damaged code for code; what is far from an
# image is refused (stic_client.ingest.damaged_frames), what is near one cannot be told by anybody.
_UNCHECKED = ("dicom jpeg2000", "dicom rle", "dicom jpegls")


@dataclass(frozen=True)
class Case:
    """A file that can be read, and how."""

    name: str
    file: str
    row: PatientRow
    phases: tuple[str, ...]


def build(root: Path) -> list[Case]:
    """One good patient a format under `root`."""
    cases = []

    def add(name: str, file: str, *, values: dict[str, str], phases: tuple[str, ...] = ("nc",)) -> None:
        cases.append(Case(name, file, row_of(root, manifest_row(**values)), phases))

    for phase in ("art", "pv"):
        save(ct_dataset(body(phase), phase=phase), root / f"{phase}.dcm")
    others = {"art_path": "art.dcm", "pv_path": "pv.dcm"}
    syntaxes = {"plain": "", "jpeg2000": JPEG2000Lossless, "jpegls": JPEGLSLossless, "rle": RLELossless}
    for name, syntax in syntaxes.items():
        dataset = ct_dataset(body())
        if syntax == JPEG2000Lossless:
            dataset.PixelData = encapsulate([encode_array(dataset.pixel_array, bits_stored=12)])
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
        elif syntax:
            dataset.compress(syntax, generate_instance_uid=False)
        save(dataset, root / f"{name}.dcm")
        add(f"dicom {name}", f"{name}.dcm", values={"nc_path": f"{name}.dcm", **others})
    save(enhanced_dataset(PHASES, heights=(-5, 0, 5)), root / "enhanced.dcm")
    same = {f"{phase}_path": "enhanced.dcm" for phase in PHASES}
    add(
        "dicom enhanced",
        "enhanced.dcm",
        values={"layout": "dicom_enhanced", "slice_index": "1", **same},
        phases=PHASES,
    )
    volume = np.stack([body(z=z) for z in (-5.0, 0.0, 5.0)]).astype(np.int16)
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing((SPACING, SPACING, 5.0))
    image.SetOrigin((-SIZE * SPACING / 2, -SIZE * SPACING / 2, -5.0))
    for file in ("nc.nii", "nc.nii.gz", "art.nii.gz", "pv.nii.gz"):
        sitk.WriteImage(image, str(root / file))
    for file in ("nc.nii", "nc.nii.gz"):
        paths = {"nc_path": file, "art_path": "art.nii.gz", "pv_path": "pv.nii.gz"}
        add(f"nifti {file[2:]}", file, values={"layout": "nifti", "slice_index": "1", **paths})
    Image.fromarray(np.stack([window(body(phase)) for phase in PHASES], axis=-1)).save(root / "rgb.png")
    add("rgb png", "rgb.png", values={"layout": "rgb_png", "rgb_path": "rgb.png"}, phases=PHASES)
    return cases


def mutate(content: bytes, *, kind: str, rng: np.random.Generator, others: list[bytes]) -> bytes:
    """A broken copy; never the same bytes."""
    data = bytearray(content)
    size = len(data)
    if kind == "truncated":
        return bytes(data[: int(rng.integers(0, size))])
    if kind.startswith("bit flips"):
        reach = min(size, 1500) if "header" in kind else size
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(0, reach))] ^= 1 << int(rng.integers(0, 8))
    elif kind == "zeroed block":
        start = int(rng.integers(0, size))
        length = int(rng.integers(1, max(2, size // 4)))
        data[start : start + length] = bytes(len(data[start : start + length]))
    elif kind == "cut out":
        start = int(rng.integers(0, size))
        del data[start : start + int(rng.integers(1, max(2, size // 8)))]
    elif kind == "swapped block":
        length = int(rng.integers(2, max(3, size // 8)))
        first, second = (int(rng.integers(0, size - length)) for _ in range(2))
        data[first : first + length], data[second : second + length] = (
            data[second : second + length],
            data[first : first + length],
        )
    elif kind == "extended":
        data += rng.bytes(int(rng.integers(1, 5000)))
    else:
        return others[int(rng.integers(0, len(others)))]
    return bytes(data)


def judge(
    case: Case, *, root: Path, good: dict[str, np.ndarray], changed: int, mislabelled: bool = False
) -> str:
    """What came of a file: `refused`, `accepted: ...`, or `SILENT: ...`, which must not be.

    Args:
        changed: bytes that differ from the original's.
    """
    try:
        stacks = open_phases(case.row, root=root)
        read = {phase: stacks[phase].load(case.row.slice_index or 0) for phase in case.phases}
    except PatientError:
        return "refused"
    except Exception as error:  # noqa: BLE001 - what prepare quarantines as a fault of this project
        return f"CRASH: {type(error).__name__}"
    worst = 0.0
    for phase, hu in read.items():
        if hu.shape != good[phase].shape:
            return "SILENT: another shape"
        wrong = float(np.mean(window(hu) != window(good[phase])))
        worst = max(worst, wrong)
    if worst == 0:
        return "accepted: the same image"
    if mislabelled:
        return "accepted: another valid file"
    # Uncompressed pixels have no checksum: as many may differ as bytes were changed.
    if worst * SIZE * SIZE <= changed:
        return "accepted: as many pixels differ as bytes"
    if case.name in _UNCHECKED:
        return f"undetectable: damage inside {case.name}'s own code"
    return "SILENT: another image"


def originals(cases: list[Case], *, root: Path) -> dict[str, dict[str, np.ndarray]]:
    """What each good file shows."""
    out = {}
    for case in cases:
        stacks = open_phases(case.row, root=root)
        out[case.name] = {phase: stacks[phase].load(case.row.slice_index or 0) for phase in case.phases}
    return out


@functools.cache
def _prepared(root: Path) -> tuple[list[Case], dict[str, dict[str, np.ndarray]], dict[str, bytes]]:
    """Good files of this process alone, what they show, and their bytes."""
    cases = build(root)
    return cases, originals(cases, root=root), {case.name: (root / case.file).read_bytes() for case in cases}


def trial(task: tuple[Path, int, int]) -> tuple[str, str, str]:
    """One broken file: format, mutation, outcome.

    Args:
        task: folder, seed, number of the trial.
    """
    folder, seed, number = task
    root = folder / str(os.getpid())
    root.mkdir(exist_ok=True)
    cases, good, content = _prepared(root)
    rng = np.random.default_rng([seed, number])
    case, kind = _case_of(cases, number)
    original = content[case.name]
    # A mislabelled file has another format's content, or a text's.
    others = [data for name, data in content.items() if name != case.name] + [
        b"no image",
        b"\x89PNG" * 50,
        b"",
    ]
    broken = mutate(original, kind=kind, rng=rng, others=others)
    (root / case.file).write_bytes(broken)
    shared = min(len(broken), len(original))
    differing = np.frombuffer(broken, np.uint8, shared) != np.frombuffer(original, np.uint8, shared)
    changed = int(differing.sum()) + abs(len(broken) - len(original))
    outcome = judge(case, root=root, good=good[case.name], changed=changed, mislabelled=kind == "mislabelled")
    (root / case.file).write_bytes(original)
    return case.name, kind, outcome


def _case_of(cases: list[Case], number: int) -> tuple[Case, str]:
    return cases[number % len(cases)], MUTATIONS[number // len(cases) % len(MUTATIONS)]


def run(folder: Path, *, count: int, seed: int, workers: int = 2) -> Counter[tuple[str, str, str]]:
    """Mutate, read, judge, in the workers that `prepare` uses: a decoder may crash one.

    Returns:
        How often each (format, mutation, outcome) came.
    """
    outcomes: Counter[tuple[str, str, str]] = Counter()
    names = build(folder)
    tasks = [(folder, seed, number) for number in range(count)]
    for (_, _, number), result in worker_pool.run(trial, tasks=tasks, workers=workers, limit_s=60.0):
        if isinstance(result, worker_pool.Lost):
            case, kind = _case_of(names, number)
            outcomes[case.name, kind, f"refused: the decoder {result.reason}, its worker was replaced"] += 1
        else:
            outcomes[result] += 1
    return outcomes
