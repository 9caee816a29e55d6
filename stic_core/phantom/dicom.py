"""A rendered phase as a CT image file, and how a reader knows that it is a phantom."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from stic_core.data.clinical_texts import read_age
from stic_core.data.ct import PHASES
from stic_core.phantom.patient import PhantomPatient
from stic_core.tensors.array_types import HUSlice

MODEL_PREFIX = "PHANTOM"
"""How ManufacturerModelName begins in every phantom file, and in no scanner's."""

_IMPLEMENTATION_UID = generate_uid(entropy_srcs=["stic-federated phantom"])
_SERIES = {"nc": "NC abdomen", "art": "ART abdomen late arterial", "pv": "PV abdomen portal venous"}
_OFFSET = {"uint16": -1024, "int16": 0}
_START = dt.datetime(2020, 1, 1, 8, tzinfo=dt.UTC)  # no patient, no real date


def is_phantom(dataset: Dataset) -> bool:
    """Whether a file's header says that no patient stands behind it.

    Args:
        dataset: a DICOM header, with or without pixels.
    """
    return str(dataset.get("ManufacturerModelName", "")).startswith(MODEL_PREFIX)


def write_slice(path: Path, *, patient: PhantomPatient, phase: str, hu: HUSlice, subject: str) -> None:
    """Write one phase as an uncompressed CT image, explicit VR little endian.

    Args:
        path: file to write.
        patient: whose slice it is.
        phase: `nc`, `art` or `pv`.
        hu: 512 x 512, HU; stored to the nearest HU.
        subject: the pseudonym.
    """
    dataset = _header(patient, phase=phase, subject=subject)
    centre = patient.centre
    offset = _OFFSET[centre.stored]
    low, high = (0, 4095) if centre.stored == "uint16" else (-1024, 3071)
    stored = np.clip(np.rint(hu) - offset, low, high).astype(centre.stored)
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, offset, "HU"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.PixelRepresentation = 16, int(centre.stored == "int16")
    dataset.BitsStored, dataset.HighBit = (12, 11) if centre.stored == "uint16" else (16, 15)
    dataset.WindowWidth, dataset.WindowCenter = 400, 40
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset.save_as(path, enforce_file_format=True)


def _header(patient: PhantomPatient, *, phase: str, subject: str) -> Dataset:
    number = PHASES.index(phase)
    key = f"stic phantom {patient.centre.name} {patient.seed} {patient.label} {patient.index}"
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[key, phase, "instance"])
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # Fixed, so that the same patient gives the same bytes under another version of pydicom.
    dataset.file_meta.ImplementationClassUID = _IMPLEMENTATION_UID
    dataset.file_meta.ImplementationVersionName = "STIC_PHANTOM"

    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[key, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[key, phase, "series"])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[key, "frame"])
    dataset.PositionReferenceIndicator = ""

    dataset.PatientName = f"PHANTOM^{subject}"
    dataset.PatientID = f"PHANTOM-{subject}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "M" if patient.host.male else "F"
    dataset.PatientAge = f"{read_age(str(patient.host.age)):03d}Y"
    dataset.StudyDescription = "PHANTOM liver, three phases"
    dataset.SeriesDescription = _SERIES[phase]
    dataset.ImageComments = "PHANTOM: computed image, no patient"
    dataset.InstitutionName = f"PHANTOM {patient.centre.name}"
    dataset.Manufacturer = "STIC-Federated"
    dataset.ManufacturerModelName = f"{MODEL_PREFIX} {patient.centre.manufacturer}"
    dataset.AccessionNumber, dataset.StudyID, dataset.ReferringPhysicianName = "", "1", ""
    dataset.SeriesNumber, dataset.AcquisitionNumber, dataset.InstanceNumber = number + 2, number + 1, 1

    start = _START + dt.timedelta(minutes=patient.index % 600)
    moment = (start + dt.timedelta(seconds=patient.delays_s[number])).strftime("%H%M%S.%f")
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = _START.strftime(
        "%Y%m%d"
    )
    dataset.StudyTime = start.strftime("%H%M%S.%f")
    dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = moment

    dataset.Modality, dataset.BodyPartExamined = "CT", "ABDOMEN"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientPosition = "HFS"
    dataset.KVP, dataset.ConvolutionKernel = 120, f"PHANTOM {patient.centre.kernel_mm:.1f} mm"
    if phase != "nc":
        dataset.ContrastBolusAgent = "PHANTOM iodine"
    grid = patient.grid
    dataset.PixelSpacing = [grid.spacing_mm, grid.spacing_mm]
    dataset.SliceThickness = patient.centre.thickness_mm
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [round(grid.origin_mm[0], 4), round(grid.origin_mm[1], 4), 0.0]
    dataset.SliceLocation = 0.0
    return dataset
