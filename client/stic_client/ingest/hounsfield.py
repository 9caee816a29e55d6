"""Whether values are the Hounsfield units of a patient's slice; one judge for every layout.

HU have a known scale: air is far below -150, fat near -100, soft tissue from 0 to 200, and noise
spreads them over dozens of values. Images that were windowed or normalised keep none of it.
These rules are heuristics: they look at a slice alone, and at no header.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from stic_client.ingest.source import Source
from stic_core.data.ct import AIR_HU
from stic_core.tensors.array_types import HUSlice

NO_AIR_HU = -150.0
"""A scale whose lowest values pile up above this has no air, so it has been cut or is not HU."""

_IMPOSSIBLE_HU = 1e5
"""No scanner stores this: converters mark voxels without a value so (metal stays below 33,000 HU)."""

# Shares of a slice's pixels, the fill outside the scan excepted. Fat and soft tissue are a third or
# more, denser than any organ only bone and metal, a few percent. Raw values without their intercept
# show air as tissue and tissue as bone; a wrong sign or byte order scatters values over the whole range.
_MIN_SCANNED = 0.005
_TISSUE_HU, _MIN_TISSUE = (NO_AIR_HU, 250.0), 0.03
_BONE_HU, _MAX_BONE = 600.0, 0.15

_MIN_SPAN_HU = 15.0
"""Noise alone spreads the middle 99 percent of a patient's slice over more."""

_FILL_BORDER, _FILL_AREA = 0.2, 0.02
"""Shares of the border's and of the slice's pixels that have exactly one value if it is a fill."""

_WINDOW_HU, _CUT_SHARE = (-158.0, 240.0), 0.001
"""What a cut must leave whole to change no grey value; more of a volume than this has its outermost value."""

_PILED_UP_HU = 1.0
"""The lowest values of a slice of tissue spread over more by noise alone; those of a window pile up."""

_BELOW_FILL_HU = 50.0
"""HU go at least this far below a fill that is not air (fat does); interpolated grey values do not."""


def check_hu(hu: HUSlice, *, source: Source) -> HUSlice:
    """Refuse values that cannot be the Hounsfield units of a patient's slice.

    Args:
        hu: one slice, without voxels that have no value (see `with_air`).

    Raises:
        PatientError: not finite, too little tissue, far above metal, or windowed or normalised.
    """
    if not np.isfinite(hu).all():
        raise source.refuse("values are not finite", advice="Export the series again.")
    inside = _scanned(hu)
    if inside.size < _MIN_SCANNED * hu.size:
        raise source.refuse(
            "values are not Hounsfield units of a patient",
            got=f"one value in {1 - inside.size / hu.size:.1%} of the slice",
            expected="a slice through a patient",
            advice="Check which slice is chosen; export the original CT series.",
        )
    tissue = float(np.mean((inside > _TISSUE_HU[0]) & (inside < _TISSUE_HU[1])))
    bone = float(np.mean(inside > _BONE_HU))
    if tissue < _MIN_TISSUE or bone > _MAX_BONE:
        raise source.refuse(
            "values are not Hounsfield units of a patient",
            got=f"{tissue:.0%} of the pixels from {_TISSUE_HU[0]:.0f} to {_TISSUE_HU[1]:.0f} HU, "
            f"{bone:.0%} above {_BONE_HU:.0f}",
            expected=f"at least {_MIN_TISSUE:.0%} and at most {_MAX_BONE:.0%}",
            advice="Check slope, intercept and pixel representation; export the original CT series.",
        )
    _check_scale(hu, source=source)
    return hu


def check_unless_empty(hu: HUSlice, *, source: Source) -> HUSlice:
    """As `check_hu`, but for a slice of a volume that shows nothing, as outer slices of reformats do.

    Whether it matters is known when a slice is chosen: `prepare_patient` checks those again.
    """
    return hu if shows_nothing(hu) else check_hu(hu, source=source)


def check_type(stored: np.dtype, *, scaled: bool, source: Source) -> None:
    """Refuse 8 bits per voxel: 256 values hold HU only where a slope or an intercept stretches them.

    Raises:
        PatientError: 8 bits that stand for themselves.
    """
    if stored.itemsize == 1 and not scaled:
        raise source.refuse(
            "values are windowed or normalised, not Hounsfield units",
            got="8 bits per voxel without slope and intercept",
            expected=f"HU, with air below {NO_AIR_HU:.0f}",
            advice="Convert the original series without a window; pictures belong to layout png_gray.",
        )


