"""What every test shares."""

from __future__ import annotations

import os

# Two cores: more threads than that slow each other down, and sums stay in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")
