"""Series, enhanced files, volumes, pictures and masks: the same patient from every layout."""

from __future__ import annotations

import gzip
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import Dataset, dcmread

from stic_client.ingest.dicom import read_slice
from stic_client.ingest.enhanced import read_enhanced
from stic_client.ingest.mask_planes import Mask
from stic_client.ingest.masks import read_mask
from stic_client.ingest.patient import open_phases, prepare_patient
from stic_client.ingest.series import read_series
from stic_client.ingest.source import locate
from stic_client.ingest.volumes import read_nifti
from stic_core.config import ImageConfig
from stic_core.data.ct import resize, window
from stic_core.errors import PatientError
from support.ingest_files import (
    PHASES,
    SIZE,
    SPACING,
    body,
    ct_dataset,
    enhanced_dataset,
    manifest_row,
    real,
    row_of,
    save,
    write_series,
)

HEIGHTS = (-10.0, -5.0, 0.0, 5.0, 10.0)


def _source(path: Path):
    return locate(path.name, subject="A", root=path.parent.resolve())


def _nifti(path: Path, values: np.ndarray, *, z: float = HEIGHTS[0], step: float = 5.0) -> Path:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((SPACING, SPACING, step))
    image.SetOrigin((-SIZE * SPACING / 2, -SIZE * SPACING / 2, z))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=str(path).endswith("nrrd"))
    return path


def _volume(phase: str, *, up: float = 0.0) -> np.ndarray:
    return np.stack([body(phase, z=z - up) for z in HEIGHTS]).astype(np.int16)


# Series


def test_series_is_sorted_by_height(tmp_path: Path) -> None:
    """The order of files is not the order of slices."""
    write_series(tmp_path / "nc", phase="nc")
    (stack,) = read_series(_source(tmp_path / "nc"), phases=("nc",))
    assert stack.z_mm == HEIGHTS
    for index, z in enumerate(HEIGHTS):
        np.testing.assert_array_equal(stack.load(index), np.clip(body("nc", z=z), -1024, 3071))


def test_one_folder_with_three_series(tmp_path: Path) -> None:
    """Phases of one folder are told apart by series and put in the order of time."""
    for phase in ("pv", "nc", "art"):
        write_series(tmp_path / "all", phase=phase)
    stacks = read_series(_source(tmp_path / "all"), phases=PHASES)
    for phase, stack in zip(PHASES, stacks, strict=True):
        np.testing.assert_array_equal(stack.load(2), np.clip(body(phase), -1024, 3071))


@pytest.mark.parametrize("by", ["acquisition", "time"])
def test_one_series_with_three_phases(tmp_path: Path, by: str) -> None:
    """Duplicate heights are resolved by acquisition number, or by time where that is one."""

    def one_series(dataset: Dataset, number: int) -> None:
        dataset.SeriesInstanceUID = "1.2.3"
        if by == "time":
            dataset.AcquisitionNumber = 1

    for phase in PHASES:
        write_series(tmp_path / "all", phase=phase, change=one_series)
    stacks = read_series(_source(tmp_path / "all"), phases=PHASES)
    for phase, stack in zip(PHASES, stacks, strict=True):
        np.testing.assert_array_equal(stack.load(2), np.clip(body(phase), -1024, 3071))


def test_duplicate_heights_are_refused(tmp_path: Path) -> None:
    """Without number and time nobody can tell; with them, two phases are not one."""

    def same(dataset: Dataset, number: int) -> None:
        dataset.SeriesInstanceUID, dataset.AcquisitionNumber = "1.2.3", 1
        del dataset.AcquisitionTime

    for phase in ("nc", "art"):
        write_series(tmp_path / "all", phase=phase, change=same)
    with pytest.raises(PatientError, match="several slices at the same height"):
        read_series(_source(tmp_path / "all"), phases=("nc",))
    for phase in ("nc", "art"):
        write_series(tmp_path / "two", phase=phase)
    with pytest.raises(PatientError) as refused:
        read_series(_source(tmp_path / "two"), phases=("nc",))
    assert "got 2; expected 1" in str(refused.value)


