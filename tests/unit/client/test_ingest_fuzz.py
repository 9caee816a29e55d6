"""Broken files: refused, or read right; `benchmarks/ingest_fuzz.py` is the same by the thousand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import mutated_files


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[mutated_files.Case]]:
    """One good patient a format."""
    root = tmp_path_factory.mktemp("fuzz")
    return root, mutated_files.build(root)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=3000), which=st.integers(0, 7), keep=st.integers(0, 400))
def test_any_bytes_are_refused(
    cases: tuple[Path, list[mutated_files.Case]], content: bytes, which: int, keep: int
) -> None:
    """A right beginning with anything behind it is refused by every reader."""
    root, every = cases
    case = every[which % len(every)]
    path = root / case.file
    original = path.read_bytes()
    path.write_bytes(original[:keep] + content)
    nothing = dict.fromkeys(case.phases, np.zeros((1, 1), dtype=np.float32))
    try:
        assert mutated_files.judge(case, root=root, good=nothing, changed=0) == "refused"
    finally:
        path.write_bytes(original)
