"""Folders without a manifest: what DICOM is there, as studies of series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset

from stic_client.ingest import elements
from stic_client.ingest.dicom import check_header
from stic_client.ingest.exam import exam_of
from stic_client.ingest.kinds import (
    ENHANCED_CT,
    SEGMENTATION,
    as_classic,
    check_kind,
    reconstruction_of,
    sop_class,
)
from stic_client.ingest.proposal import CTFile, Proposal, Segmentation, Study, propose
from stic_client.ingest.source import Source, files_of
from stic_core.data.ct import PHASES
from stic_core.errors import DataError, PatientError


def scan(folder: Path, *, root: Path) -> Proposal:
    """Propose a manifest.

    Args:
        folder: to look through; inside `root`.
        root: what the paths will be relative to.

    Raises:
        DataError: the folder is not inside the root, or has no CT in it.
    """
    root, folder = root.resolve(), folder.resolve()
    if not folder.is_relative_to(root):
        raise DataError(
            "the folder to scan is not inside dataset.root",
            advice="Set dataset.root to a folder that holds it.",
        )
    if not folder.is_dir():
        raise DataError(
            "what is to be scanned is no folder",
            expected="a folder of DICOM files",
            advice="Name the folder.",
        )
    skipped: Counter[str] = Counter()
    files: list[CTFile] = []
    segmentations: list[Segmentation] = []
    try:
        found = files_of(Source("scan", "scan", folder, root))
    except PatientError as error:  # of no patient yet
        raise DataError(error.what, expected=error.expected, advice=error.advice) from None
    for file in found:
        try:
            dataset = elements.open_dataset(file, pixels=False)
            if sop_class(dataset) in SEGMENTATION:
                segmentations.append(_segmentation(dataset, path=file.path.relative_to(root)))
            else:
                files.append(_ct_file(dataset, file=file, root=root))
        except PatientError as error:
            skipped[error.what] += 1
    if not files:
        raise DataError(
            "no CT was found",
            got=f"{skipped.total() + len(segmentations)} other files",
            advice="Name another folder.",
        )
    studies = _studies(files, depth=len(folder.relative_to(root).parts))
    return Proposal(propose(studies, segmentations=segmentations), dict(skipped))


def _ct_file(dataset: Dataset, *, file: Source, root: Path) -> CTFile:
    """What is needed of a CT file.

    Raises:
        PatientError: `prepare` would refuse it.
    """
    enhanced = sop_class(dataset) in ENHANCED_CT
    exam = exam_of(dataset)
    if enhanced:
        check_kind(dataset, source=file)
        frame = elements.first(dataset, "PerFrameFunctionalGroupsSequence") or Dataset()
        about = as_classic(dataset, frame=frame)
        check_kind(about, source=file)
        exam = replace(exam, reconstruction=reconstruction_of(about))
    else:
        check_header(dataset, source=file)
    return CTFile(
        path=file.path.relative_to(root),
        series=elements.text(dataset, "SeriesInstanceUID"),
        enhanced=enhanced,
        time_s=elements.acquired(dataset),
        exam=exam,
        patient_id=elements.shown(dataset, "PatientID"),
        accession=elements.shown(dataset, "AccessionNumber"),
        date=elements.shown(dataset, "StudyDate"),
    )


def _segmentation(dataset: Dataset, *, path: Path) -> Segmentation:
    referenced = [
        elements.text(item, "SeriesInstanceUID")
        for item in elements.items(dataset, "ReferencedSeriesSequence")
    ]
    segments = {}
    for item in elements.items(dataset, "SegmentSequence"):
        number = elements.numbers(item, "SegmentNumber", count=1)
        if number is not None:
            segments[int(number[0])] = elements.text(item, "SegmentLabel")
    return Segmentation(path, tuple(referenced), elements.text(dataset, "StudyInstanceUID"), segments)


def _studies(files: Iterable[CTFile], *, depth: int) -> list[Study]:
    """Files by study, in the order of their paths.

    Anonymisers write one study UID into every file. So patients are told apart too, and where
    they are anonymised alike, folders, if each holds a whole study of its own.

    Args:
        depth: parts of the scanned folder's path.
    """
    by_study: dict[tuple[str, ...], list[CTFile]] = defaultdict(list)
    for file in files:
        by_study[file.exam.study, file.exam.patient or file.exam.name].append(file)
    studies = [Study(part) for found in by_study.values() for part in _by_folder(found, depth=depth)]
    return sorted(studies, key=lambda study: min(file.path for file in study.files))


def _by_folder(files: list[CTFile], *, depth: int) -> list[list[CTFile]]:
    """Files of one study UID by folder, or all together where the folders do not hold a study each.

    Args:
        depth: of the folders; those below are looked at where there is one.
    """
    parts: dict[tuple[str, ...], list[CTFile]] = defaultdict(list)
    for file in files:
        parts[file.path.parts[depth : depth + 1] if len(file.path.parts) > depth + 1 else ()].append(file)
    if () in parts:
        return [files]
    if len(parts) == 1:
        return _by_folder(files, depth=depth + 1)
    whole = all(len({file.series for file in part}) >= len(PHASES) for part in parts.values())
    if not whole or _share_a_scan(parts.values()):
        return [files]
    return [study for part in parts.values() for study in _by_folder(part, depth=depth + 1)]


def _share_a_scan(parts: Iterable[list[CTFile]]) -> bool:
    """Whether two folders hold reconstructions of one scan: the same frame of reference at the same moment."""
    scans = [
        {(file.exam.frame, file.time_s) for file in part if file.exam.frame and file.time_s is not None}
        for part in parts
    ]
    return len(set().union(*scans)) < sum(map(len, scans))
