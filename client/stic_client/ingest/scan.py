"""Folders without a manifest: what DICOM is there, as studies of series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydicom.dataset import Dataset

from stic_client.ingest import elements
from stic_client.ingest.dicom import check_header
from stic_client.ingest.exam import exam_of
from stic_client.ingest.kinds import ENHANCED_CT, SEGMENTATION, check_kind, sop_class
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
    if not folder.is_relative_to(root) or not folder.is_dir():
        raise DataError(
            "the folder to scan is not inside dataset.root",
            advice="Set dataset.root to a folder that holds it.",
        )
    skipped: Counter[str] = Counter()
    files: list[CTFile] = []
    segmentations: list[Segmentation] = []
    for file in files_of(Source("scan", "scan", folder, root)):
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
    if enhanced:
        check_kind(dataset, source=file)
    else:
        check_header(dataset, source=file)
    return CTFile(
        path=file.path.relative_to(root),
        series=elements.text(dataset, "SeriesInstanceUID"),
        enhanced=enhanced,
        time_s=elements.acquired(dataset),
        exam=exam_of(dataset),
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
    they are anonymised alike, the scanned folder's own folders, if each holds a whole study.

    Args:
        depth: parts of the scanned folder's path.
    """
    by_study: dict[tuple[str, ...], list[CTFile]] = defaultdict(list)
    for file in files:
        by_study[file.exam.study, file.exam.patient or file.exam.name].append(file)
    studies: list[Study] = []
    for found in by_study.values():
        by_folder: dict[str, list[CTFile]] = defaultdict(list)
        for file in found:
            by_folder[file.path.parts[depth]].append(file)
        whole = all(len({file.series for file in part}) >= len(PHASES) for part in by_folder.values())
        studies += [Study(part) for part in by_folder.values()] if whole else [Study(found)]
    return sorted(studies, key=lambda study: min(file.path for file in study.files))
