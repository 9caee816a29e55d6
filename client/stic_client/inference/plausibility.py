"""Do a new patient's images show what the model was trained on? The checks of `check`, for single patients.

All of these are heuristics on the prepared image. They doubt, and never refuse: a diseased liver may
enhance little, and another scanner may be brighter. Only an image that shows nothing is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stic_client.preflight.images import CLEAR_HU, LEAST_GAIN_HU, ImageFacts, measure
from stic_core.config import SiteConfig
from stic_core.data.ct import PHASES
from stic_core.data.dataset import load_dataset
from stic_core.errors import DataError
from stic_core.models.saved import ModelDescription
from stic_core.tensors.array_types import PhaseImages

NATIVE_HU = (15.0, 80.0)
"""Mean of soft tissue without contrast; phantoms have 35 to 65, and a fatty liver lowers it."""

MOST_LOSS_HU = 10.0
"""Soft tissue that loses more than this from ART to PV: the two may be swapped (phantoms lose 5 at most)."""

FAR = 6.0
"""Robust standard deviations from this site's training patients beyond which a figure is unlike theirs."""

LEAST_PATIENTS = 10
"""Fewer training patients than this are no range to compare with."""

_LEAST_SPREAD = 4.0
"""Grey levels or HU: a site whose patients are all alike has none the less patients a little different."""

DOUBTS = (
    "registration of ",
    "phases look swapped",
    "the phases were not acquired in one session",
    "the phases state different dates of birth",
    "slices of the phases are ",
    "the mask was drawn in another frame of reference",
    "the mask has as many voxels as its phase",
    "the lesion mask does not lie on soft tissue",
    "a virtual monoenergetic image",
    ", although ImageType does not say so",
    ": its description names ",
)
"""Parts of the warnings of `prepare` that put the images in doubt. The others are notes: different study UIDs, for
example, are what some anonymisers leave of every patient."""

_FIGURES = (
    *(f"brightness of {phase.upper()}" for phase in PHASES),
    "uptake of contrast to ART",
    "uptake of contrast to PV",
)


def is_doubt(warning: str) -> bool:
    """Whether a warning of `prepare` puts a patient's images in doubt."""
    return any(part in warning for part in DOUBTS)


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """This site's training patients, prepared as the model's images are.

    Args:
        middle, spread: of each figure of `_FIGURES`, grey levels or HU.
        learned: digests of training and validation patients' phases.
    """

    middle: np.ndarray
    spread: np.ndarray
    learned: frozenset[tuple[bytes, ...]]


def site_range(
    config: SiteConfig, model: ModelDescription, *, progress: Callable[[int, int], None] | None = None
) -> Range | str:
    """The range of this site's training patients, or why there is none to compare with.

    Args:
        progress: told patients done and patients in all.
    """
    try:
        dataset = load_dataset(config.dataset.prepared)
    except DataError as error:  # it is missing, damaged, or another version's
        return f"this site's {error.what}"
    if dataset.image != model.image:
        return "this site's patients were prepared with another crop_mm than the model's"
    rows = np.sort(np.concatenate([dataset.indices("train"), dataset.indices("val")]))
    if len(rows) < LEAST_PATIENTS:
        return f"this site has fewer than {LEAST_PATIENTS} prepared training patients to compare with"
    facts = measure(dataset.images[rows], progress=progress)
    figures = _figures(facts)
    middle = np.nanmedian(figures, axis=0)
    spread = np.maximum(1.4826 * np.nanmedian(np.abs(figures - middle), axis=0), _LEAST_SPREAD)
    return Range(middle, spread, frozenset(facts.digests))


def _figures(facts: ImageFacts) -> np.ndarray:
    return np.concatenate([facts.mean, facts.change_hu], axis=1)


@dataclass(frozen=True, slots=True)
class Findings:
    """What one patient's images give reason to doubt.

    Args:
        blank: phases that show nothing: there is nothing to score.
        doubts: sentences without a full stop.
        learned: the site's training or validation patients include this one.
    """

    blank: tuple[str, ...]
    doubts: tuple[str, ...]
    learned: bool


def examine(images: PhaseImages, known: Range | str) -> list[Findings]:
    """Each patient by itself: what others in the list show changes nothing.

    Args:
        images: (n, 224, 224, 3), prepared.
        known: from `site_range`.
    """
    facts = measure(images)
    figures = _figures(facts)
    found = []
    for row, (change, blank) in enumerate(zip(facts.change_hu, facts.blank, strict=True)):
        doubts = _of_phases(change, native=float(facts.soft_hu[row, 0]), darker=bool(facts.darker[row]))
        if isinstance(known, Range):
            far = np.abs(figures[row] - known.middle) / known.spread > FAR
            if far.any():
                which = ", ".join(name for name, is_far in zip(_FIGURES, far, strict=True) if is_far)
                doubts.append(f"unlike this site's training patients: {which}")
        found.append(
            Findings(
                blank=tuple(phase.upper() for phase, nothing in zip(PHASES, blank, strict=True) if nothing),
                doubts=tuple(doubts),
                learned=isinstance(known, Range) and facts.digests[row] in known.learned,
            )
        )
    return found


def _of_phases(change: np.ndarray, *, native: float, darker: bool) -> list[str]:
    """What contrast says of the order of the phases."""
    if np.isnan(change).any():
        return ["too little soft tissue to tell whether the phases are right"]
    arterial, portal = (float(value) for value in change)
    measured = f"soft tissue changes by {arterial:+.0f} HU from NC to ART and by {portal:+.0f} HU to PV"
    doubts = []
    if darker:
        doubts.append(f"phases look swapped: {measured}; no phase should fall by {CLEAR_HU:.0f} HU")
    elif portal < LEAST_GAIN_HU:
        doubts.append(
            f"phases look alike, as if without contrast: {measured}; "
            f"at least {LEAST_GAIN_HU:.0f} HU are expected to PV"
        )
    elif arterial - portal > MOST_LOSS_HU:
        doubts.append(f"ART and PV may be swapped: {measured}")
    low, high = NATIVE_HU
    if not low <= native <= high:
        doubts.append(
            f"NC does not look like CT without contrast: soft tissue at {native:.0f} HU, "
            f"expected {low:.0f} to {high:.0f}"
        )
    return doubts
