"""Each tensor's shape named once, as `stic_core.tensors.array_types` does for arrays.

Axes: `n` a batch of patients; the axis of 3 is the phase, NC, ART, PV; `c` channels of a
feature map, `g` its rows and columns; `k` classes of the task.
"""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import Float, Int64
from torch import Tensor

Images: TypeAlias = Float[Tensor, "n 3 h w"]
"""A batch at the model's door: 0 to 1, the axis of 3 is the phase."""

Features: TypeAlias = Float[Tensor, "n p c g g"]
"""Backbone feature maps: one a phase (p is 3), or one of all three as colours (p is 1)."""

Embedding: TypeAlias = Float[Tensor, "n 3 128"]
"""What the SpatialExtractor says of each phase."""

Clinical: TypeAlias = Float[Tensor, "n 20"]
Logits: TypeAlias = Float[Tensor, "n k"]
Labels: TypeAlias = Int64[Tensor, " n"]
