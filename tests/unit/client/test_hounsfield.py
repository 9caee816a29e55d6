"""Which slices are the HU of a patient: every scale that public data come in, and every honest oddity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stic_client.ingest.hounsfield import check_hu, notes_on, with_air
from stic_client.ingest.patient import prepare_patient
from stic_client.ingest.source import Source
from stic_client.ingest.volumes import read_nifti
from stic_core.config import ImageConfig
from stic_core.data.ct import window
from stic_core.errors import PatientError
from support.ingest_files import PHASES, SIZE, body, ct_dataset, manifest_row, row_of, save
from support.volume_files import write_nifti

SOURCE = Source("A", "a.nii", Path("a.nii"), Path())
LIVER = (slice(20, 70), slice(12, 52))


def _filled(hu: np.ndarray, fill: float) -> np.ndarray:
    """A liver box, and one value around it."""
    out = np.full_like(hu, fill)
    out[LIVER] = hu[LIVER]
    return out


def _scaled(low: float, high: float, *, to: float) -> Callable[[np.ndarray], np.ndarray]:
    """Windowed to a range, then stretched from 0 to `to`."""
    return lambda hu: (np.clip(hu, low, high) - low) / (high - low) * to


def _metal(hu: np.ndarray) -> np.ndarray:
    out = hu.copy()
    out[40:44, 40:44] = 30_000
    return out


def _padded_circle(value: float) -> Callable[[np.ndarray], np.ndarray]:
    rows, cols = np.mgrid[:SIZE, :SIZE]
    return lambda hu: np.where((rows - 48) ** 2 + (cols - 48) ** 2 > 47**2, value, hu)


HONEST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda hu: hu,
    "air of exactly -1024": lambda hu: np.maximum(hu, -1024) * (hu > -900) - 1024 * (hu <= -900),
    "no noise": lambda hu: np.round(hu, -2),
    "floats": lambda hu: hu + np.random.default_rng(1).normal(0, 0.3, hu.shape).astype(np.float32),
    "box filled with -1024": lambda hu: _filled(hu, -1024),
    "box filled with -1000": lambda hu: _filled(hu, -1000),
    "box filled with -2048": lambda hu: _filled(hu, -2048),
    "box filled with -32768": lambda hu: _filled(hu, -32768),
    "box filled with 0": lambda hu: _filled(hu, 0),
    "box filled with NaN": lambda hu: _filled(hu, np.nan),
    "small field of view without air": lambda hu: hu[22:66, 14:70],
    "liver alone": lambda hu: hu[30:58, 20:42],
    "liver's organ mask, the rest -1024": lambda hu: np.where((hu > 20) & (hu < 90), hu, -1024),
    "clipped from -200 to 250": lambda hu: np.clip(hu, -200, 250),
    "clipped from -160 to 240": lambda hu: np.clip(hu, -160, 240),
    "clipped from -150 to 250": lambda hu: np.clip(hu, -150, 250),
    "clipped from -1000 to 400": lambda hu: np.clip(hu, -1000, 400),
    "metal": _metal,
    "padding of -3024 around the circle": _padded_circle(-3024),
    "rotated, the corners 0": _padded_circle(0),
    "8 bits stretched over the window": lambda hu: np.rint(_scaled(-160, 240, to=255)(hu)) * 400 / 255 - 160,
}

NOT_HU: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "0 to 255": _scaled(-160, 240, to=255),
    "whole 0 to 255": lambda hu: np.rint(_scaled(-160, 240, to=255)(hu)),
    "a narrow window, 0 to 255": lambda hu: np.rint(_scaled(-75, 175, to=255)(hu)),
    "a wide window, 0 to 255": lambda hu: np.rint(_scaled(-1000, 1000, to=255)(hu)),
    "inverted, 255 to 0": lambda hu: 255 - np.rint(_scaled(-160, 240, to=255)(hu)),
    "0 to 1": _scaled(-160, 240, to=1),
    "0 to 100": _scaled(-160, 240, to=100),
    "0 to 1000": _scaled(-160, 240, to=1000),
    "0 to 4095": _scaled(-1000, 1000, to=4095),
    "0 to 65535": _scaled(-160, 240, to=65535),
    "-1 to 1": lambda hu: _scaled(-160, 240, to=2)(hu) - 1,
    "-127 to 127": lambda hu: np.rint(_scaled(-160, 240, to=254)(hu)) - 127,
    "standardised": lambda hu: (hu - hu.mean()) / hu.std(),
    "thousandths": lambda hu: hu / 1000,
    "windowed, but shifted to HU's level": lambda hu: np.clip(hu, -100, 240),
    "positive HU alone": lambda hu: np.maximum(hu, 0),
    "0 to 255, interpolated below 0": lambda hu: np.where(hu < -90, -12, _scaled(-160, 240, to=255)(hu)),
    "0 to 255 in a circle of -1000": lambda hu: _padded_circle(-1000)(
        np.rint(_scaled(-160, 240, to=255)(hu))
    ),
    "raw values without the intercept": lambda hu: hu + 1024,
    "the intercept twice": lambda hu: hu - 1024,
    "an organ's outline, around it 0": lambda hu: np.where((hu > 20) & (hu < 90), hu, 0),
    "constant": lambda hu: np.full_like(hu, -1024),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", HONEST)
def test_hu_of_a_patient_pass(kind: str, phase: str) -> None:
    """What hospitals and public data have; nothing but fill becomes anything else."""
    hu = HONEST[kind](body(phase))
    seen = check_hu(with_air(hu, source=SOURCE), source=SOURCE)
    inside = seen != -1000
    np.testing.assert_allclose(seen[inside], hu[inside], rtol=1e-6)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", NOT_HU)
def test_other_scales_are_refused(kind: str, phase: str) -> None:
    """Windowed, normalised, shifted, or not a patient."""
    with pytest.raises(PatientError, match="Hounsfield"):
        check_hu(with_air(NOT_HU[kind](body(phase)), source=SOURCE), source=SOURCE)


@pytest.mark.parametrize("fill", [0.0, 40.0])
def test_fill_that_looks_like_tissue_becomes_air(fill: float) -> None:
    """The crop of another site is filled with -1024: both must be black."""
    hu = _filled(body(), fill)
    seen = with_air(hu, source=SOURCE)
    np.testing.assert_array_equal(window(seen), window(_filled(body(), -1024)))
    assert notes_on(np.stack([hu] * 3))


@pytest.mark.parametrize(
    ("low", "high", "told"), [(-200, 250, 0), (-160, 240, 0), (-150, 250, 1), (-155, 200, 2)]
)
def test_a_clip_inside_the_models_window_is_told(low: float, high: float, told: int) -> None:
    """A clip outside of it changes no grey value and is nobody's business."""
    hu = np.clip(body("art"), low, high)
    assert len(notes_on(np.stack([hu] * 3))) == told
    changed = np.abs(window(hu).astype(int) - window(body("art"))).max()
    assert (changed > 1) == (told > 0)


