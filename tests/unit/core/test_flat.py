"""Named arrays as one flat array and back: order, shapes, views and the digest, by hand."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from stic_core.errors import ProtocolError
from stic_core.tensors.flat import TensorSpec, digest, flatten, is_statistic, specify, unflatten

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.array([10, 11], dtype=np.float32),
    "scale": np.array(-1, dtype=np.float32),
}
SPECS = (
    TensorSpec(name="a.weight", shape=(2, 3)),
    TensorSpec(name="a.bias", shape=(2,)),
    TensorSpec(name="scale", shape=()),
)


def test_tensors_travel_in_order_and_come_back() -> None:
    """Row by row, one tensor after the other; what is unflattened equals what was flattened."""
    flat = flatten(TENSORS)
    assert flat.dtype == np.float32
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, 10, 11, -1]
    assert specify(TENSORS) == SPECS
    assert [spec.size for spec in SPECS] == [6, 2, 1]
    back = unflatten(flat, SPECS)
    assert list(back) == list(TENSORS)
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].shape == array.shape


def test_other_types_become_float32() -> None:
    """What travels is float32, whatever a framework computes in."""
    assert flatten({"x": np.array([0.1, 2.0])}).dtype == np.float32


@pytest.mark.parametrize(
    ("flat", "got"),
    [
        (np.zeros(8, np.float32), "float32 of shape (8,)"),
        (np.zeros(10, np.float32), "float32 of shape (10,)"),
    ],
)
def test_another_length_is_refused(flat: np.ndarray, got: str) -> None:
    """One value too few or too many: both lengths are in the error."""
    with pytest.raises(ProtocolError) as caught:
        unflatten(flat, SPECS)
    assert (caught.value.got, caught.value.expected) == (got, "float32 of shape (9,)")


def test_the_digest_is_of_names_shapes_and_values() -> None:
    """SHA-256 over `name:shape;` of each tensor and the little-endian values, spelled out."""
    flat = np.array([1.5, -2], dtype=np.float32)
    one = TensorSpec(name="w", shape=(2,))
    content = b"w:(2,);" + b"\x00\x00\xc0\x3f" + b"\x00\x00\x00\xc0"
    assert digest(flat, [one]) == hashlib.sha256(content).hexdigest()
    others = [
        digest(flat, [TensorSpec(name="v", shape=(2,))]),
        digest(flat, [TensorSpec(name="w", shape=(2, 1))]),
        digest(flat[::-1], [one]),
    ]
    assert len({digest(flat, [one]), *others}) == 4
    assert digest(flat.astype(">f4"), [one]) == digest(flat, [one])


@pytest.mark.parametrize(
    ("name", "statistic"),
    [
        ("bn.running_mean", True),
        ("bn.running_second_moment", True),
        ("bn.weight", False),
        ("running_mean.weight", False),
    ],
)
def test_statistics_are_known_by_the_end_of_their_name(name: str, statistic: bool) -> None:
    """Means and second moments are measured and not trained."""
    assert is_statistic(TensorSpec(name=name, shape=(1,))) is statistic


@pytest.mark.parametrize(
    "spec", [{"name": "", "shape": ()}, {"name": "a b", "shape": ()}, {"name": "a" * 201, "shape": ()},
             {"name": "a", "shape": (0,)}, {"name": "a", "shape": (-1,)}, {"name": "a", "shape": (), "x": 1}]
)  # fmt: skip
def test_a_specification_that_no_plan_holds_is_refused(spec: dict[str, object]) -> None:
    """Names of other letters or too long, axes without values, and unknown keys."""
    with pytest.raises(ValueError, match="TensorSpec"):
        TensorSpec.model_validate(spec)


def test_a_specification_does_not_change() -> None:
    """Names may have 200 letters and an axis one value; what was read is frozen."""
    spec = TensorSpec.model_validate({"name": "a" * 200, "shape": (1,)})
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "b"  # pyright: ignore[reportAttributeAccessIssue]
