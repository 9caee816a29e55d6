"""Checkpoints: what is saved is what is resumed from, and a damaged one is passed over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stic_server.coordinator import Best, FederationState
from stic_server.state import load_state, save_state

PLAN = "a" * 64


def _state(completed: int) -> FederationState:
    weights = np.full(10, completed, dtype=np.float32)
    return FederationState(completed, weights, Best(1, 0.5, weights / 2), 12.5, {"round": completed})


def test_a_state_survives_the_disk(tmp_path: Path) -> None:
    """Every field comes back, the weights bit for bit."""
    save_state(_state(3), tmp_path, plan_digest=PLAN)
    loaded, passed_over = load_state(tmp_path, plan_digest=PLAN)
    assert loaded is not None
    assert passed_over == []
    assert (loaded.completed, loaded.seconds, loaded.pending) == (3, 12.5, {"round": 3})
    np.testing.assert_array_equal(loaded.weights, _state(3).weights)
    assert loaded.best is not None
    assert (loaded.best.round, loaded.best.loss) == (1, 0.5)
    np.testing.assert_array_equal(loaded.best.weights, _state(3).weights / 2)


@pytest.mark.parametrize("damage", ["torn", "altered", "empty"])
def test_a_damaged_checkpoint_is_passed_over_with_a_word(tmp_path: Path, damage: str) -> None:
    """The digest in the name does not fit: the one before is used."""
    save_state(_state(1), tmp_path, plan_digest=PLAN)
    path = save_state(_state(2), tmp_path, plan_digest=PLAN)
    content = path.read_bytes()
    altered = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes({"torn": content[: len(content) // 2], "altered": altered, "empty": b""}[damage])
    loaded, passed_over = load_state(tmp_path, plan_digest=PLAN)
    assert loaded is not None
    assert loaded.completed == 1
    assert len(passed_over) == 1
    assert path.name in passed_over[0]


def test_another_plan_cannot_resume(tmp_path: Path) -> None:
    """A checkpoint belongs to the plan that made it."""
    save_state(_state(1), tmp_path, plan_digest=PLAN)
    loaded, passed_over = load_state(tmp_path, plan_digest="b" * 64)
    assert loaded is None
    assert "another plan" in passed_over[0]


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    """Disk use does not grow with rounds."""
    for completed in range(1, 20):
        save_state(_state(completed), tmp_path, plan_digest=PLAN)
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_saved_is_nothing_loaded(tmp_path: Path) -> None:
    """No folder, no state, no complaint."""
    assert load_state(tmp_path / "none", plan_digest=PLAN) == (None, [])
