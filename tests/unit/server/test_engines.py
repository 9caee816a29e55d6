"""The options of a simulation's engine, and how a seed's work is given to workers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stic_core.errors import UsageError
from stic_server.cli.app import app
from stic_server.simulation.engine import OneProcess
from stic_server.simulation.options import engine_of


def test_this_process_is_the_default_engine() -> None:
    """And Ray's options are not for it."""
    assert isinstance(engine_of("process", ray_address=None, gpus_per_task=0.0), OneProcess)
    for options in (
        {"ray_address": "10.0.0.1:6379", "gpus_per_task": 0.0},
        {"ray_address": None, "gpus_per_task": 0.5},
    ):
        with pytest.raises(UsageError, match="--engine ray"):
            engine_of("process", **options)  # pyright: ignore[reportArgumentType]


def test_an_unknown_engine_is_refused() -> None:
    """With those that there are."""
    with pytest.raises(UsageError, match="process or ray"):
        engine_of("dask", ray_address=None, gpus_per_task=0.0)


@pytest.mark.parametrize("share", [-1.0, 1.5, float("nan"), 1000.0])
def test_a_share_of_a_gpu_is_one_that_ray_takes(share: float) -> None:
    """From 0 to 1, or whole ones; looked at before Ray is imported."""
    with pytest.raises(UsageError, match="--gpus-per-task"):
        engine_of("ray", ray_address=None, gpus_per_task=share)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anything is written."""
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["simulate", "--phantom", "--seeds", "0", "--engine", "ray", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UsageError)
    assert "stic-federated[ray]" in str(result.exception)
    assert not (tmp_path / "out").exists()
