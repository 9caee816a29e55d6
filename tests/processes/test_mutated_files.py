"""Broken files in the workers that `prepare` uses; `benchmarks/ingest_fuzz.py` is the same by the thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import mutated_files

pytestmark = pytest.mark.processes


def test_mutated_files_never_crash_and_never_lie(tmp_path: Path) -> None:
    """Eight formats, eight ways to break them: no fault of ours, no hang, no lie that could be told."""
    outcomes = mutated_files.run(tmp_path, count=256, seed=2)
    bad = {
        key: count
        for key, count in outcomes.items()
        if key[2].startswith(("CRASH", "SILENT")) or "long" in key[2]
    }
    assert not bad
    assert sum(outcomes.values()) == 256
    assert sum(count for (_, _, outcome), count in outcomes.items() if outcome == "refused") > 120