def test_eight_bits_are_refused_unless_they_are_stretched(tmp_path: Path) -> None:
    """Whatever a slice shows: 256 values cannot hold HU."""

    def read(**how: float) -> np.ndarray:
        grey = np.rint(_scaled(-160, 240, to=255)(np.stack([body()] * 3))).astype(np.uint8)
        path = write_nifti(tmp_path / "a.nii", grey, **how)
        return read_nifti(Source("A", "a.nii", path, tmp_path)).load(1)

    with pytest.raises(PatientError) as refused:
        read()
    assert "8 bits" in str(refused.value.got)
    np.testing.assert_allclose(read(slope=400 / 255, intercept=-160), np.clip(body(), -160, 240), atol=0.8)


def test_windowed_dicom_is_refused_too(tmp_path: Path) -> None:
    """One judge for every layout: 16-bit DICOM that somebody wrote grey values into."""
    for phase in PHASES:
        grey = window(body(phase)).astype(np.float32)
        dataset = ct_dataset(grey - 1024, phase=phase, RescaleIntercept=0)
        save(dataset, tmp_path / f"{phase}.dcm")
    row = row_of(tmp_path, manifest_row(**{f"{phase}_path": f"{phase}.dcm" for phase in PHASES}))
    with pytest.raises(PatientError, match="windowed or normalised"):
        prepare_patient(row, root=tmp_path, image=ImageConfig())