def notes_on(hu: np.ndarray) -> tuple[str, ...]:
    """What to tell of a volume that is used all the same.

    Args:
        hu: slices, rows, columns, as the file holds them; a part of them will do.
    """
    there = np.abs(hu) < _IMPOSSIBLE_HU
    notes = [] if there.all() else ["voxels without a value outside the field of view are read as air"]
    middle = np.where(there[len(hu) // 2], hu[len(hu) // 2], AIR_HU).astype(np.float32)
    fill = fill_of(middle)
    if fill is not None and fill > NO_AIR_HU:
        notes.append(f"what surrounds the image is {fill:.0f} HU throughout, and is read as air")
    values = hu[there]
    if values.size:
        low, high = float(values.min()), float(values.max())
        if _WINDOW_HU[0] < low <= NO_AIR_HU and np.mean(values == low) > _CUT_SHARE:
            notes.append(f"values are cut off at {low:.0f} HU, inside the model's window: air is not black")
        if high < _WINDOW_HU[1] and np.mean(values == high) > _CUT_SHARE:
            notes.append(f"values are cut off at {high:.0f} HU, inside the model's window: bone is not white")
    return tuple(notes)


def shows_nothing(hu: HUSlice) -> bool:
    """Whether a slice is air or fill throughout, as the outer slices of resampled volumes are."""
    return bool((hu <= NO_AIR_HU).all() or hu.min() == hu.max())


def with_air(values: np.ndarray, *, source: Source) -> HUSlice:
    """A slice in which what lies outside the scan is air.

    Outside are voxels without a value (not finite, or beyond any HU), as far as they reach in from the
    border, and a constant around the image, see `without_fill`.

    Args:
        values: one slice as the file holds it.

    Raises:
        PatientError: voxels without a value inside the patient.
    """
    hu = values.astype(np.float32)
    missing = ~(np.abs(hu) < _IMPOSSIBLE_HU)
    if missing.any():
        if not np.array_equal(missing, reaching_border(missing)):
            raise source.refuse(
                "voxels inside the patient have no value",
                got="NaN, infinity, or a number that no CT holds",
                expected="such voxels outside the field of view at most",
                advice="Convert the original series again.",
            )
        hu[missing] = AIR_HU
    return without_fill(hu)


def without_fill(hu: HUSlice) -> HUSlice:
    """The slice with a constant around what was scanned replaced by air, in place.

    Only where HU lie on both sides of it, as in a crop that was filled with 0: grey values whose background
    is 0 stay as they are, for `check_hu` to refuse.
    """
    fill = fill_of(hu)
    if fill is not None and fill > NO_AIR_HU and _is_crop(hu, fill=fill):
        hu[reaching_border(hu == fill)] = AIR_HU
    return hu


def fill_of(hu: HUSlice) -> float | None:
    """The one value that surrounds what was scanned, None where there is none."""
    border = np.concatenate([hu[0], hu[-1], hu[1:-1, 0], hu[1:-1, -1]])
    found, counts = np.unique(border, return_counts=True)
    value, count = found[counts.argmax()], counts.max()
    if count < _FILL_BORDER * border.size or np.mean(hu == value) < _FILL_AREA:
        return None
    return float(value)


def _is_crop(hu: HUSlice, *, fill: float) -> bool:
    """Whether a constant surrounds HU, rather than being the lowest grey value of a window.

    Either values lie well on both sides of it (or as far below as air), or what it surrounds is a rectangle
    that has no such background of its own.
    """
    inside = hu[hu != fill]
    if inside.size == 0:
        return False
    if fill >= inside.max():  # inverted grey values, unless there is air as well
        return bool(inside.min() <= NO_AIR_HU)
    if inside.min() <= fill - _BELOW_FILL_HU:
        return True
    box = _box(hu != fill)
    return hu[box].size < hu.size and float(np.mean(hu[box] == fill)) < _FILL_AREA


def _check_scale(hu: HUSlice, *, source: Source) -> None:
    """Refuse what was windowed or normalised.

    Raises:
        PatientError: values pile up at a lowest or highest one where a CT has none, or span too little.
    """
    inside, fill = _scanned(hu), fill_of(hu)
    low, low_end, high = (float(value) for value in np.percentile(inside, (0.5, 3, 99.5)))
    got = ""
    if high - low < _MIN_SPAN_HU:
        got = f"nearly all values from {low:.3g} to {high:.3g}"
    elif fill is not None and fill > NO_AIR_HU and not _is_crop(hu, fill=fill):
        got = f"{fill:.4g} all around, and no air"
    elif (
        low_end - low < _PILED_UP_HU
        and low > NO_AIR_HU
        and float(inside.min()) > low - _BELOW_FILL_HU
        and not _is_drawn(inside)
    ):
        got = f"values cut off at {low:.4g}, and no air"
    if got:
        raise source.refuse(
            "values are windowed or normalised, not Hounsfield units",
            got=got,
            expected=f"HU, with air below {NO_AIR_HU:.0f}",
            advice="Convert the original series without a window; pictures belong to layout png_gray.",
        )


def _is_drawn(values: np.ndarray) -> bool:
    """Whether a few values make up most of a slice: a computed phantom without noise."""
    _, counts = np.unique(values, return_counts=True)
    return float(np.sort(counts)[-8:].sum()) > 0.8 * values.size


def _scanned(hu: HUSlice) -> np.ndarray:
    """The values that are not fill, flat."""
    fill = fill_of(hu)
    return hu.ravel() if fill is None else hu[hu != fill]


def reaching_border(of: np.ndarray) -> np.ndarray:
    """The parts of a pattern that are connected with the border."""
    parts = np.empty(of.shape, dtype=np.int32)
    ndimage.label(of, output=parts)
    touching = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    return np.isin(parts, touching[touching > 0])


def _box(of: np.ndarray) -> tuple[slice, slice]:
    """The bounding box of a pattern that is not empty."""
    rows, cols = np.flatnonzero(of.any(axis=1)), np.flatnonzero(of.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
