"""NumPy's file format read as data: nothing is unpickled, nothing larger than what came is allocated.

`numpy.load` with pickling off runs no code either, but it trusts the header: a few bytes that
claim a trillion values make it ask for the memory first. Only what our messages hold is read:
one axis of float32 or of bytes.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from stic_core.errors import ProtocolError

_HEADER = re.compile(
    rb"\{'descr': '(<f4|\|u1)', 'fortran_order': (?:False|True), 'shape': \((\d{1,12}),\), \} *\n"
)


def read_npy(content: bytes) -> npt.NDArray[np.float32] | npt.NDArray[np.uint8]:
    """The array that `numpy.save` wrote; `read_npy` of it equals it.

    Raises:
        ProtocolError: not such a file, another type, or a length that is not there.
    """
    start = 10  # magic, version, length of the header
    size = int.from_bytes(content[8:start], "little")
    header = _HEADER.fullmatch(content[start : start + size])
    if content[:8] != b"\x93NUMPY\x01\x00" or header is None:
        raise ProtocolError(
            "weights have the wrong dtype or shape",
            got="something other than an array of numbers",
            expected="a one-dimensional array of float32 or bytes",
        )
    dtype, length = np.dtype(header[1].decode()), int(header[2])
    body = len(content) - start - size
    if length * dtype.itemsize != body:
        raise ProtocolError(
            "weights do not have the length that their header states",
            got=f"{body} bytes",
            expected=length * dtype.itemsize,
        )
    # A copy, which may be written to.
    return np.frombuffer(content, dtype=dtype, offset=start + size).copy()
