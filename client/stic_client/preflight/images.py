"""The prepared images: blank ones, equal ones, grey levels that stand out, phases that look swapped.

One pass over the images gives a few numbers a patient; the checks are pure in those.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stic_client.preflight.outcome import Check, patients
from stic_core.data.ct import IMAGE_SIZE, PHASES, WINDOW_GAIN, WINDOW_OFFSET_HU
from stic_core.data.dataset import SiteDataset
from stic_core.tensors.array_types import PhaseImages

FLAT = 2.0
"""Standard deviation, grey levels, below which an image shows nothing."""

EMPTY = 0.97
"""Share of pixels at one end of the window above which an image shows nothing."""

SOFT_HU = (0.0, 140.0)
"""Mean over the phases of what counts as soft tissue: above fat, below bone and contrast."""

LEAST_GAIN_HU = 5.0
"""Soft tissue gains more than this to the portal venous phase (phantoms: 20 to 60; a liver over 15)."""

CLEAR_HU = 5.0
"""A fall by more than this says that a later phase is darker."""

ALIKE = 1.0
"""Two patients whose coarse images differ by less than this, grey levels, are the same picture."""

_BLOCKS = 14
_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class ImageFacts:
    """Numbers a patient, in the dataset's order; phases in the order of `PHASES`.

    Args:
        mean, deviation: grey levels, (n, 3).
        low, high: share of pixels at the window's ends, (n, 3).
        soft_hu: mean of soft tissue, HU, (n, 3); NaN where there is hardly any.
        histogram: pixels a grey level by phase, (3, 256), of the whole dataset.
        coarse: means of 16 x 16 pixels, (n, 588).
        digests: of each phase, by patient.
    """

    mean: np.ndarray
    deviation: np.ndarray
    low: np.ndarray
    high: np.ndarray
    soft_hu: np.ndarray
    histogram: np.ndarray
    coarse: np.ndarray
    digests: tuple[tuple[bytes, ...], ...]

    @property
    def blank(self) -> np.ndarray:
        """Phases that show nothing, (n, 3)."""
        return (self.deviation < FLAT) | (self.low > EMPTY) | (self.high > EMPTY)

    @property
    def change_hu(self) -> np.ndarray:
        """Soft tissue in ART and PV against NC, HU, (n, 2)."""
        return self.soft_hu[:, 1:] - self.soft_hu[:, :1]

    @property
    def darker(self) -> np.ndarray:
        """Whether a later phase is darker than NC, (n,)."""
        # NaN compares as false: who has hardly any soft tissue is neither darker nor flat.
        return np.any(self.change_hu < -CLEAR_HU, axis=1)

    @property
    def flat(self) -> np.ndarray:
        """Whether soft tissue takes up no contrast although no phase is darker, (n,)."""
        return ~self.darker & (self.change_hu[:, 1] < LEAST_GAIN_HU)


def measure(images: PhaseImages, *, progress: Callable[[int, int], None] | None = None) -> ImageFacts:
    """Read every image once.

    Args:
        images: (n, 224, 224, 3), such as a dataset's.
        progress: told patients done and patients in all.
    """
    n = len(images)
    mean, deviation, low, high, soft = (np.empty((n, 3)) for _ in range(5))
    histogram = np.zeros((3, 256), dtype=np.int64)
    coarse = np.empty((n, _BLOCKS * _BLOCKS * 3), dtype=np.float32)
    digests: list[tuple[bytes, ...]] = []
    side = IMAGE_SIZE // _BLOCKS
    for start in range(0, n, _BATCH):
        for row in range(start, min(start + _BATCH, n)):
            image = np.asarray(images[row])
            grey = image.astype(np.float32)
            mean[row], deviation[row] = grey.mean((0, 1)), grey.std((0, 1))
            low[row], high[row] = (image == 0).mean((0, 1)), (image == 255).mean((0, 1))
            soft[row] = _soft_tissue(grey)
            coarse[row] = grey.reshape(_BLOCKS, side, _BLOCKS, side, 3).mean((1, 3)).ravel()
            for phase in range(3):
                histogram[phase] += np.bincount(image[..., phase].ravel(), minlength=256)
            digests.append(
                tuple(
                    hashlib.sha256(np.ascontiguousarray(image[..., phase]).data).digest()
                    for phase in range(3)
                )
            )
        if progress:
            progress(min(start + _BATCH, n), n)
    return ImageFacts(mean, deviation, low, high, soft, histogram, coarse, tuple(digests))


def _soft_tissue(grey: np.ndarray) -> np.ndarray:
    """Mean HU a phase where all phases together look like soft tissue.

    Chosen by the mean of the phases: a choice by one of them would favour that one.
    """
    together = grey.mean(-1) / WINDOW_GAIN - WINDOW_OFFSET_HU
    chosen = (together > SOFT_HU[0]) & (together < SOFT_HU[1])
    if chosen.mean() < 0.01:
        return np.full(3, np.nan)
    return grey[chosen].mean(0) / WINDOW_GAIN - WINDOW_OFFSET_HU


def check_blank(facts: ImageFacts) -> Check:
    """Images that show nothing."""
    blank = facts.blank
    rows = tuple(int(row) for row in np.flatnonzero(blank.any(1)))
    if not rows:
        return Check("images", "ok", f"{len(blank)} patients with visible content in each phase")
    which = ", ".join(
        f"{name.upper()} {count}" for name, count in zip(PHASES, blank.sum(0), strict=True) if count
    )
    return Check(
        "images",
        "problem",
        f"blank or constant images: {patients(len(rows))} ({which})",
        "Look at the files in a viewer: a slice outside the body, or values that are not HU, look like this.",
        rows,
    )


def check_duplicates(dataset: SiteDataset, facts: ImageFacts) -> Check | None:
    """The same picture at two patients; across splits it makes the evaluation worthless."""
    equal = _same_pixels(facts)
    alike = _same_picture(facts) - equal
    across = sorted(pair for pair in equal if dataset.splits[pair[0]] != dataset.splits[pair[1]])
    if across:
        return _twins("problem", "the same pixels in two splits", across)
    near = sorted(pair for pair in alike if dataset.splits[pair[0]] != dataset.splits[pair[1]])
    if near:
        return _twins("warning", "nearly the same picture in two splits", near)
    if equal:
        return _twins("warning", "the same pixels for two patients of one split", sorted(equal))
    return None


def _twins(status: str, found: str, pairs: list[tuple[int, int]]) -> Check:
    return Check(
        "duplicates",
        "problem" if status == "problem" else "warning",
        f"{found}: {len(pairs)} pair{'' if len(pairs) == 1 else 's'} of patients",
        "Check whether they are the same person, keep one row for each, and prepare again.",
        tuple(dict.fromkeys(row for pair in pairs for row in pair)),
    )


def _same_pixels(facts: ImageFacts) -> set[tuple[int, int]]:
    """Pairs of patients who share a phase's pixels; blank ones do not count."""
    holders: dict[bytes, list[int]] = defaultdict(list)
    for row, (digests, blank) in enumerate(zip(facts.digests, facts.blank, strict=True)):
        for digest in {d for d, nothing in zip(digests, blank, strict=True) if not nothing}:
            holders[digest].append(row)
    return {
        (first, second)
        for rows in holders.values()
        for n, first in enumerate(rows)
        for second in rows[n + 1 :]
    }


