"""The slices of one phase, from any layout: HU, where each lies, and little else.

Slices are axial, rows run to the patient's left, columns to the back (LPS), and the stack
runs from the feet up. Pixels are decoded when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stic_client.ingest.exam import Exam
from stic_client.ingest.source import Source
from stic_core.data.ct import Grid
from stic_core.tensors.array_types import HUSlice


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """One phase.

    Args:
        source: the file or folder it came from.
        grid: of every slice.
        z_mm: patient z of each slice, ascending.
        load: decodes one slice; raises PatientError.
        has_geometry: False for pictures, whose pixels have no size.
        time_s: when it was acquired, seconds on a scale that a study's phases share; None
            where the files do not say.
        study: digest of what tells this exam from every other, "" where the files do not.
        phantom: its files say that no patient stands behind them.
        exam: whose images they are and how they are described; None where files do not say, as NIfTI.
        warnings: what was passed over.
    """

    source: Source
    grid: Grid
    z_mm: tuple[float, ...]
    load: Callable[[int], HUSlice]
    has_geometry: bool = True
    time_s: float | None = None
    study: str = ""
    phantom: bool = False
    exam: Exam | None = None
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.z_mm)

    @property
    def spacing_z_mm(self) -> float:
        """From slice to slice; 1 where there is one slice."""
        return (self.z_mm[-1] - self.z_mm[0]) / (len(self) - 1) if len(self) > 1 else 1.0

    def nearest(self, z_mm: float) -> int:
        """The slice that lies closest to a height."""
        return int(np.argmin(np.abs(np.array(self.z_mm) - z_mm)))

    def check_one(self) -> None:
        """Refuse a file of several slices where the layout has one a phase.

        Raises:
            PatientError: more than one slice.
        """
        if len(self) != 1:
            raise self.source.refuse(
                "a phase has more than one slice",
                got=len(self),
                expected="1 for this layout",
                advice="Use layout dicom_series, dicom_enhanced or nifti.",
            )


# Shares of a slice's pixels. Fat and soft tissue are a third or more, denser than any organ
# only bone and metal, a few percent. Raw values without their intercept show air as tissue and
# tissue as bone; a wrong sign or byte order scatters values over the whole range.
_TISSUE_HU, _MIN_TISSUE = (-150.0, 250.0), 0.03
_BONE_HU, _MAX_BONE = 600.0, 0.15


def check_hu(hu: HUSlice, *, source: Source, measured: np.ndarray | None = None) -> HUSlice:
    """Refuse values that cannot be the Hounsfield units of a patient's slice.

    Args:
        measured: which pixels are no padding; None where all are measured.

    Raises:
        PatientError: not finite, too little tissue, or far above metal.
    """
    if not np.isfinite(hu).all():
        raise source.refuse("values are not finite", advice="Export the series again.")
    tissue = float(np.mean((hu > _TISSUE_HU[0]) & (hu < _TISSUE_HU[1])))
    bone = float(np.mean((hu if measured is None or not measured.any() else hu[measured]) > _BONE_HU))
    if tissue < _MIN_TISSUE or bone > _MAX_BONE:
        raise source.refuse(
            "values are not Hounsfield units of a patient",
            got=f"{tissue:.0%} of the pixels from {_TISSUE_HU[0]:.0f} to {_TISSUE_HU[1]:.0f} HU, "
            f"{bone:.0%} above {_BONE_HU:.0f}",
            expected=f"at least {_MIN_TISSUE:.0%} and at most {_MAX_BONE:.0%}",
            advice="Check slope, intercept and pixel representation; export the original CT series.",
        )
    return hu
