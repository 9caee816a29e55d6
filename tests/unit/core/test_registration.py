"""Registration: the truth is found, implausible results are rejected, points go both ways."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from stic_core.data.ct import AIR_HU, Grid
from stic_core.data.registration.slices import Bounds, register, resample
from stic_core.data.registration.volumes import CoarseVolume, register_volume
from stic_core.phantom.centres import CENTRES
from stic_core.phantom.patient import draw_patient
from stic_core.phantom.render import render, scene
from support.ingest_files import body

MIDDLE = np.array([47.5, 47.5])


def _slice(phase: str) -> np.ndarray:
    """As a scanner blurs it: an edge of one pixel has no place to a fraction of a pixel."""
    return ndimage.gaussian_filter(body(phase), 1.2)


def _moved(
    hu: np.ndarray, *, degrees: float, scale: float, shift: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The slice after a similarity, and the matrix from old pixels to new ones."""
    turn = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    matrix = np.column_stack([linear, MIDDLE - linear @ MIDDLE + shift])
    back = np.linalg.inv(linear)
    moved = ndimage.affine_transform(hu, np.column_stack([back, -back @ matrix[:, 2]]), order=1, cval=AIR_HU)
    return moved.astype(np.float32), matrix


@pytest.mark.parametrize("phase", ["art", "pv"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.8, 0.8)])
def test_a_known_similarity_is_found(phase: str, spacing: tuple[float, float]) -> None:
    """Turn, growth and shift under a change of contrast, to a quarter of a pixel."""
    moving, truth = _moved(_slice(phase), degrees=4, scale=1.03, shift=(3.0, -4.0))
    grid = Grid((96, 96), spacing, (-20.0, 15.0))
    result = register(_slice("nc"), moving=moving, fixed_grid=grid, moving_grid=grid)
    assert result.accepted, result.reason
    points = np.array([[44.0, 32.0], [30.0, 60.0], [65.0, 40.0]])
    right = points @ truth[:, :2].T + truth[:, 2]
    np.testing.assert_allclose(grid.to_pixels(result.to_moving(grid.to_mm(points))), right, atol=0.25)
    assert result.scale == pytest.approx(1.03, abs=0.02)
    assert abs(result.rotation_degrees) == pytest.approx(4, abs=0.5)
    assert result.score_after > result.score_before
    # The liver's edges lie on each other again.
    assert np.mean(np.abs(result.moved - _slice(phase))[20:70, 20:70] > 60) < 0.02


def test_points_go_both_ways() -> None:
    """to_fixed(to_moving(p)) == p."""
    moving, _ = _moved(_slice("pv"), degrees=-3, scale=0.98, shift=(2, 2))
    result = register(_slice("nc"), moving=moving)
    points = np.random.default_rng(0).uniform(0, 95, (7, 2))
    np.testing.assert_allclose(result.to_fixed(result.to_moving(points)), points, atol=1e-9)


def test_another_field_of_view_is_brought_over() -> None:
    """Fixed and moving grids may differ in size, spacing and origin."""
    fine = np.asarray(ndimage.zoom(_slice("art"), 2, order=1), dtype=np.float32)
    step = 95 * 2 / 191
    grid, other = Grid((96, 96), (2.0, 2.0), (0, 0)), Grid((192, 192), (step, step), (0, 0))
    result = register(_slice("nc"), moving=fine, fixed_grid=grid, moving_grid=other)
    # The truth is the identity: it is found, or nothing better than it.
    assert result.moved.shape == (96, 96)
    np.testing.assert_allclose(result.matrix, np.eye(2, 3), atol=1.0)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(scale=1.01), "scale"),
        (Bounds(rotation_degrees=1), "rotation"),
        (Bounds(shift_mm=1), "shift"),
    ],
)
def test_implausible_results_are_rejected(bounds: Bounds, words: str) -> None:
    """The unregistered slice is kept, and the reason says what was out of bounds."""
    moving, _ = _moved(_slice("art"), degrees=4, scale=1.05, shift=(3, 4))
    result = register(_slice("nc"), moving=moving, bounds=bounds)
    assert not result.accepted
    assert words in result.reason
    np.testing.assert_array_equal(result.moved, moving)
    np.testing.assert_array_equal(result.matrix, np.eye(2, 3))