def test_uneven_spacing_is_refused(tmp_path: Path) -> None:
    """A missing slice: SimpleITK would average the spacing silently."""
    write_series(tmp_path / "nc", phase="nc", heights=(-10, -5, 5, 10, 15))
    with pytest.raises(PatientError, match="not evenly spaced"):
        read_series(_source(tmp_path / "nc"), phases=("nc",))


def test_sheared_stack_is_refused(tmp_path: Path) -> None:
    """Axial slices whose positions drift were taken with a tilted gantry."""

    def drift(dataset: Dataset, number: int) -> None:
        position = list(dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [position[0], position[1] + 0.2 * position[2], position[2]]

    write_series(tmp_path / "nc", phase="nc", change=drift)
    with pytest.raises(PatientError, match="sheared"):
        read_series(_source(tmp_path / "nc"), phases=("nc",))


def test_mixed_sizes_are_refused(tmp_path: Path) -> None:
    """Two reconstructions in one series."""

    def coarser(dataset: Dataset, number: int) -> None:
        if number == 3:
            dataset.PixelSpacing = [4.0, 4.0]

    write_series(tmp_path / "nc", phase="nc", change=coarser)
    with pytest.raises(PatientError, match="different sizes"):
        read_series(_source(tmp_path / "nc"), phases=("nc",))


def test_localizer_beside_or_within_the_series_is_passed_over(tmp_path: Path) -> None:
    """A PACS exports the whole study, and some scanners count the localizer to the series."""
    write_series(tmp_path / "nc", phase="nc")
    scout = ct_dataset(
        body(), z=50.0, SeriesInstanceUID="1.2.9", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    save(scout, tmp_path / "nc" / "scout.dcm")
    (tmp_path / "nc" / "README.txt").write_text("export")
    (stack,) = read_series(_source(tmp_path / "nc"), phases=("nc",))
    assert len(stack) == 5
    assert any("ignored" in text for text in stack.warnings)
    scout.SeriesInstanceUID = ct_dataset(body()).SeriesInstanceUID
    save(scout, tmp_path / "nc" / "scout.dcm")
    (stack,) = read_series(_source(tmp_path / "nc"), phases=("nc",))
    assert len(stack) == 5


def test_only_a_localizer_is_refused(tmp_path: Path) -> None:
    """A folder of nothing else says what is in it."""
    save(ct_dataset(body(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "nc" / "a.dcm")
    with pytest.raises(PatientError, match="localizer"):
        read_series(_source(tmp_path / "nc"), phases=("nc",))


def test_volume_without_a_slice_is_refused(tmp_path: Path) -> None:
    """Neither mask nor index nor height: the error says so."""
    for phase in PHASES:
        write_series(tmp_path / phase, phase=phase)
    row = row_of(tmp_path, manifest_row(layout="dicom_series", nc_path="nc", art_path="art", pv_path="pv"))
    with pytest.raises(PatientError, match="nothing says which slice"):
        prepare_patient(row, root=tmp_path, image=ImageConfig())


@pytest.mark.parametrize("choice", [{"slice_index": "3"}, {"slice_z_mm": "5.2"}])
def test_slice_by_index_and_by_height(tmp_path: Path, choice: dict[str, str]) -> None:
    """Both name the fourth slice from the feet."""
    for phase in PHASES:
        write_series(tmp_path / phase, phase=phase)
    paths = {f"{phase}_path": phase for phase in PHASES}
    row = row_of(tmp_path, manifest_row(layout="dicom_series", registered="1", **paths, **choice))
    prepared = prepare_patient(row, root=tmp_path, image=ImageConfig())
    expected = resize(window(np.clip(body("art", z=5.0), -1000, 3071)))
    np.testing.assert_array_equal(prepared.image[0, :, :, 1], expected)


@pytest.mark.parametrize("choice", [{"slice_index": "5"}, {"slice_z_mm": "40"}])
def test_slice_outside_of_the_volume_is_refused(tmp_path: Path, choice: dict[str, str]) -> None:
    """Not the nearest one, silently."""
    write_series(tmp_path / "all", phase="nc")
    for phase in ("art", "pv"):
        write_series(tmp_path / "all", phase=phase)
    paths = {f"{phase}_path": "all" for phase in PHASES}
    row = row_of(tmp_path, manifest_row(layout="dicom_series", registered="1", **paths, **choice))
    with pytest.raises(PatientError, match="outside the volume"):
        prepare_patient(row, root=tmp_path, image=ImageConfig())


# Enhanced


def test_enhanced_ct_takes_slopes_from_functional_groups(tmp_path: Path) -> None:
    """Every frame by its own slope; pydicom's apply_rescale would return raw values."""
    path = save(enhanced_dataset(PHASES), tmp_path / "a.dcm")
    stacks = read_enhanced(_source(path), phases=PHASES)
    for number, (phase, stack) in enumerate(zip(PHASES, stacks, strict=True)):
        assert stack.z_mm == (-5, 0, 5)
        np.testing.assert_allclose(stack.load(1), np.clip(body(phase), -1024, 3000), atol=(number + 1) / 2)
    image = hd.imread(save(enhanced_dataset(), tmp_path / "b.dcm"))
    frames = image.get_frames(apply_modality_transform=True, apply_voi_transform=False)
    (stack,) = read_enhanced(_source(tmp_path / "b.dcm"), phases=("nc",))
    np.testing.assert_array_equal(stack.load(2), frames[2])


def test_enhanced_ct_without_slope_is_refused(tmp_path: Path) -> None:
    """The group is missing in one frame."""
    dataset = enhanced_dataset()
    del dataset.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence
    with pytest.raises(PatientError, match="no slope or intercept"):
        read_enhanced(_source(save(dataset, tmp_path / "a.dcm")), phases=("nc",))


def test_enhanced_patient_is_prepared(tmp_path: Path) -> None:
    """Three phases in one file, the slice by index."""
    save(enhanced_dataset(PHASES), tmp_path / "a.dcm")
    paths = {f"{phase}_path": "a.dcm" for phase in PHASES}
    row = row_of(tmp_path, manifest_row(layout="dicom_enhanced", slice_index="1", registered="1", **paths))
    prepared = prepare_patient(row, root=tmp_path, image=ImageConfig())
    difference = prepared.image[0, :, :, 2].astype(int) - resize(window(body("pv")))
    assert np.abs(difference).max() <= 2


# Volumes


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_volumes_with_a_mask(tmp_path: Path, suffix: str) -> None:
    """The slice is where the mask is largest; 3D, then 2D registration; the crop is on the lesion."""
    for phase in PHASES:
        _nifti(tmp_path / f"{phase}{suffix}", _volume(phase))
    inside = np.zeros((5, SIZE, SIZE), dtype=np.uint8)
    inside[1:4, 44:48, 26:30] = 1
    inside[3, 40:52, 22:34] = 1
    _nifti(tmp_path / f"mask{suffix}", inside)
    paths = {f"{phase}_path": f"{phase}{suffix}" for phase in PHASES}
    row = row_of(tmp_path, manifest_row(layout="nifti", mask_path=f"mask{suffix}", mask_phase="pv", **paths))
    prepared = prepare_patient(row, root=tmp_path, image=ImageConfig(crop_mm=60))
    assert prepared.place_known
    moved = {
        **manifest_row(layout="nifti", mask_path=f"mask{suffix}", mask_phase="pv", registered="1"),
        **paths,
    }
    still = prepare_patient(row_of(tmp_path, moved), root=tmp_path, image=ImageConfig())
    np.testing.assert_array_equal(
        still.image[0, :, :, 0], resize(window(_volume("nc")[3].astype(np.float32)))
    )


def test_volumes_off_the_grid_are_resampled(tmp_path: Path) -> None:
    """A phase whose slices lie between the others' is interpolated where the chosen one lies."""
    for phase in PHASES:
        _nifti(tmp_path / f"{phase}.nii.gz", _volume(phase), z=HEIGHTS[0] - (2.5 if phase == "art" else 0))
    paths = {f"{phase}_path": f"{phase}.nii.gz" for phase in PHASES}
    row = row_of(tmp_path, manifest_row(layout="nifti", slice_z_mm="0", registered="1", **paths))
    prepared = prepare_patient(row, root=tmp_path, image=ImageConfig())
    between = (_volume("art")[2].astype(np.float32) + _volume("art")[3]) / 2
    difference = prepared.image[0, :, :, 1].astype(int) - resize(window(between))
    assert np.abs(difference).max() <= 1


def test_phase_that_does_not_reach_is_refused(tmp_path: Path) -> None:
    """An arterial scan of the upper liver only."""
    for phase in PHASES:
        _nifti(tmp_path / f"{phase}.nii.gz", _volume(phase), z=HEIGHTS[0] + (40 if phase == "art" else 0))
    paths = {f"{phase}_path": f"{phase}.nii.gz" for phase in PHASES}
    row = row_of(tmp_path, manifest_row(layout="nifti", slice_z_mm="0", registered="1", **paths))
    with pytest.raises(PatientError, match="does not cover"):
        prepare_patient(row, root=tmp_path, image=ImageConfig())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_nifti_is_refused(tmp_path: Path, suffix: str) -> None:
    """SimpleITK would fill the rest with zeros."""
    path = _nifti(tmp_path / f"nc{suffix}", _volume("nc"))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(PatientError):
        read_nifti(_source(path))


def test_flipped_bit_in_gzip_is_refused(tmp_path: Path) -> None:
    """The checksum of the archive is looked at."""
    path = _nifti(tmp_path / "nc.nii.gz", _volume("nc"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(PatientError):
        read_nifti(_source(path))


def test_nifti_without_a_place_is_refused(tmp_path: Path) -> None:
    """Neither qform nor sform: left and right are anybody's guess."""
    path = _nifti(tmp_path / "nc.nii", _volume("nc"))
    content = bytearray(path.read_bytes())
    content[252:256] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(PatientError, match="expected a qform or an sform"):
        read_nifti(_source(path))


def test_nifti_in_ras_is_turned(tmp_path: Path) -> None:
    """Most tools write NIfTI in RAS order; the slice comes out as DICOM shows it."""
    image = sitk.ReadImage(str(_nifti(tmp_path / "lps.nii.gz", _volume("nc"))))
    sitk.WriteImage(sitk.DICOMOrient(image, "RAS"), str(tmp_path / "ras.nii.gz"))
    lps, ras = (read_nifti(_source(tmp_path / f"{name}.nii.gz")) for name in ("lps", "ras"))
    np.testing.assert_array_equal(lps.load(3), ras.load(3))
    np.testing.assert_allclose(lps.grid.origin_mm, ras.grid.origin_mm, atol=1e-3)
    assert gzip.decompress((tmp_path / "ras.nii.gz").read_bytes())[:4] == b"\x5c\x01\0\0"


# Pictures


def _grey(phase: str) -> np.ndarray:
    return window(body(phase))


def test_grey_pictures(tmp_path: Path) -> None:
    """Grey values survive to the last bit, also from RGBA as matplotlib writes it."""
    for phase in PHASES:
        picture = Image.fromarray(_grey(phase))
        (picture.convert("RGBA") if phase == "art" else picture).save(tmp_path / f"{phase}.png")
    paths = {f"{phase}_path": f"{phase}.png" for phase in PHASES}
    row = row_of(tmp_path, manifest_row(layout="png_gray", registered="1", **paths))
    prepared = prepare_patient(row, root=tmp_path, image=ImageConfig(crop_mm=50))
    for channel, phase in enumerate(PHASES):
        np.testing.assert_array_equal(prepared.image[0, :, :, channel], resize(_grey(phase)))
    assert not prepared.place_known


def test_rgb_picture(tmp_path: Path) -> None:
    """NC, ART, PV are R, G, B."""
    Image.fromarray(np.stack([_grey(phase) for phase in PHASES], axis=-1)).save(tmp_path / "a.png")
    row = row_of(tmp_path, manifest_row(layout="rgb_png", registered="1", rgb_path="a.png"))
    prepared = prepare_patient(row, root=tmp_path, image=ImageConfig())
    for channel, phase in enumerate(PHASES):
        np.testing.assert_array_equal(prepared.image[0, :, :, channel], resize(_grey(phase)))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "jpeg", "equal channels", "grey", "16 bits"])
def test_unfit_pictures_are_refused(tmp_path: Path, damage: str) -> None:
    """Damage, lossy compression, and an RGB picture that is one phase thrice."""
    path = tmp_path / "a.png"
    picture = Image.fromarray(np.stack([_grey(phase) for phase in PHASES], axis=-1))
    if damage == "equal channels":
        picture = Image.fromarray(np.stack([_grey("nc")] * 3, axis=-1))
    if damage in {"grey", "16 bits"}:
        picture = Image.fromarray(_grey("nc").astype(np.uint8 if damage == "grey" else np.uint16))
    picture.save(path, format="JPEG" if damage == "jpeg" else "PNG")
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-200])
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    row = row_of(tmp_path, manifest_row(layout="rgb_png", registered="1", rgb_path="a.png"))
    with pytest.raises(PatientError):
        prepare_patient(row, root=tmp_path, image=ImageConfig())


@pytest.mark.parametrize(("around", "usable"), [(0, True), (37, True), (255, False)])
def test_what_surrounds_a_picture_is_black(tmp_path: Path, around: int, usable: bool) -> None:
    """An inverted picture is refused; a grey background is another window, and told."""
    for phase in PHASES:
        grey = _grey(phase)
        grey[grey == 0] = around
        Image.fromarray(grey if around < 255 else 255 - _grey(phase)).save(tmp_path / f"{phase}.png")
    paths = {f"{phase}_path": f"{phase}.png" for phase in PHASES}
    row = row_of(tmp_path, manifest_row(layout="png_gray", registered="1", **paths))
    if usable:
        assert len(prepare_patient(row, root=tmp_path, image=ImageConfig()).warnings) == (around > 0)
    else:
        with pytest.raises(PatientError, match="inverted"):
            prepare_patient(row, root=tmp_path, image=ImageConfig())


# Masks


def _inside() -> np.ndarray:
    inside = np.zeros((5, SIZE, SIZE), dtype=np.uint8)
    inside[1:4, 40:52, 22:34] = 1
    return inside


def _same(mask: Mask) -> None:
    assert [plane.z_mm for plane in mask.planes] == [-5, 0, 5]
    for plane in mask.planes:
        np.testing.assert_array_equal(plane.inside, _inside()[2] > 0)
    middle = mask.largest().grid.to_pixels(mask.largest().middle_mm)
    np.testing.assert_allclose(middle, (45.5, 27.5))


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nrrd"])
def test_voxel_masks(tmp_path: Path, name: str) -> None:
    """NIfTI and NRRD say the same; several labels need to be told which."""
    kind = "nrrd" if name.endswith("nrrd") else "nifti"
    _same(read_mask(_source(_nifti(tmp_path / name, _inside())), kind=kind))
    two = _inside()
    two[0, :5, :5] = 2
    path = _nifti(tmp_path / name, two)
    _same(read_mask(_source(path), kind=kind, label="1"))
    for label in ("", "3"):
        with pytest.raises(PatientError, match="label"):
            read_mask(_source(path), kind=kind, label=label)


def test_dicom_seg_as_highdicom_writes_it(tmp_path: Path) -> None:
    """Planes are found by position; an empty plane is left out of the file and does not matter."""
    series = [ct_dataset(body(z=z), z=z) for z in HEIGHTS]
    for dataset in series:
        dataset.FrameOfReferenceUID = "1.2.3.4"
        dataset.StudyID = dataset.AccessionNumber = dataset.StudyDate = dataset.StudyTime = None
        dataset.PatientBirthDate = dataset.PatientSex = dataset.ReferringPhysicianName = None
        dataset.SeriesNumber = dataset.InstanceNumber = 1
        dataset.PositionReferenceIndicator = None
    code = hd.sr.CodedConcept("49755003", "SCT", "Morphologically abnormal structure")
    described = hd.seg.SegmentDescription(
        1,
        "Liver lesion",
        code,
        code,
        hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    segmentation = hd.seg.Segmentation(
        series,
        _inside(),
        hd.seg.SegmentationTypeValues.BINARY,
        [described],
        hd.UID(),
        1,
        hd.UID(),
        1,
        "nobody",
        "none",
        "1",
        "1",
    )
    path = save(segmentation, tmp_path / "seg.dcm")
    for label in ("", "1", "liver lesion"):
        mask = read_mask(_source(path), kind="seg", label=label)
        _same(mask)
        assert not mask.is_liver
    with pytest.raises(PatientError, match="no such segment"):
        read_mask(_source(path), kind="seg", label="2")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 1000])
    with pytest.raises(PatientError):
        read_mask(_source(path), kind="seg")


def test_real_masks_give_the_hu_of_their_readme() -> None:
    """Pixels and mean HU of the liver by plane position; the NRRD stores slices the other way."""
    folder = real("liver-ct-3slice").resolve()
    seg = read_mask(locate("liver_seg.dcm", subject="real", root=folder), kind="seg")
    nrrd = read_mask(locate("liver_seg.nrrd", subject="real", root=folder), kind="nrrd")
    assert seg.is_liver
    facts = {"01.dcm": (35_220, 32.96), "02.dcm": (35_645, 38.42), "03.dcm": (36_233, 40.50)}
    for name, (pixels, mean) in facts.items():
        header, hu = read_slice(locate(name, subject="real", root=folder))
        for mask in (seg, nrrd):
            plane = mask.near(header.z_mm)
            assert plane is not None
            assert plane.inside.sum() == pixels
            assert hu[plane.inside].mean() == pytest.approx(mean, abs=0.005)
            assert 45 <= np.median(hu[plane.inside]) <= 46


def test_real_series_with_its_segmentation(tmp_path: Path) -> None:
    """Three real slices as one series, thrice: stand-ins for phases, and no enhancement to see."""
    folder = real("liver-ct-3slice")
    for number, phase in enumerate(PHASES):
        for name in ("01.dcm", "02.dcm", "03.dcm"):
            dataset = dcmread(folder / name)
            # Shifted by some HU: the same pixels in two phases are refused.
            dataset.RescaleIntercept = float(dataset.RescaleIntercept) + number
            save(dataset, tmp_path / phase / name)
    (tmp_path / "seg.dcm").write_bytes((folder / "liver_seg.dcm").read_bytes())
    paths = {f"{phase}_path": phase for phase in PHASES}
    row = row_of(tmp_path, manifest_row(layout="dicom_series", mask_path="seg.dcm", registered="1", **paths))
    assert len(open_phases(row, root=tmp_path)["pv"]) == 3
    prepared = prepare_patient(row, root=tmp_path, image=ImageConfig())
    assert any("liver gains 2 HU" in text for text in prepared.warnings)
