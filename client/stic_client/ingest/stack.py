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
from stic_core.data.ct import AS_STORED, Grid, Turn
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
        turn: how the file's own rows and columns lie in a slice; None where its slices are not axial.
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
    turn: Turn | None = AS_STORED
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
