"""MCT-LTDiag in miniature: its folders, its patient table, and images of the real layout."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from stic_client.preparation.public_cohorts import TABLE
from support.ingest_files import SIZE, SPACING, body

COLUMNS = (
    "ID", "type", "patient_sex", "patient_age",
    "Cirrhosis status (Y/N)", "History of viral hepatitis (Y/N)", "History of chemotherapy (Y/N)",
)  # fmt: skip
PATIENTS = [
    ("230218a1", "HCC", "M", "42", "Y", "Y, hepatitis B for 20 years", "N"),
    ("230218a2", "HCC", "F", "061Y", "N", "HBV", "unknown"),
    ("230218b1", "ICC", "F", "049Y", "", "N", "N"),
    ("230218b2", "ICC", "M", "55", "N", "N", "after surgery, 6 cycles"),
    ("230218c1", "CRLM", "M", "070Y", "N", "N", "Y"),
    ("230218c2", "BCLM", "F", "038Y", "N", "N", "Y"),
    ("230218d1", "HH", "F", "45", "N", "N", "N"),
    ("230218e1", "HCC", "F", "50", "N", "N", "N"),
]


def _write(path: Path, values: np.ndarray, *, z: float = -10.0) -> None:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((SPACING, SPACING, 5.0))
    image.SetOrigin((-SIZE * SPACING / 2, -SIZE * SPACING / 2, z))
    # RAS, as the cohort's tools write it.
    sitk.WriteImage(sitk.DICOMOrient(image, "RAS"), str(path))


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients in the cohort's layout; the last one was not downloaded."""
    root = tmp_path_factory.mktemp("mct")
    with (root / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(PATIENTS)
    heights = np.arange(-10.0, 11.0, 5.0)
    for number, (subject, *_) in enumerate(PATIENTS[:-1]):
        folder = root / subject / "NIFTI"
        folder.mkdir(parents=True)
        for name, phase, up in (
            ("nc", "nc", 0.0),
            ("art", "art", 2.5),
            ("pvp", "pv", 0.0),
            ("delay", "pv", 0.0),
        ):
            volume = np.stack([body(phase, z=z + up, seed=number) for z in heights]).astype(np.int16)
            _write(folder / f"{name}.nii.gz", volume, z=-10 + up)
        lesion = np.zeros((5, SIZE, SIZE), dtype=np.uint8)
        lesion[2, 42:50, 24:32] = 1
        lesion[3, 44:48, 26:30] = 1
        _write(folder / "mask_pvp.nii.gz", lesion)
        liver = np.zeros((5, SIZE, SIZE), dtype=np.uint8)
        liver[:, 34:54, 20:44] = 1
        _write(folder / "liver_mask_pvp.nii.gz", liver)
    return root
