"""Arrays from the wire: read as data, whatever the bytes claim."""

from __future__ import annotations

import contextlib
import io
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stic_core.errors import ProtocolError
from stic_core.tensors.npy import read_npy


def _saved(array: npt.NDArray, *, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def _claiming(shape: str, *, descr: str = "<f4", body: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


@given(arrays.arrays(st.sampled_from([np.float32, np.uint8]), st.integers(0, 50)))
def test_what_numpy_saved_is_read_bit_for_bit(array: npt.NDArray) -> None:
    """float32 and bytes of any length, with NaN and infinity as they are, and writable."""
    read = read_npy(_saved(array))
    assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert read.flags.writeable


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    """As an array of objects, and bare: neither runs; unpickled, it would (so the bomb is live)."""
    path = tmp_path / "executed"
    for content in (_saved(np.array([Bomb(path)]), allow_pickle=True), pickle.dumps(Bomb(path))):
        with pytest.raises(ProtocolError) as refused:
            read_npy(content)
        assert refused.value.expected == "a one-dimensional array of float32 or bytes"
    assert not path.exists()
    np.load(io.BytesIO(_saved(np.array([Bomb(path)]), allow_pickle=True)), allow_pickle=True)
    assert path.exists()


@pytest.mark.parametrize("values", [100_000_000_000, 1, 3])
def test_a_length_that_is_not_there_is_refused_before_memory_is_taken(values: int) -> None:
    """8 bytes that claim 400 GB, or any other length than theirs, take no more than they are."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as caught:
            read_npy(_claiming(f"({values},)", body=b"\0" * 8))
        assert (caught.value.got, caught.value.expected) == ("8 bytes", 4 * values)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        *(_saved(np.zeros(2, dtype)) for dtype in ("f8", ">f4", "i8", "c8", "?", "U3", "M8[s]")),
        _saved(np.zeros((2, 2), np.float32)),
        _saved(np.float32(1)),
        _saved(np.zeros(2, [("a", "<f4")])),
        _claiming("(-1,)"),
        _claiming("(2,)", descr="|O", body=b"\0" * 16),
        _claiming("(__import__('os').getpid(),)"),
        b"\x93NUMPY\x02\x00\x00\x00\x00\x00",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x92" + _claiming("(0,)")[1:],
        _claiming("(0,)").replace(b"NUMPY\x01", b"NUMPY\x03"),
        b"",
    ],
)
def test_what_no_message_holds_is_refused(content: bytes) -> None:
    """Other types, axes, structures, negative lengths, code in the header, other versions, nothing."""
    with pytest.raises(ProtocolError) as refused:
        read_npy(content)
    assert refused.value.expected == "a one-dimensional array of float32 or bytes"


@given(st.binary(max_size=300), st.integers(0, 300))
def test_damaged_bytes_are_read_or_refused(noise: bytes, at: int) -> None:
    """Noise written into a saved array gives an array or `ProtocolError`, and nothing else."""
    content = bytearray(_saved(np.arange(20, dtype=np.float32)))
    content[at : at + len(noise)] = noise
    with contextlib.suppress(ProtocolError):
        read_npy(bytes(content))
