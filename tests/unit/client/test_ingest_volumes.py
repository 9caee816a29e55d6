"""NIfTI and NRRD: what is in the file, where it lies, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from stic_client.ingest.masks import read_mask
from stic_client.ingest.patient import prepare_patient
from stic_client.ingest.source import Source, locate
from stic_client.ingest.volumes import read_nifti, read_volume
from stic_core.config import ImageConfig
from stic_core.data.ct import resize, window
from stic_core.errors import PatientError
from support.ingest_files import PHASES, SIZE, SPACING, body, manifest_row, row_of
from support.volume_files import RAS, write_nifti, write_nrrd

HEIGHTS = (-10.0, -5.0, 0.0, 5.0, 10.0)
STRAIGHT = ((0.0, 0.0, 1.0), (SIZE * SPACING / 2, SIZE * SPACING / 2, -10.0))
"""The same place as `RAS`, as a qform: half a turn about z."""


def _source(path: Path) -> Source:
    return locate(path.name, subject="A", root=path.parent.resolve())


def _volume(phase: str = "nc") -> np.ndarray:
    return np.stack([body(phase, z=z) for z in HEIGHTS]).astype(np.int16)


# Where voxels lie


@pytest.mark.parametrize("way", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_volumes_are_turned_as_itk_turns_them(
    tmp_path: Path, way: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    """However axes are stored, values and places agree with an independent reader's."""
    values = np.random.default_rng(0).integers(-500, 500, (4, 5, 6)).astype(np.int16)
    steps = (0.7, 0.9, 2.5)
    affine = np.zeros((3, 4))
    for axis, (of, flip) in enumerate(zip(way, flips, strict=True)):
        affine[axis, of] = flip * steps[of]
    affine[:, 3] = (10, -20, 30)
    path = write_nifti(tmp_path / "a.nii", values, sform=affine, spacing=steps)
    volume, image = read_volume(_source(path)), sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    np.testing.assert_array_equal(volume.values, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose((*volume.grid.origin_mm[::-1], volume.z_mm[0]), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(
        (*volume.grid.spacing_mm[::-1], volume.z_mm[1] - volume.z_mm[0]), image.GetSpacing(), atol=1e-5
    )


@pytest.mark.parametrize("form", ["sform", "qform", "both", "metres", "left-handed"])
def test_each_way_to_give_a_place_gives_the_same(tmp_path: Path, form: str) -> None:
    """sform, qform, both, and units other than millimetres."""
    how: dict[str, object] = {}
    if form in {"qform", "both", "left-handed"}:
        how = {"qform": STRAIGHT, "sform": RAS if form == "both" else None}
    values = _volume()
    if form == "metres":
        how = {"sform": RAS / 1000, "units": 1}
    if form == "left-handed":
        how |= {"handed": -1.0, "qform": (STRAIGHT[0], (*STRAIGHT[1][:2], 10.0))}
        values = values[::-1]
    stack = read_nifti(_source(write_nifti(tmp_path / "a.nii.gz", values, **how)))
    np.testing.assert_allclose(stack.z_mm, HEIGHTS, atol=1e-4)
    np.testing.assert_allclose(stack.grid.origin_mm, [-SIZE * SPACING / 2] * 2, atol=1e-3)
    np.testing.assert_array_equal(stack.load(3), _volume()[3])


def test_forms_that_turn_the_volume_differently_are_refused(tmp_path: Path) -> None:
    """Left and right would depend on which of them a program reads."""
    mirrored = RAS * np.array([[-1], [1], [1]])
    path = write_nifti(tmp_path / "a.nii", _volume(), sform=mirrored, qform=STRAIGHT)
    with pytest.raises(PatientError, match="sform and qform disagree"):
        read_nifti(_source(path))


def test_forms_that_shift_the_volume_are_warned_of(tmp_path: Path) -> None:
    """The axes are the same, the sform's place is taken; a tenth of a voxel is rounding."""
    away = RAS + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 40.0]])
    stack = read_nifti(_source(write_nifti(tmp_path / "a.nii", _volume(), sform=away, qform=STRAIGHT)))
    assert stack.z_mm[0] == 30
    assert ["sform" in text for text in stack.warnings] == [True]
    near = RAS + np.array([[0, 0, 0, 0.3]] * 3)
    assert not read_nifti(
        _source(write_nifti(tmp_path / "a.nii", _volume(), sform=near, qform=STRAIGHT))
    ).warnings


def test_voxel_sizes_that_the_sform_contradicts_are_warned_of(tmp_path: Path) -> None:
    """A converter that wrote one of them wrong; the sform decides."""
    path = write_nifti(tmp_path / "a.nii", _volume(), spacing=(1, 1, 1))
    stack = read_nifti(_source(path))
    assert stack.grid.spacing_mm == (SPACING, SPACING)
    assert ["pixdim" in text for text in stack.warnings] == [True]


