"""A lesion's mask: which part of it is cropped, on which slice, and what is told of the rest."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from stic_client.ingest.mask_planes import Mask
from stic_client.ingest.masks import read_mask
from stic_client.ingest.patient import PreparedPatient, prepare_patient
from stic_client.ingest.source import locate
from stic_core.config import ImageConfig
from stic_core.errors import PatientError
from support.ingest_files import PHASES, SIZE, SPACING, body, ct_dataset, manifest_row, row_of, save
from support.volume_files import RAS, write_nifti

HEIGHTS = (-10.0, -5.0, 0.0, 5.0, 10.0)


def _mask(folder: Path, inside: np.ndarray, **how: object) -> Mask:
    path = write_nifti(folder / "mask.nii.gz", inside.astype(np.uint8), **how)
    return read_mask(locate(path.name, subject="A", root=folder.resolve()), kind="nifti")


def _prepared(folder: Path, **changes: str) -> PreparedPatient:
    """A patient whose liver has a bright mark at row 45, column 27 of each slice."""
    for phase in PHASES:
        values = np.stack([body(phase, z=z) for z in HEIGHTS]).astype(np.int16)
        values[:, 44:47, 26:29] = 700
        values[:, 90:93, 90:93] = PHASES.index(phase)  # two phases never have the same pixels
        write_nifti(folder / f"{phase}.nii", values)
    paths = {f"{phase}_path": f"{phase}.nii" for phase in PHASES}
    values = {"layout": "nifti", "mask_path": "mask.nii.gz", "registered": "1", **paths, **changes}
    return prepare_patient(
        row_of(folder, manifest_row(**values)), root=folder, image=ImageConfig(crop_mm=15 * SPACING)
    )


def _lesion() -> np.ndarray:
    inside = np.zeros((5, SIZE, SIZE), dtype=bool)
    inside[2, 40:51, 22:33] = True
    return inside


STRAYS = {
    "a voxel on the slice": lambda inside: inside[2].__setitem__((5, 90), True),
    "a voxel on another slice": lambda inside: inside[0].__setitem__((90, 5), True),
    "a smaller lesion on the slice": lambda inside: inside[2].__setitem__(np.s_[60:68, 70:80], True),
    "small parts that add up on another slice": lambda inside: inside[4].__setitem__(
        np.s_[5:95:6, 5:95:6], True
    ),
    "a smaller lesion on another slice": lambda inside: inside[1].__setitem__(np.s_[60:68, 70:80], True),
}


@pytest.mark.parametrize("stray", STRAYS)
def test_the_largest_part_is_cropped_and_the_others_are_told(tmp_path: Path, stray: str) -> None:
    """Slice and centre are those of the largest connected part, whatever else the mask holds."""
    inside = _lesion()
    _mask(tmp_path, inside)
    clean = _prepared(tmp_path)
    assert clean.image[0, 112, 112, 0] == 255
    assert not clean.warnings
    STRAYS[stray](inside)
    _mask(tmp_path, inside)
    strayed = _prepared(tmp_path)
    np.testing.assert_array_equal(strayed.image, clean.image)
    assert [text.startswith("the lesion mask has") for text in strayed.warnings] == [True]


@pytest.mark.parametrize("gap", [np.s_[2, 45], np.s_[2, :, 27], np.s_[2, 45, 27], np.s_[2, 44:46]])
def test_a_lesion_with_a_gap_is_one(tmp_path: Path, gap: tuple) -> None:
    """A row, a column or a voxel that was missed does not halve it."""
    inside = _lesion()
    inside[gap] = False
    mask = _mask(tmp_path, inside)
    assert mask.planes[0].parts == 1
    np.testing.assert_allclose(mask.planes[0].grid.to_pixels(mask.planes[0].middle_mm), (45, 27), atol=1)


def test_a_lesion_with_a_missing_slice_is_one(tmp_path: Path) -> None:
    """Parts on both sides of an empty slice are not two lesions."""
    inside = _lesion()
    inside[0] = inside[2]
    _mask(tmp_path, inside)
    assert not _prepared(tmp_path).warnings


def test_the_part_on_the_named_slice_counts(tmp_path: Path) -> None:
    """Where the manifest names the slice, its own largest part is cropped."""
    inside = _lesion()
    inside[3, 60:62, 70:72] = inside[3, 44:47, 26:29] = True
    _mask(tmp_path, inside)
    assert _prepared(tmp_path, slice_index="3").image[0, 112, 112, 0] == 255


def test_a_mask_on_another_grid_is_placed_in_millimetres(tmp_path: Path) -> None:
    """Coarser, and over a part of the volume."""
    coarse = np.zeros((3, 20, 20), dtype=bool)
    coarse[1, 9:12, 9:12] = True
    affine = np.array(
        [
            [-2 * SPACING, 0, 0, (SIZE / 2 - 7) * SPACING],
            [0, -2 * SPACING, 0, (SIZE / 2 - 25) * SPACING],
            [0, 0, 5.0, -5],
        ]
    )
    _mask(tmp_path, coarse, sform=affine, spacing=(2 * SPACING, 2 * SPACING, 5.0))
    prepared = _prepared(tmp_path)
    assert prepared.image[0, 112, 112, 0] == 255
    assert not prepared.warnings


def test_a_mask_that_lies_elsewhere_is_refused_or_told(tmp_path: Path) -> None:
    """As many voxels as the phase and another place: its header was lost. Beside the image there is no lesion."""
    _mask(tmp_path, _lesion(), sform=RAS + np.array([[0, 0, 0, 20.0], [0] * 4, [0] * 4]))
    assert any("its header places it" in text for text in _prepared(tmp_path).warnings)
    _mask(tmp_path, _lesion(), sform=RAS + np.array([[0, 0, 0, 200.0], [0] * 4, [0] * 4]))
    with pytest.raises(PatientError, match="does not lie on the phase"):
        _prepared(tmp_path)


def test_a_mask_whose_header_was_lost_is_called_so(tmp_path: Path) -> None:
    """numpy's users save masks with a unit matrix: as many voxels, of 1 mm, from 0."""
    _mask(tmp_path, _lesion(), sform=np.eye(4)[:3], spacing=(1, 1, 1))
    with pytest.raises(PatientError) as refused:
        _prepared(tmp_path)
    assert "as many voxels as the phase" in str(refused.value.got)


