"""A phantom centre as a prepared dataset at once: without DICOM files and without registration.

For simulations and benchmarks, which need many cohorts and not the way over a hospital's
files. The phases are aligned by the transform that moved them, so alignment is perfect here;
registration has its own benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np

from stic_core.config import ImageConfig
from stic_core.data.clinical import encode
from stic_core.data.ct import IMAGE_SIZE, PHASES, crop, resize, window
from stic_core.data.dataset import SiteDataset, Split, draw_val, write_dataset
from stic_core.phantom.centres import CENTRES
from stic_core.phantom.cohort import members
from stic_core.phantom.patient import PhantomPatient, draw_patient
from stic_core.phantom.render import render, resample, scene

VAL_SHARE = 0.2
"""As `dataset.val_share` in `site.yaml`."""


def image_of(patient: PhantomPatient, *, crop_mm: float) -> np.ndarray:
    """The three phases on the non-contrast phase's place, cropped, windowed, 224 x 224 x 3."""
    drawn = scene(patient)
    out = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for number, phase in enumerate(PHASES):
        hu = render(patient, phase, drawn=drawn)
        if number:
            hu = resample(hu, patient.transform(phase))
        part = crop(hu, centre=patient.lesion_pixel("nc"), side_mm=crop_mm, spacing_mm=patient.grid.pixel_mm)
        out[..., number] = resize(window(part))
    return out


def write_prepared(
    folder: Path,
    *,
    centre: str,
    seed: int,
    counts: Mapping[str, int],
    crop_mm: float,
    progress: Callable[[int, int], None] | None = None,
) -> SiteDataset:
    """Draw a centre's patients and write them as a prepared dataset.

    Args:
        folder: made where it is missing.
        centre: a name of `CENTRES`.
        seed: equal seeds give equal patients, those of `write_cohort`.
        counts: patients by split; `val` is drawn from `train`, as a hospital's preparation does.
        crop_mm: side of the square around the lesion.
        progress: called with patients done and patients in all.
    """
    chosen = CENTRES[centre]
    cohort = members(centre=chosen, counts=counts)
    patients = [draw_patient(centre=chosen, label=m.label, seed=seed, index=m.index) for m in cohort]
    labels, subjects = [member.label for member in cohort], [member.subject for member in cohort]

    def images() -> Iterator[np.ndarray]:
        for done, patient in enumerate(patients, start=1):
            yield image_of(patient, crop_mm=crop_mm)[None]
            if progress:
                progress(done, len(patients))

    return write_dataset(
        folder,
        images=images(),
        clinical=np.concatenate([encode(patient.clinical) for patient in patients]),
        labels=labels,
        splits=draw_val(
            subjects,
            labels=labels,
            splits=[cast("Split", member.split) for member in cohort],
            seed=0,
            share=VAL_SHARE,
        ),
        subjects=subjects,
        image=ImageConfig(crop_mm=crop_mm),
        phantom=True,
    )
