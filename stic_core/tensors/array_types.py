"""Each array's shape named once; the tests execute these annotations (jaxtyping and beartype).

No torch: tensors have their names in `stic_core.tensors.torch_types`.

Axes: `n` patients, or a batch of them; phases are always 3, in the order NC, ART, PV;
`h w` rows and columns of an image; `c` channels of a feature map; `k` classes of the task.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Float16, Float32, Float64, Int64, UInt8

HUSlice: TypeAlias = Float32[np.ndarray, "h w"]
"""One axial CT slice in Hounsfield units, row by column."""

GreySlice: TypeAlias = UInt8[np.ndarray, "h w"]
"""One slice after the CT window, 0 to 255."""

Points: TypeAlias = Float64[np.ndarray, "... 2"]
"""Positions in a slice, row before column, in pixels or mm as the user of it says."""

Affine2D: TypeAlias = Float64[np.ndarray, "2 3"]
"""A linear part and a shift, of points (row, col) in mm."""

PhaseImages: TypeAlias = UInt8[np.ndarray, "n h w 3"]
"""Prepared patients as they lie on disk; the last axis is NC, ART, PV (the paper's R, G, B)."""

ClinicalMatrix: TypeAlias = Float32[np.ndarray, "n 20"]
"""The 20 clinical columns of `stic_core.data.clinical.COLUMNS`, 0 or 1."""

PlainFeatures: TypeAlias = Float16[np.ndarray, "n p c g g"]
"""Feature maps on disk, of the plain images."""

AugmentedFeatures: TypeAlias = Float16[np.ndarray, "v m p c g g"]
"""Feature maps on disk, of each augmented view."""

LabelVector: TypeAlias = Int64[np.ndarray, " n"]
"""Class indices in the order of the task's classes."""

ScoreMatrix: TypeAlias = Float[np.ndarray, "n k"]
"""Logits of a model for n patients."""
