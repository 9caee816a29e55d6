"""Transports: sizes, rounding, error feedback, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stic_core.errors import ProtocolError
from stic_core.protocol.compression import decode_update, downlink, encode_update, pack, rounded, unpack
from stic_core.tensors.flat import MEAN, TensorSpec

SPECS = (
    TensorSpec(name="a", shape=(3, 5)),
    TensorSpec(name=f"b{MEAN}", shape=(4,)),
    TensorSpec(name="c", shape=(1,)),
)
SIZE = 20


def _values(seed: int, *, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, SIZE).astype(np.float32)


@pytest.mark.parametrize(("transport", "expected"), [("float32", 80), ("float16", 48), ("int8", 40)])
def test_bytes_of_each_transport(transport: str, expected: int) -> None:
    """4, 2 or 1 byte a value, 4 for a statistic, and with int8 4 more a tensor for its scale."""
    assert pack(_values(0), SPECS, transport=transport).nbytes == expected


@given(st.integers(0, 1000), st.sampled_from([1e-6, 1.0, 1e3]))
def test_float16_rounds_once(seed: int, scale: float) -> None:
    """What arrived travels again unchanged, and statistics are exact."""
    values = _values(seed, scale=scale)
    once = rounded(values, SPECS, transport="float16")
    assert np.array_equal(rounded(once, SPECS, transport="float16"), once)
    assert np.array_equal(once[15:19], values[15:19])
    assert np.allclose(once, values, rtol=1e-3, atol=1e-7)


@given(st.integers(0, 1000))
def test_int8_is_within_half_a_step(seed: int) -> None:
    """A change is off by at most half of 1/127 of the tensor's largest value."""
    values = _values(seed)
    found = unpack(pack(values, SPECS, transport="int8"), SPECS, transport="int8")
    step = np.abs(values[:15]).max() / 127
    assert np.abs(found - values)[:15].max() <= 0.5001 * step


def test_int8_of_zeros_is_zeros() -> None:
    """A tensor that did not change has scale 0, and no division by it."""
    zeros = np.zeros(SIZE, dtype=np.float32)
    assert not unpack(pack(zeros, SPECS, transport="int8"), SPECS, transport="int8").any()


@pytest.mark.parametrize("transport", ["float32", "float16", "int8"])
def test_both_ends_hold_the_same_weights(transport: str) -> None:
    """What a site says that it sent is bit for bit what the server has."""
    base, trained = rounded(_values(1), SPECS, transport=downlink(transport)), _values(2)
    update = encode_update(trained, base=base, specs=SPECS, transport=transport)
    found = decode_update(update.wire, SPECS, transport=transport, base=base)
    assert np.array_equal(found, update.arrived)
    assert (update.residual is None) == (transport != "int8")


def test_error_feedback_carries_the_rounding_on() -> None:
    """The same small change sent 50 times adds up to 50 times the change, which int8 alone would lose."""
    base = np.zeros(SIZE, dtype=np.float32)
    change = np.full(SIZE, 0.003, dtype=np.float32)
    change[0] = 1.0  # makes a step of 1/127 = .0079: .003 alone rounds to 0
    residual, arrived, alone = None, np.zeros(SIZE), np.zeros(SIZE)
    for _ in range(50):
        update = encode_update(change, base=base, specs=SPECS, transport="int8", residual=residual)
        residual = update.residual
        arrived += unpack(update.wire, SPECS, transport="int8")
        alone += rounded(change, SPECS, transport="int8")
    assert alone[1] == 0
    assert np.abs(arrived - 50 * change)[:15].max() < 0.008


def test_a_value_too_large_for_float16_is_refused() -> None:
    """No silent infinity: the tensor is named, and what to do."""
    values = _values(0)
    values[2] = 1e6
    with pytest.raises(ProtocolError, match="a does not fit transport float16; got a value of 1e\\+06"):
        pack(values, SPECS, transport="float16")


@pytest.mark.parametrize("transport", ["float32", "float16", "int8"])
@pytest.mark.parametrize(
    "wire", [np.zeros(3, np.uint8), np.zeros((4, 5), np.float32), np.zeros(20, np.float64)]
)
def test_another_length_or_type_is_refused(transport: str, wire: np.ndarray) -> None:
    """Got and expected are said."""
    with pytest.raises(ProtocolError, match=r"do not fit the plan; got .*expected"):
        unpack(wire, SPECS, transport=transport)


@pytest.mark.parametrize("transport", ["float16", "int8"])
def test_nan_arrives_as_nan(transport: str) -> None:
    """A diverged training is not hidden by the transport: the server's check sees it."""
    values = _values(0)
    values[3] = np.nan
    assert np.isnan(unpack(pack(values, SPECS, transport=transport), SPECS, transport=transport)).any()