def test_negative_values_are_no_label(tmp_path: Path) -> None:
    """A background of -1 is not a lesion around the lesion."""
    path = write_nifti(tmp_path / "mask.nii.gz", _lesion().astype(np.int16) * 2 - 1)
    mask = read_mask(locate(path.name, subject="A", root=tmp_path.resolve()), kind="nifti")
    assert mask.largest().inside.sum() == 121


def test_a_lesion_on_air_is_told(tmp_path: Path) -> None:
    """A mask that was mirrored, or belongs to another patient."""
    inside = np.zeros((5, SIZE, SIZE), dtype=bool)
    inside[2, 5:10, 5:10] = True
    _mask(tmp_path, inside)
    assert any("not lie on soft tissue" in text for text in _prepared(tmp_path).warnings)


def test_a_lesion_larger_than_the_crop_is_told(tmp_path: Path) -> None:
    """Its edges are cut off."""
    inside = np.zeros((5, SIZE, SIZE), dtype=bool)
    inside[2, 38:54, 20:34] = True
    _mask(tmp_path, inside)
    assert any("more than the crop" in text for text in _prepared(tmp_path).warnings)


def test_a_lesion_beside_the_non_contrast_slice_is_refused(tmp_path: Path) -> None:
    """A crop around it would be air."""
    inside = np.zeros((5, SIZE, SIZE), dtype=bool)
    inside[2, 44:47, 12:15] = True
    _mask(tmp_path, inside)
    _prepared(tmp_path)
    narrow = np.stack([body("nc", z=z) for z in HEIGHTS]).astype(np.int16)[..., 20:]
    moved = RAS - np.array([[0, 0, 0, 20 * SPACING], [0] * 4, [0] * 4])
    row = manifest_row(
        layout="nifti",
        mask_path="mask.nii.gz",
        mask_phase="pv",
        registered="1",
        **{f"{phase}_path": f"{phase}.nii" for phase in PHASES},
    )
    write_nifti(tmp_path / "nc.nii", narrow, sform=moved)
    with pytest.raises(PatientError, match="does not cover the lesion"):
        prepare_patient(row_of(tmp_path, row), root=tmp_path, image=ImageConfig(crop_mm=40))