def _same_picture(facts: ImageFacts) -> set[tuple[int, int]]:
    """Pairs whose coarse images hardly differ: another export, or another window, of one study."""
    rows = np.flatnonzero(~facts.blank.any(1))
    coarse = facts.coarse[rows]
    if not len(rows):
        return set()
    squares = (coarse**2).sum(1)
    limit = ALIKE**2 * coarse.shape[1]
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(rows), 512):
        part = slice(start, start + 512)
        distance = squares[part, None] + squares[None] - 2 * coarse[part] @ coarse.T
        for first, second in np.argwhere(distance < limit):
            if first + start < second:
                pairs.add((int(rows[first + start]), int(rows[second])))
    return pairs


def check_grey(facts: ImageFacts) -> Check:
    """Grey levels by phase, and patients far from all others of this site."""
    shown = ", ".join(
        f"{name.upper()} {value:.0f} HU" for name, value in zip(PHASES, _medians(facts.soft_hu), strict=True)
    )
    middle = np.median(facts.mean, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(facts.mean - middle), axis=0), 4.0)
    rows = tuple(int(row) for row in np.flatnonzero((np.abs(facts.mean - middle) / spread > 6).any(1)))
    if rows:
        return Check(
            "grey levels",
            "warning",
            f"much darker or brighter than this site's others: {patients(len(rows))}",
            "Look at them on the page: another body part, table or padding, or values that are not HU.",
            rows,
        )
    return Check("grey levels", "ok", f"soft tissue, median: {shown}")


def _medians(values: np.ndarray) -> list[float]:
    return [
        float(np.median(column[~np.isnan(column)])) if (~np.isnan(column)).any() else 0.0
        for column in values.T
    ]


def check_phases(facts: ImageFacts) -> Check:
    """Does soft tissue take up contrast in the order NC, ART, PV?"""
    change = facts.change_hu
    known = ~np.isnan(change).any(1)
    if not known.any():
        return Check("phases", "skipped", "too little soft tissue to tell the phases apart")
    darker, flat = facts.darker, facts.flat
    middle = np.median(change[known], axis=0)
    if darker.sum() > known.sum() / 2 and darker.sum() > 3:
        return Check(
            "phases",
            "problem",
            f"later phases are darker than NC in {darker.sum()} of {known.sum()} patients",
            "nc_path, art_path and pv_path are probably mixed up: correct the manifest and prepare again.",
            _rows(darker),
        )
    if (darker | flat).any():
        return Check(
            "phases",
            "warning",
            f"phases look swapped or alike: {patients(int((darker | flat).sum()))} "
            f"(soft tissue gains less than {LEAST_GAIN_HU:.0f} HU from NC to PV, or falls)",
            "Compare the times and descriptions of their series, and correct the manifest.",
            _rows(darker | flat),
        )
    if middle[1] < middle[0]:
        return Check(
            "phases",
            "warning",
            f"soft tissue gains {middle[0]:.0f} HU to ART and only {middle[1]:.0f} HU to PV",
            "art_path and pv_path may be swapped: compare the times of the series.",
        )
    return Check(
        "phases", "ok", f"soft tissue gains {middle[0]:.0f} HU to ART and {middle[1]:.0f} HU to PV (median)"
    )


def _rows(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(row) for row in np.flatnonzero(mask))
