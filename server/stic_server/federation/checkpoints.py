"""Checkpoints: all that a run resumes from, saved atomically after each round.

A checkpoint is one safetensors file; its name carries the SHA-256 of its content, so that a
torn or altered file is known as such and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stic_core.errors import DataError
from stic_core.protocol.fields import Digest
from stic_core.system.files import write_atomically
from stic_server.federation.round import BestModel, FederationState
from stic_server.strategies.algorithm import WEIGHTS

_KEPT = "arrays/"
"""Begins the names of what the algorithm keeps."""

_NAME = re.compile(r"^round-(\d{5})-([0-9a-f]{16})\.safetensors$")
_FORMAT = 2
"""Of what a checkpoint holds. Format 1 had one array, the weights of FedAvg, and did not say its format."""

_KEEP = 2  # the newest, and the one before it in case the newest is damaged


def save_state(state: FederationState, folder: Path, *, plan_digest: Digest) -> Path:
    """Save a checkpoint, and remove those that are no longer needed.

    Args:
        folder: the run's `checkpoints/`.
        plan_digest: of the run's plan; another plan cannot resume from it.

    Returns:
        The checkpoint's path.
    """
    tensors = {f"{_KEPT}{name}": array for name, array in state.arrays.items()}
    facts: dict[str, object] = {
        "format": _FORMAT,
        "completed": state.completed,
        "seconds": state.seconds,
        "plan_digest": plan_digest,
        "best": None,
        "pending": state.pending,
    }
    if state.best is not None:
        tensors["best"] = state.best.weights
        facts["best"] = {"round": state.best.round, "loss": state.best.loss}
    content = save(tensors, metadata={"stic": json.dumps(facts)})
    name = f"round-{state.completed:05d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    write_atomically(folder / name, content)
    for old in [*_found(folder)[_KEEP:], *folder.glob(".*.partial")]:  # also what a kill left half written
        old.unlink()
    return folder / name


def load_state(folder: Path, *, plan_digest: Digest) -> tuple[FederationState | None, list[str]]:
    """The newest whole checkpoint of a plan.

    Returns:
        The state, or None where there is none; and a word about each file that was passed over.

    Raises:
        DataError: a newer version wrote it; to begin anew would throw its rounds away.
    """
    passed_over = []
    for path in _found(folder):
        content = path.read_bytes()
        match = _NAME.match(path.name)
        if match is None or not hashlib.sha256(content).hexdigest().startswith(match[2]):
            passed_over.append(f"{path.name} is damaged: its content does not match the digest in its name")
            continue
        try:
            tensors = load(content)
            facts = json.loads(_metadata(content)["stic"])
        except (SafetensorError, KeyError, ValueError):
            passed_over.append(f"{path.name} is not a checkpoint")
            continue
        if facts.get("format", 1) > _FORMAT:
            raise DataError(
                f"{path} was written by a newer version",
                got=f"format {facts['format']}",
                expected=f"{_FORMAT} or less",
                advice="Install that version again, or move the run's folder away to begin a new run.",
            )
        if facts["plan_digest"] != plan_digest:
            passed_over.append(f"{path.name} belongs to another plan")
            continue
        best = facts["best"] and BestModel(weights=tensors["best"], **facts["best"])
        arrays = (
            {WEIGHTS: tensors["weights"]}
            if facts.get("format", 1) == 1
            else {name.removeprefix(_KEPT): tensors[name] for name in tensors if name.startswith(_KEPT)}
        )
        state = FederationState(facts["completed"], arrays, best, facts["seconds"], facts["pending"])
        return state, passed_over
    return None, passed_over


def _found(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.match(path.name)), reverse=True)


def _metadata(content: bytes) -> dict[str, str]:
    """A safetensors file begins with the length of its JSON header, little-endian, in 8 bytes."""
    length = int(np.frombuffer(content[:8], dtype="<u8")[0])
    return json.loads(content[8 : 8 + length])["__metadata__"]
