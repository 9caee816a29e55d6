"""Small files of every layout, as a hospital's PACS would write them, for the ingest tests.

The body is an ellipse with a liver, a spine, two vessels and a lesion; HU change by phase.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from stic_client.ingest.manifest import PatientRow
from stic_core.config import DatasetConfig, ServerAddress, SiteConfig

REAL = Path(__file__).resolve().parents[3] / "shared" / "realdata"

SIZE, SPACING = 96, 3.5
TISSUES = {"nc": (50, 45, 40), "art": (65, 250, 110), "pv": (105, 150, 75)}
"""Liver, vessels, lesion, HU."""
PHASES = ("nc", "art", "pv")


def real(name: str) -> Path:
    """A folder of real files; the suite runs without it, CI does not."""
    folder = REAL / name
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI needs ../shared/realdata/{name}")
        pytest.skip(f"no ../shared/realdata/{name} on this machine")
    return folder


def body(
    phase: str = "nc", *, shift: tuple[float, float] = (0, 0), z: float = 0.0, seed: int = 0
) -> np.ndarray:
    """One slice, HU; `shift` moves the body (not the table), rows and columns in pixels."""
    rows, cols = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    rows, cols = rows - shift[0], cols - shift[1]
    liver, vessel, lesion = TISSUES[phase]

    def ellipse(row: float, col: float, high: float, wide: float) -> np.ndarray:
        return ((rows - row) / high) ** 2 + ((cols - col) / wide) ** 2 < 1

    hu = np.full((SIZE, SIZE), -1000.0)
    grow = 1 - 0.002 * abs(z)
    hu[ellipse(46, 48, 32 * grow, 42 * grow)] = -100
    hu[ellipse(46, 48, 28 * grow, 38 * grow)] = 55
    hu[ellipse(44, 32, 18 - 0.1 * z, 18)] = liver
    hu[ellipse(40, 65, 8, 9)] = vessel / 2
    hu[ellipse(70, 48, 6, 7)] = 400
    hu[ellipse(58, 52, 3, 3)] = vessel
    hu[ellipse(38, 40, 2, 5)] = vessel / 2 + 30
    if abs(z) < 12:
        hu[ellipse(46, 28, 6 * (1 - abs(z) / 20), 5)] = lesion
    return np.rint(hu + np.random.default_rng([seed, PHASES.index(phase)]).normal(0, 4, hu.shape)).astype(
        np.float32
    )


def ct_dataset(
    hu: np.ndarray, *, phase: str = "nc", z: float = 0.0, subject: str = "A", **changes: object
) -> Dataset:
    """A classic CT image; `changes` sets elements by keyword, None deletes one."""
    number = PHASES.index(phase)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPClassUID = CTImageStorage
    uid = generate_uid(entropy_srcs=[subject, phase, str(z)])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[subject])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[subject, phase])
    dataset.PatientName, dataset.PatientID = "Secret^Name", "HOSPITAL-42"
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.AcquisitionDate, dataset.AcquisitionTime = "20200101", f"10{number:02d}00.00"
    dataset.AcquisitionNumber = number + 1
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-SIZE * SPACING / 2, -SIZE * SPACING / 2, z]
    dataset.PixelSpacing, dataset.SliceThickness = [SPACING, SPACING], 5
    dataset.Rows, dataset.Columns = hu.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
    dataset.PixelData = np.clip(np.rint(hu) + 1024, 0, 4095).astype("<u2").tobytes()
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write a file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_slices(root: Path, *, subject: str = "A", seed: int = 0) -> dict[str, str]:
    """Layout `dicom_slices`; the manifest's row."""
    for phase in PHASES:
        hu = body(phase, seed=seed, shift=(0, 0) if phase == "nc" else (2, -1))
        save(ct_dataset(hu, phase=phase, subject=subject), root / subject / f"{phase}.dcm")
    return manifest_row(subject, **{f"{phase}_path": f"{subject}/{phase}.dcm" for phase in PHASES})


