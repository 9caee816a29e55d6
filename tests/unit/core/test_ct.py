"""Window, resize and crop: the golden values of the specification, and an independent resize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from stic_core.data.ct import Grid, crop, from_grey, resize, window

GOLDEN = {-158: 0, -157: 1, -100: 37, 0: 101, 40: 127, 100: 165, 240: 254, 241: 255}


@pytest.mark.parametrize(("hu", "grey"), GOLDEN.items())
def test_window_golden_values(hu: int, grey: int) -> None:
    """Width 400, level 40, truncated and not rounded."""
    assert window(np.array([[hu]], dtype=np.float32)).item() == grey


def test_window_does_not_depend_on_the_image() -> None:
    """The same HU gives the same grey, whatever else the slice holds; padding is black, metal white."""
    for other in (-3024, 0, 3071, 30_000):
        assert window(np.array([[40, other]], dtype=np.float32))[0, 0] == 127
    assert window(np.array([[-3024, 30_000]], dtype=np.float32)).tolist() == [[0, 255]]


def test_grey_survives_the_way_to_hu_and_back() -> None:
    """window(from_grey(g)) == g for every grey value."""
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(window(from_grey(grey)), grey)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 300), st.integers(2, 300), st.sampled_from([7, 64, 224]), st.integers(0, 2**31 - 1))
def test_resize_is_bilinear_without_antialias(rows: int, cols: int, size: int, seed: int) -> None:
    """Torch's interpolation with align_corners off is the reference, up to rounding of halves."""
    grey = np.random.default_rng(seed).integers(0, 256, (rows, cols), dtype=np.uint8)
    image = torch.from_numpy(grey.astype(np.float32))[None, None]
    expected = functional.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()
    assert np.abs(resize(grey, size=size) - expected).max() <= 0.51


def test_resize_of_the_right_size_changes_nothing() -> None:
    """224 to 224 is the identity, and 448 to 224 takes the mean of four."""
    grey = np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8)
    np.testing.assert_array_equal(resize(grey), grey)
    fine = np.kron(grey, np.ones((2, 2), dtype=np.uint8))
    np.testing.assert_array_equal(resize(fine), grey)


def test_crop_is_square_in_mm_and_air_outside() -> None:
    """A side in mm; beyond the slice there is air."""
    hu = np.arange(100, dtype=np.float32).reshape(10, 10)
    np.testing.assert_array_equal(crop(hu, centre=(4.5, 4.5), side_mm=4, spacing_mm=(1, 2)), hu[3:7, 4:6])
    corner = crop(hu, centre=(-0.5, -0.5), side_mm=4, spacing_mm=(1, 1))
    assert corner[:2].tolist() == [[-1000] * 4] * 2
    np.testing.assert_array_equal(corner[2:, 2:], hu[:2, :2])
    assert (crop(hu, centre=(50, 50), side_mm=4, spacing_mm=(1, 1)) == -1000).all()


def test_crop_middle_is_the_centre() -> None:
    """A single bright pixel at the centre of an odd crop stays in its middle."""
    hu = np.zeros((21, 21), dtype=np.float32)
    hu[13, 6] = 100
    assert crop(hu, centre=(13, 6), side_mm=5, spacing_mm=(1, 1))[2, 2] == 100


def test_grid_goes_to_mm_and_back() -> None:
    """to_pixels(to_mm(p)) == p, and a shrunk grid's pixel is the mean of those it was made of."""
    grid = Grid((10, 12), (0.8, 0.7), (-100.0, 40.0))
    points = np.array([[0.0, 0.0], [3.5, 7.25]])
    np.testing.assert_allclose(grid.to_pixels(grid.to_mm(points)), points)
    np.testing.assert_allclose(grid.shrunk(2).to_mm((0, 0)), grid.to_mm((0.5, 0.5)))
    assert grid.shrunk(4).shape == (2, 3)
