"""Where and how precisely to compute: the device, and bfloat16 where the hardware has it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def pick_device(wanted: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def pick_precision(wanted: Precision, device: torch.device, *, backbone: str) -> torch.dtype:
    """The backbone's arithmetic; the head always computes in float32.

    bfloat16 halves what passes through memory, and doubles the products where the hardware
    multiplies it. The tiny backbone gains nothing from it, so `auto` leaves it alone.

    Args:
        wanted: the site's configuration.
        backbone: its name.
    """
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if backbone == "tiny":
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    # Elsewhere oneDNN emulates bfloat16, and is slower than with float32.
    return torch.bfloat16 if any(_cpu_has(name) for name in ("avx512_bf16", "amx_tile")) else torch.float32


def _cpu_has(instructions: str) -> bool:
    # torch has no public name for it yet; a version without this one computes in float32.
    ask = getattr(torch.cpu, f"_is_{instructions}_supported", None)
    return bool(ask and ask())


def computing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to `dtype`; nothing where that is float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)
