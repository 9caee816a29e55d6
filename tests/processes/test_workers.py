"""The worker processes of `prepare`: the same results, and one that dies takes one task along."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from stic_client.preparation import worker_pool
from stic_client.preparation.prepare import prepare
from support.ingest_files import prepare_config, write_hospital
from support.waiting import PATIENCE_S
from support.worker_tasks import obey

pytestmark = pytest.mark.processes


def test_processes_give_the_same_dataset(tmp_path: Path) -> None:
    """Two workers write what one process writes, to the last bit."""
    write_hospital(tmp_path / "data")
    alone = prepare(prepare_config(tmp_path), workers=0).dataset
    other = prepare_config(tmp_path, prepared=tmp_path / "other")
    together = prepare(other, workers=2).dataset
    assert together.fingerprint == alone.fingerprint
    np.testing.assert_array_equal(together.images, alone.images)


def test_a_worker_that_crashes_loses_one_task() -> None:
    """A decoder that crashes takes its own patient along and no other."""
    tasks = ["a", "die", "b", "c", "d"]
    results = dict(worker_pool.run(obey, tasks=tasks, workers=2, limit_s=PATIENCE_S))
    assert results.pop("die") == worker_pool.Lost("crashed")
    assert results == {"a": "A", "b": "B", "c": "C", "d": "D"}


def test_a_worker_that_hangs_is_stopped() -> None:
    """Its task is lost after the limit, and its process is gone."""
    ((task, result),) = worker_pool.run(obey, tasks=["hang"], workers=1, limit_s=0.5)
    assert (task, result) == ("hang", worker_pool.Lost("took too long"))
    assert multiprocessing.active_children() == []
