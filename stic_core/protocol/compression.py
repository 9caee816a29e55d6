"""How weights travel: as float32, as float16, or as what training changed in 8 bits a value.

`float32` is the flat array itself. The other two are bytes, a tensor after the other: batch-norm
statistics stay float32 (a second moment can be larger than float16 holds), the rest is float16,
or a float32 scale and one int8 a value. Towards a site goes the global model; back comes what
training changed, since a change is small and rounds to less. With int8 the rounding error stays
at the site and is added to its next change (Seide et al. 2014, error feedback). NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stic_core.config import Transport
from stic_core.errors import ProtocolError
from stic_core.tensors.flat import FlatArray, TensorSpec, is_statistic, unflatten

WireArray: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
"""What a message carries: float32 values, or bytes."""

_STEPS = 127  # of int8, to each side of 0


def downlink(transport: Transport) -> Transport:
    """How the global model goes to the sites: int8 is for changes alone."""
    return "float16" if transport == "int8" else transport


def pack(flat: FlatArray, specs: Sequence[TensorSpec], *, transport: Transport) -> WireArray:
    """Values as they travel.

    Raises:
        ProtocolError: a value is larger than float16 holds.
    """
    if transport == "float32":
        return flat
    parts = []
    for spec, values in zip(specs, unflatten(flat, specs).values(), strict=True):
        if is_statistic(spec):
            parts.append(values.astype("<f4").tobytes())
        elif transport == "float16":
            parts.append(_to_float16(values, name=spec.name))
        else:
            parts.append(_to_int8(values))
    return np.frombuffer(b"".join(parts), dtype=np.uint8)


def unpack(wire: WireArray, specs: Sequence[TensorSpec], *, transport: Transport) -> FlatArray:
    """The values of what travelled; of `pack`'s output, rounded as the transport rounds.

    Raises:
        ProtocolError: another type or length than the transport gives.
    """
    flat = transport == "float32"
    kind = np.dtype(np.float32 if flat else np.uint8)
    expected = sum(spec.size if flat else _size(spec, transport=transport) for spec in specs)
    if wire.dtype != kind or wire.shape != (expected,):
        raise ProtocolError(
            "the weights do not fit the plan",
            got=f"{wire.dtype} of shape {wire.shape}",
            expected=f"{kind} of shape ({expected},) for transport {transport}",
        )
    if flat:
        return wire
    content, start, parts = wire.tobytes(), 0, []
    for spec in specs:
        end = start + _size(spec, transport=transport)
        parts.append(_values(content[start:end], spec, transport=transport))
        start = end
    return np.concatenate(parts)


def rounded(flat: FlatArray, specs: Sequence[TensorSpec], *, transport: Transport) -> FlatArray:
    """Values as they arrive: what both ends hold when they speak of the same model."""
    return unpack(pack(flat, specs, transport=transport), specs, transport=transport)


@dataclass(frozen=True, slots=True)
class EncodedUpdate:
    """What a site sends of a round.

    Args:
        wire: what travels.
        arrived: the weights that the server will have from it.
        residual: the rounding error, to be added to the next change; None where none is carried on.
    """

    wire: WireArray
    arrived: FlatArray
    residual: FlatArray | None


def encode_update(
    trained: FlatArray,
    *,
    base: FlatArray,
    specs: Sequence[TensorSpec],
    transport: Transport,
    residual: FlatArray | None = None,
) -> EncodedUpdate:
    """A site's way back: what training changed, with the rounding error of the rounds before.

    Args:
        trained: after training.
        base: the global model that training began with.
        residual: of the update before, None for the first.

    Raises:
        ProtocolError: a change is larger than float16 holds.
    """
    if transport == "float32":
        return EncodedUpdate(trained, trained, None)
    change = trained - base
    if residual is not None:
        change = change + residual
    wire = pack(change, specs, transport=transport)
    arrived = unpack(wire, specs, transport=transport)
    return EncodedUpdate(wire, base + arrived, change - arrived if transport == "int8" else None)


def decode_update(
    wire: WireArray, specs: Sequence[TensorSpec], *, transport: Transport, base: FlatArray
) -> FlatArray:
    """The server's end of `encode_update`: the weights that a site trained.

    Raises:
        ProtocolError: another type or length than the transport gives.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is refused by name
        arrived = unpack(wire, specs, transport=transport)
        return arrived if transport == "float32" else base + arrived


def wire_bytes(specs: Sequence[TensorSpec], *, transport: Transport) -> int:
    """Of weights as they travel, beside the message's own text."""
    return sum(
        4 * spec.size if transport == "float32" else _size(spec, transport=transport) for spec in specs
    )


def _size(spec: TensorSpec, *, transport: Transport) -> int:
    if is_statistic(spec):
        return 4 * spec.size
    return 2 * spec.size if transport == "float16" else 4 + spec.size


def _to_float16(values: npt.NDArray[np.float32], *, name: str) -> bytes:
    most = np.finfo(np.float16).max
    if np.abs(values).max(initial=0.0) > most:
        raise ProtocolError(
            f"{name} does not fit transport float16",
            got=f"a value of {np.abs(values).max():.3g}",
            expected=f"at most {most:.0f}",
            advice="Use transport: float32.",
        )
    return values.astype("<f2").tobytes()


def _to_int8(values: npt.NDArray[np.float32]) -> bytes:
    scale = np.float32(np.abs(values).max(initial=0.0) / _STEPS)
    # NaN becomes a scale of NaN, which the server refuses as it refuses NaN.
    steps = np.zeros(values.size) if not scale > 0 else np.rint(values.ravel() / scale)
    return np.array(scale, dtype="<f4").tobytes() + steps.astype(np.int8).tobytes()


def _values(content: bytes, spec: TensorSpec, *, transport: Transport) -> FlatArray:
    if is_statistic(spec):
        return np.frombuffer(content, dtype="<f4").astype(np.float32)
    if transport == "float16":
        return np.frombuffer(content, dtype="<f2").astype(np.float32)
    scale = np.frombuffer(content[:4], dtype="<f4")[0]
    return scale * np.frombuffer(content[4:], dtype=np.int8).astype(np.float32)
