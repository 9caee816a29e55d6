"""A preparation that may not write as much as it would."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stic_client.preparation.prepare import prepare
from stic_core.system.os_errors import explained
from support.ingest_files import prepare_config, write_hospital


@contextmanager
def _files_of(size: int) -> Iterator[None]:
    """What `ulimit -f` does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_on_files_ends_a_preparation_and_quarantines_nobody(tmp_path: Path) -> None:
    """No patient is at fault; what was prepared is kept, and the next preparation goes on there."""
    write_hospital(tmp_path / "data")
    config = prepare_config(tmp_path)
    with _files_of(1 << 12), pytest.raises(OSError, match="large") as few:
        prepare(config, workers=0)
    with _files_of(1 << 20), pytest.raises(OSError, match="large"):
        prepare(config, workers=0)
    assert "ulimit" in str(explained(few.value))
    assert not list((tmp_path / "prepared").glob(".*"))
    summary = prepare(config, workers=0)
    assert not summary.quarantined
    assert summary.reused == 9