def test_a_skewed_sform_is_called_so(tmp_path: Path) -> None:
    """Slices that drift backwards from one to the next, as converters leave a tilted gantry."""
    skewed = RAS.copy()
    skewed[1, 2] = 1.2
    for qform in (None, STRAIGHT):
        with pytest.raises(PatientError, match="sheared"):
            read_nifti(_source(write_nifti(tmp_path / "a.nii", _volume(), sform=skewed, qform=qform)))


# What voxels hold


@pytest.mark.parametrize("kind", ["i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize(("version", "order"), [(1, "<"), (2, ">")])
def test_every_type_that_can_hold_hu_is_read(tmp_path: Path, kind: str, version: int, order: str) -> None:
    """64-bit integers, which numpy users write, included."""
    path = write_nifti(tmp_path / "a.nii.gz", _volume().astype(kind), version=version, order=order)
    np.testing.assert_array_equal(read_nifti(_source(path)).load(1), _volume()[1])


@pytest.mark.parametrize(("slope", "intercept"), [(0.0, 7.0), (np.nan, 0.0), (np.inf, np.nan), (0.5, -200.0)])
def test_slope_and_intercept(tmp_path: Path, slope: float, intercept: float) -> None:
    """A slope that is 0 or not finite means that there is none."""
    real = slope == 0.5
    stored = ((_volume() + 200) * 2).astype(np.int16) if real else _volume()
    path = write_nifti(tmp_path / "a.nii", stored, slope=slope, intercept=intercept)
    np.testing.assert_array_equal(read_nifti(_source(path)).load(2), _volume()[2])


def test_an_intercept_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """With a slope that is one, every voxel would be no number."""
    with pytest.raises(PatientError, match="no slope or intercept"):
        read_nifti(_source(write_nifti(tmp_path / "a.nii", _volume(), slope=2.0, intercept=np.nan)))


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, -3.4e38])
def test_voxels_without_a_value_are_air_outside_the_patient_only(tmp_path: Path, hole: float) -> None:
    """ITK reads NaN as 0 HU, soft tissue; what surrounds the field of view is air, and said."""
    values = _volume().astype(np.float32)
    rows, cols = np.mgrid[:SIZE, :SIZE]
    outside = (rows - 48) ** 2 + (cols - 48) ** 2 > 47**2
    values[:, outside] = hole
    stack = read_nifti(_source(write_nifti(tmp_path / "a.nii.gz", values)))
    assert (stack.load(2)[outside] == -1000).all()
    np.testing.assert_array_equal(stack.load(2)[~outside], values[2][~outside])
    assert any("without a value" in text for text in stack.warnings)
    values[:, 40:43, 30:33] = hole
    with pytest.raises(PatientError, match="inside the patient have no value"):
        read_nifti(_source(write_nifti(tmp_path / "a.nii.gz", values))).load(2)


def test_empty_outer_slices_do_not_matter_until_one_is_chosen(tmp_path: Path) -> None:
    """Resampled volumes end in slices without a value; the chosen slice must show the patient."""
    for phase in PHASES:
        values = _volume(phase).astype(np.float32)
        values[0], values[4] = np.nan, -1024
        write_nifti(tmp_path / f"{phase}.nii", values)
    paths = {f"{phase}_path": f"{phase}.nii" for phase in PHASES}
    for index, usable in (("2", True), ("0", False), ("4", False)):
        row = row_of(tmp_path, manifest_row(layout="nifti", slice_index=index, **paths))
        if usable:
            assert prepare_patient(row, root=tmp_path, image=ImageConfig()).warnings
        else:
            with pytest.raises(PatientError):
                prepare_patient(row, root=tmp_path, image=ImageConfig())


def test_a_single_slice_with_two_dimensions_is_a_volume(tmp_path: Path) -> None:
    """Some tools drop an axis of length 1."""
    stack = read_nifti(_source(write_nifti(tmp_path / "a.nii", _volume()[2])))
    np.testing.assert_array_equal(stack.load(0), _volume()[2])


@pytest.mark.parametrize(("packed", "name"), [("a.nii.gz", "b.nii"), ("a.nii", "b.nii.gz")])
def test_a_files_name_does_not_say_whether_it_is_packed(tmp_path: Path, packed: str, name: str) -> None:
    """Downloads are renamed without being packed or unpacked."""
    path = write_nifti(tmp_path / packed, _volume()).rename(tmp_path / name)
    np.testing.assert_array_equal(read_nifti(_source(path)).load(2), _volume()[2])


# Masks


@pytest.mark.parametrize("kind", ["i8", "u8", "f8"])
def test_masks_of_64_bits_are_read(tmp_path: Path, kind: str) -> None:
    """numpy's own types; NaN in a mask is outside."""
    inside = np.zeros((5, SIZE, SIZE), dtype=kind)
    inside[1:3, 40:50, 20:30] = 3
    if kind == "f8":
        inside[:, 0] = np.nan
    mask = read_mask(_source(write_nifti(tmp_path / "m.nii", inside)), kind="nifti", label="3")
    assert [plane.z_mm for plane in mask.planes] == [-5, 0]
    assert mask.largest().inside.sum() == 100


