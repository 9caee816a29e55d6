"""Checkpoints: what is saved is what is resumed from, and a damaged one is passed over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.numpy import save

from stic_core.errors import DataError
from stic_server.federation.checkpoints import load_state, save_state
from stic_server.federation.round import BestModel, FederationState
from stic_server.strategies.algorithm import WEIGHTS

PLAN = "a" * 64


def _state(completed: int) -> FederationState:
    weights = np.full(10, completed, dtype=np.float32)
    arrays = {WEIGHTS: weights, "momentum": weights * 3}
    return FederationState(completed, arrays, BestModel(1, 0.5, weights / 2), 12.5, {"round": completed})


def test_a_state_survives_the_disk(tmp_path: Path) -> None:
    """Every field comes back, each array that the algorithm keeps bit for bit."""
    save_state(_state(3), tmp_path, plan_digest=PLAN)
    loaded, passed_over = load_state(tmp_path, plan_digest=PLAN)
    assert loaded is not None
    assert passed_over == []
    assert (loaded.completed, loaded.seconds, loaded.pending) == (3, 12.5, {"round": 3})
    assert sorted(loaded.arrays) == ["momentum", WEIGHTS]
    for name, array in _state(3).arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
    assert loaded.best is not None
    assert (loaded.best.round, loaded.best.loss) == (1, 0.5)
    np.testing.assert_array_equal(loaded.best.weights, _state(3).weights / 2)


@st.composite
def _damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """What may become of a file: torn, bits turned, something put behind or in between, or another's content."""
    where = draw(st.floats(0, 1, exclude_max=True))
    kind = draw(st.sampled_from(["torn", "turned", "longer", "zeros", "other"]))
    piece = draw(st.binary(min_size=1, max_size=40))
    bit = 1 << draw(st.integers(0, 7))

    def damage(content: bytes) -> bytes:
        at = int(where * len(content))
        return {
            "torn": content[:at],
            "turned": content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :],
            "longer": content[:at] + piece + content[at:],
            # A power cut may leave blocks of zeros where the content was to be.
            "zeros": content[:at] + bytes(len(content) - at) + b"\0" * (at == len(content)),
            "other": piece,
        }[kind]

    return damage


@given(damage=_damages(), half_written=st.binary(max_size=100))
def test_a_damaged_checkpoint_is_passed_over_with_a_word(
    damage: Callable[[bytes], bytes], half_written: bytes
) -> None:
    """However it is torn or tampered with, the one before is used; a file without its name yet is nothing."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_state(_state(1), folder, plan_digest=PLAN)
        path = save_state(_state(2), folder, plan_digest=PLAN)
        content = path.read_bytes()
        assume(damage(content) != content)
        path.write_bytes(damage(content))
        (folder / f".{path.name}.partial").write_bytes(half_written)
        loaded, passed_over = load_state(folder, plan_digest=PLAN)
        assert loaded is not None
        assert loaded.completed == 1
        np.testing.assert_array_equal(loaded.weights, _state(1).weights)
        assert passed_over == [f"{path.name} is damaged: its content does not match the digest in its name"]
        # Two damaged ones: nothing is made up.
        (other,) = (one for one in folder.glob("round-*") if one != path)
        whole = other.read_bytes()
        assume(damage(whole) != whole)
        other.write_bytes(damage(whole))
        assert load_state(folder, plan_digest=PLAN)[0] is None
        # The run goes on: the next checkpoint is found, and what a kill left behind is away.
        save_state(_state(3), folder, plan_digest=PLAN)
        loaded, _ = load_state(folder, plan_digest=PLAN)
        assert loaded is not None
        assert loaded.completed == 3
        assert len(list(folder.iterdir())) == 2


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


def _written(folder: Path, tensors: dict[str, np.ndarray], facts: dict[str, object]) -> None:
    content = save(tensors, metadata={"stic": json.dumps(facts)})
    (folder / f"round-00004-{hashlib.sha256(content).hexdigest()[:16]}.safetensors").write_bytes(content)


FACTS = {"completed": 4, "seconds": 1.0, "plan_digest": PLAN, "best": None, "pending": None}


def test_a_checkpoint_from_before_named_arrays_is_read(tmp_path: Path) -> None:
    """It had the weights of FedAvg and nothing else, and no format."""
    _written(tmp_path, {"weights": np.ones(3, dtype=np.float32)}, FACTS)
    loaded, passed_over = load_state(tmp_path, plan_digest=PLAN)
    assert loaded is not None
    assert passed_over == []
    assert (loaded.completed, list(loaded.arrays), loaded.weights.tolist()) == (4, [WEIGHTS], [1.0] * 3)


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """What it means is not known here, and to begin anew would throw its rounds away."""
    _written(tmp_path, {"something": np.ones(3, dtype=np.float32)}, FACTS | {"format": 3})
    with pytest.raises(DataError) as caught:
        load_state(tmp_path, plan_digest=PLAN)
    assert (caught.value.got, caught.value.expected) == ("format 3", "2 or less")