def write_series(
    folder: Path,
    *,
    phase: str,
    heights: tuple[float, ...] = (-10, -5, 0, 5, 10),
    subject: str = "A",
    change: Callable[[Dataset, int], None] | None = None,
) -> None:
    """One phase as one file a slice, in an order that is not that of their heights."""
    for number, z in enumerate(heights):
        dataset = ct_dataset(body(phase, z=z), phase=phase, z=z, subject=subject)
        if change:
            change(dataset, number)
        save(dataset, folder / f"{(number * 7) % 11:02d}-{phase}-{number}.dcm")


def enhanced_dataset(
    phases: tuple[str, ...] = ("nc",), *, heights: tuple[float, ...] = (-5, 0, 5)
) -> Dataset:
    """A multi-frame CT: slope, intercept and place in functional groups, none at the top."""
    dataset = ct_dataset(body(), AcquisitionTime=None, AcquisitionDate=None, AcquisitionNumber=None)
    for keyword in (
        "RescaleSlope",
        "RescaleIntercept",
        "RescaleType",
        "ImagePositionPatient",
        "PixelSpacing",
    ):
        delattr(dataset, keyword)
    del dataset.ImageOrientationPatient
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage

    def item(**elements: object) -> Sequence:
        out = Dataset()
        for keyword, value in elements.items():
            setattr(out, keyword, value)
        return Sequence([out])

    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=[SPACING, SPACING], SliceThickness=5)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames, pixels = [], []
    for number, phase in enumerate(phases):
        for z in heights:
            frame = Dataset()
            frame.PlanePositionSequence = item(
                ImagePositionPatient=[-SIZE * SPACING / 2, -SIZE * SPACING / 2, z]
            )
            # Another slope a phase: whoever takes the first frame's for all is wrong.
            slope = 1 + number
            frame.PixelValueTransformationSequence = item(
                RescaleSlope=slope, RescaleIntercept=-1024, RescaleType="HU"
            )
            frame.FrameContentSequence = item(
                FrameAcquisitionNumber=number + 1, FrameAcquisitionDateTime=f"2020010110{number:02d}00"
            )
            frames.append(frame)
            pixels.append(np.rint((np.clip(body(phase, z=z), -1024, 3000) + 1024) / slope).astype("<u2"))
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    dataset.NumberOfFrames = len(frames)
    dataset.PixelData = np.stack(pixels).tobytes()
    return dataset


def manifest_row(subject: str = "A", **values: str) -> dict[str, str]:
    """A row of the manifest, with the least that it needs."""
    return {
        "subject_id": subject,
        "split": "train",
        "label": "HCC",
        "label_source": "pathology",
        "layout": "dicom_slices",
        "age": "61",
        "gender": "male",
        **values,
    }


def write_manifest(root: Path, rows: list[dict[str, str]]) -> Path:
    """`manifest.csv` with the columns that the rows have."""
    import csv

    columns = list(dict.fromkeys(key for row in rows for key in row))
    path = root / "manifest.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def row_of(root: Path, values: Mapping[str, str]) -> PatientRow:
    """The one row of a manifest, parsed; what refuses it is raised."""
    from stic_client.ingest.manifest import read_manifest

    manifest = read_manifest(write_manifest(root, [dict(values)]))
    if manifest.refused:
        raise manifest.refused[0]
    return manifest.rows[0]


def write_hospital(data: Path) -> None:
    """Nine patients as DICOM slices with a manifest, a third of them held out."""
    rows = [
        {
            **write_slices(data, subject=f"P{number}", seed=number),
            "label": ("HCC", "ICC", "META")[number % 3],
            "split": "test" if number < 3 else "train",
            "afp": "500",
        }
        for number in range(9)
    ]
    write_manifest(data, rows)


def prepare_config(root: Path, **values: object) -> SiteConfig:
    """A site whose hospital is `root/data`, prepared into `root/prepared`."""
    settings = {"root": root / "data", "prepared": root / "prepared", **values}
    return SiteConfig(
        site="s1", server=ServerAddress(address="localhost:1"), dataset=DatasetConfig.model_validate(settings)
    )