@pytest.mark.parametrize("background", [True, False])
def test_the_background_of_a_labelmap_is_no_segment(tmp_path: Path, background: bool) -> None:
    """A LABELMAP may list value 0 as a segment: the one lesion needs no mask_label."""
    series = [ct_dataset(body(z=z), z=z) for z in HEIGHTS]
    for dataset in series:
        dataset.FrameOfReferenceUID = "1.2.3.4"
        dataset.StudyID = dataset.AccessionNumber = dataset.StudyDate = dataset.StudyTime = None
        dataset.PatientBirthDate = dataset.PatientSex = dataset.ReferringPhysicianName = None
        dataset.SeriesNumber = dataset.InstanceNumber = 1
        dataset.PositionReferenceIndicator = None
    code = hd.sr.CodedConcept("49755003", "SCT", "Morphologically abnormal structure")
    manual = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    described = [hd.seg.SegmentDescription(1, "Lesion", code, code, manual)]
    segmentation = hd.seg.Segmentation(
        series,
        _lesion().astype(np.uint8),
        hd.seg.SegmentationTypeValues.LABELMAP,
        described,
        hd.UID(),
        1,
        hd.UID(),
        1,
        "nobody",
        "none",
        "1",
        "1",
    )
    listed = [item for item in segmentation.SegmentSequence if item.SegmentNumber != 0]
    if background:
        nothing = Dataset()
        nothing.SegmentNumber, nothing.SegmentLabel = 0, "Background"
        listed.insert(0, nothing)
    segmentation.SegmentSequence = Sequence(listed)
    path = save(segmentation, tmp_path / "seg.dcm")
    for label in ("", "1", "lesion"):
        mask = read_mask(locate(path.name, subject="A", root=tmp_path.resolve()), kind="seg", label=label)
        assert [(plane.z_mm, plane.inside.sum()) for plane in mask.planes] == [(0, 121)]
    with pytest.raises(PatientError, match="segment"):
        read_mask(locate(path.name, subject="A", root=tmp_path.resolve()), kind="seg", label="Background")


@pytest.mark.parametrize("layout", ["dicom_slices", "dicom_series"])
@pytest.mark.parametrize(("across", "down"), [(1, 1), (-1, -1), (-1, 1)])
def test_row_and_column_count_in_a_dicom_files_own_pixels(
    tmp_path: Path, layout: str, across: int, down: int
) -> None:
    """A patient who lies prone or feet first is stored reversed; a viewer shows those pixels."""
    half = (SIZE - 1) * SPACING
    for phase in PHASES:
        hu = body(phase)
        hu[39:42, 29:32] = 900 + PHASES.index(phase)
        place = [-half / 2 if step > 0 else half / 2 for step in (across, down)]
        dataset = ct_dataset(
            hu[::down, ::across],
            phase=phase,
            ImageOrientationPatient=[across, 0, 0, 0, down, 0],
            ImagePositionPatient=[*place, 0],
        )
        save(dataset, tmp_path / phase / "a.dcm")
    end = "/a.dcm" if layout == "dicom_slices" else ""
    paths = {f"{phase}_path": phase + end for phase in PHASES}
    own = {
        "lesion_row": str(40 if down > 0 else SIZE - 41),
        "lesion_col": str(30 if across > 0 else SIZE - 31),
    }
    row = row_of(tmp_path, manifest_row(layout=layout, registered="1", **own, **paths))
    prepared = prepare_patient(row, root=tmp_path, image=ImageConfig(crop_mm=15 * SPACING))
    assert prepared.image[0, 112, 112].tolist() == [255] * 3