@pytest.mark.parametrize("kind", ["constant", "noise", "air"])
def test_slices_that_cannot_be_registered_are_kept(kind: str) -> None:
    """Nothing is raised and nothing made up: a rejected slice, or one that the metric finds no worse."""
    rng = np.random.default_rng(0)
    moving = {
        "constant": np.full((96, 96), 40.0),
        "noise": rng.normal(0, 200, (96, 96)),
        "air": np.full((96, 96), -1000.0),
    }[kind].astype(np.float32)
    result = register(_slice("nc"), moving=moving)
    if kind != "noise":
        assert not result.accepted
        np.testing.assert_array_equal(result.moved, moving)
    assert result.accepted == (result.reason == "")


def test_slices_that_lie_on_each_other_stay() -> None:
    """Slices that lie on each other stay so, and that is no rejection."""
    result = register(_slice("nc"), moving=_slice("nc"))
    assert result.accepted
    np.testing.assert_allclose(result.to_moving([[40.0, 40.0]]), [[40.0, 40.0]], atol=0.05)


def test_it_is_repeatable() -> None:
    """Equal slices give equal bits."""
    moving, _ = _moved(_slice("art"), degrees=2, scale=1.01, shift=(3, 4))
    first, second = (register(_slice("nc"), moving=moving) for _ in range(2))
    np.testing.assert_array_equal(first.matrix, second.matrix)
    np.testing.assert_array_equal(first.moved, second.moved)


def test_resample_on_its_own_grid_is_the_identity() -> None:
    """And a whole pixel's shift moves values unchanged, with air coming in."""
    hu, grid = _slice("nc"), Grid((96, 96), (0.8, 0.8))
    np.testing.assert_array_equal(resample(hu, grid, grid), hu)
    shifted = resample(hu, grid, Grid((96, 96), (0.8, 0.8), (1.6, -0.8)))
    np.testing.assert_allclose(shifted[:-2, 1:], hu[2:, :-1], atol=0.01)
    assert (shifted[-2:] == AIR_HU).all()


@pytest.mark.parametrize("index", [0, 1])
def test_phantoms_are_registered_within_half_a_millimetre(index: int) -> None:
    """In the liver, against the phantom's true motion; both centres, both phases."""
    centre = list(CENTRES.values())[index]
    patient = draw_patient(centre=centre, label="HCC", seed=5, index=index)
    drawn = scene(patient)
    grid = Grid((512, 512), (patient.grid.spacing_mm, patient.grid.spacing_mm))
    points = np.array([patient.lesion_pixel("nc"), (230.0, 160.0), (280.0, 200.0)])
    for phase in ("art", "pv"):
        truth = patient.transform(phase)
        result = register(
            render(patient, "nc", drawn=drawn),
            moving=render(patient, phase, drawn=drawn),
            fixed_grid=grid,
            moving_grid=grid,
        )
        assert result.accepted, result.reason
        right = grid.to_mm(points @ truth[:, :2].T + truth[:, 2])
        assert np.linalg.norm(result.to_moving(grid.to_mm(points)) - right, axis=1).max() < 0.5


def _volume(phase: str, *, up: float, shift: tuple[float, float] = (0, 0)) -> CoarseVolume:
    heights = np.arange(-60, 60, 4.0)
    hu = np.stack([body(phase, z=z - up, shift=shift) for z in heights])
    return CoarseVolume(hu, (3.5, 3.5, 4.0), (0.0, 0.0, -60.0))


def test_rigid_registration_of_volumes() -> None:
    """Breath moves the liver along the patient's axis: the plane is found."""
    result = register_volume(_volume("nc", up=0), moving=_volume("pv", up=11, shift=(1, -2)))
    assert result.accepted, result.reason
    right = [47.5 * 3.5 - 7, 47.5 * 3.5 + 3.5, 11.0]
    np.testing.assert_allclose(result.to_moving([47.5 * 3.5, 47.5 * 3.5, 0.0]), right, atol=2.0)
    np.testing.assert_allclose(result.to_fixed(right), [47.5 * 3.5, 47.5 * 3.5, 0.0], atol=2.0)


def test_registration_of_volumes_is_repeatable() -> None:
    """SimpleITK takes its samples at places drawn by the clock, unless it is given a seed."""
    fixed, moving = _volume("nc", up=0), _volume("pv", up=11, shift=(1, -2))
    first, second = (register_volume(fixed, moving=moving) for _ in range(2))
    np.testing.assert_allclose(first.matrix, second.matrix, rtol=0, atol=1e-9)


def test_volumes_that_cannot_be_registered_are_kept() -> None:
    """Constant volumes: rejected, and patient coordinates stay."""
    flat = CoarseVolume(np.full((20, 30, 30), 40.0, dtype=np.float32), (4, 4, 4), (0, 0, 0))
    result = register_volume(flat, moving=flat)
    assert not result.accepted
    np.testing.assert_array_equal(result.matrix, np.eye(3, 4))