SEGMENTS = {
    "Segment0_ID": "Segment_1",
    "Segment0_Name": "liver",
    "Segment0_Layer": "0",
    "Segment0_LabelValue": "1",
    "Segment1_ID": "Segment_2",
    "Segment1_Name": "Lesion A",
    "Segment1_Layer": "1",
    "Segment1_LabelValue": "1",
}


@pytest.mark.parametrize("label", ["lesion a", "Segment_2", "Lesion A"])
def test_segments_of_slicer_in_layers(tmp_path: Path, label: str) -> None:
    """A lesion in the liver overlaps it, so each has a layer of its own, the first of four axes."""
    layers = np.zeros((5, SIZE, SIZE, 2), dtype=np.uint8)
    layers[1:4, 20:60, 20:60, 0] = 1
    layers[2, 40:50, 20:30, 1] = 1
    path = write_nrrd(tmp_path / "a.seg.nrrd", layers, pairs=SEGMENTS)
    mask = read_mask(_source(path), kind="nrrd", label=label)
    assert [(plane.z_mm, plane.inside.sum()) for plane in mask.planes] == [(0, 100)]
    np.testing.assert_allclose(mask.planes[0].grid.to_pixels(mask.planes[0].middle_mm), (44.5, 24.5))
    for wrong in ("", "1", "spleen"):
        with pytest.raises(PatientError, match="segment"):
            read_mask(_source(path), kind="nrrd", label=wrong)


@pytest.mark.parametrize("label", ["Tumour", "2"])
def test_segments_of_slicer_in_one_layer(tmp_path: Path, label: str) -> None:
    """By name or by value, as in any labelled mask."""
    values = np.zeros((5, SIZE, SIZE), dtype=np.int64)
    values[1:4, 20:60, 20:60] = 1
    values[2, 40:50, 20:30] = 2
    pairs = {"Segment0_Name": "liver", "Segment0_LabelValue": "1"}
    pairs |= {"Segment1_Name": "tumour", "Segment1_LabelValue": "2"}
    path = write_nrrd(tmp_path / "a.seg.nrrd", values, pairs=pairs, type_name="long long")
    assert read_mask(_source(path), kind="nrrd", label=label).largest().inside.sum() == 100


# Positions in the file's own pixels


@pytest.mark.parametrize(
    ("turn", "own"),
    [
        (lambda v: v, (40.0, 30.0)),
        (lambda v: v[:, ::-1], (SIZE - 41.0, 30.0)),
        (lambda v: v[::-1, ::-1, ::-1], (SIZE - 41.0, SIZE - 31.0)),
        (lambda v: v.transpose(0, 2, 1), (30.0, 40.0)),
    ],
)
def test_a_lesions_row_and_column_are_the_files_own(tmp_path: Path, turn, own: tuple[float, float]) -> None:
    """However a volume is stored, the same voxel is cropped, and lies in the middle."""
    index = turn(np.arange(5 * SIZE * SIZE).reshape(5, SIZE, SIZE))
    strides = np.array(index.strides) // index.itemsize  # per file axis, in voxels of the standard order
    unit = {SIZE * SIZE: (2, 5.0), SIZE: (1, -SPACING), 1: (0, -SPACING)}
    affine = np.zeros((3, 4))
    affine[:, 3] = RAS[:, 3]
    for axis, stride in enumerate(strides[::-1]):
        at, step = unit[abs(int(stride))]
        affine[at, axis] = step if stride > 0 else -step
        if stride < 0:
            affine[at, 3] += step * (index.shape[2 - axis] - 1)
    for phase in PHASES:
        values = _volume(phase)
        values[2, 39:42, 29:32] = 900 + 10 * PHASES.index(phase)
        write_nifti(tmp_path / f"{phase}.nii", np.ascontiguousarray(turn(values)), sform=affine)
    paths = {f"{phase}_path": f"{phase}.nii" for phase in PHASES}
    where = {"lesion_row": str(own[0]), "lesion_col": str(own[1]), "slice_z_mm": "0", "registered": "1"}
    row = row_of(tmp_path, manifest_row(layout="nifti", **where, **paths))
    prepared = prepare_patient(row, root=tmp_path, image=ImageConfig(crop_mm=15 * SPACING))
    expected = resize(window(_volume()[2, 33:48, 23:38].astype(np.float32)))
    assert prepared.image[0, 112, 112, 0] == 255
    outer = [0, 40, 180, 223]
    np.testing.assert_array_equal(prepared.image[0][outer][:, outer, 0], expected[outer][:, outer])
