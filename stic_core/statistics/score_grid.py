"""The grid on which every site counts scores: part of the protocol, so that nobody can choose it by patients.

An edge that a question could bring would tell which side of it a patient lies on; asked with
shifted edges forty times, a site would give away every score. So the edges are constants.
"""

from __future__ import annotations

import numpy as np

from stic_core.statistics.auc import Scores

REACH = 8.0
"""asinh of the outermost edge: a score of 1490, since an overconfident network has margins of hundreds."""

SCORE_GRID: Scores = np.sinh(np.linspace(-REACH, REACH, 513))
"""Inner edges: 512 bins and two open ends, even in asinh(score): .03 apart near 0, 3 % apart far out."""

EDGES: tuple[float, ...] = tuple(float(edge) for edge in SCORE_GRID)

CELLS = len(SCORE_GRID) + 1
