"""From the command line's words to a study; nothing heavy is imported before they are right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from stic_core.config import FederationConfig, ImageConfig, ModelConfig, TrainingConfig
from stic_core.errors import UsageError
from stic_server.demo import CROP_MM, VIEWS
from stic_server.simulation.engine import Engine, OneProcess
from stic_server.simulation.settings import SimulationConfig

SPLITS = ("centre", "dirichlet")
ENGINES = ("process", "ray")


def demo_federation() -> FederationConfig:
    """The demo's model and training, which phantoms are simulated with where nothing else is said."""
    return FederationConfig(
        name="simulation",
        image=ImageConfig(crop_mm=CROP_MM),
        model=ModelConfig(backbone="tiny"),
        training=TrainingConfig(views=VIEWS),
    )


def study_of(
    *,
    seeds: str,
    split: str,
    federation: FederationConfig | None,
    prepared: Sequence[Path] = (),
    phantom: bool = False,
    full: bool = False,
    sites: int = 0,
    alpha: float = 0.5,
    cohorts: Path | None = None,
) -> SimulationConfig:
    """Check the words and put them together.

    Args:
        seeds: numbers with commas or blanks between, or a range such as 0-4.
        split: one of `SPLITS`.
        federation: from a file; None is the demo's, for phantoms alone.

    Raises:
        UsageError: a word that is none, or words that do not go together.
    """
    if phantom == bool(prepared):
        raise UsageError(
            "a simulation needs one source of patients",
            got="both --phantom and --prepared" if phantom else "nothing",
            expected="--phantom or --prepared",
        )
    if split not in SPLITS:
        raise UsageError("--split", got=repr(split), expected=" or ".join(SPLITS))
    if federation is None and not phantom:
        raise UsageError("prepared data need a federation.yaml", advice="Give one with --config.")
    return SimulationConfig(
        federation=federation or demo_federation(),
        seeds=parse_seeds(seeds),
        prepared=tuple(prepared),
        full=full,
        split=cast("Literal['centre', 'dirichlet']", split),
        sites=sites,
        alpha=alpha,
        cohorts=cohorts,
    )


def engine_of(name: str, *, ray_address: str | None, gpus_per_task: float) -> Engine:
    """The engine of a name.

    Raises:
        UsageError: there is none of that name, the others' options are not for it, or Ray is not installed.
    """
    if name not in ENGINES:
        raise UsageError("--engine", got=repr(name), expected=" or ".join(ENGINES))
    if name == "ray":
        from stic_server.simulation.ray_engine import RayEngine

        return RayEngine(address=ray_address, gpus_per_task=gpus_per_task)
    if ray_address is not None or gpus_per_task:
        raise UsageError(
            "--ray-address and --gpus-per-task",
            advice="They go with --engine ray only; this process uses any GPU.",
        )
    return OneProcess()


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds as they are written.

    Raises:
        UsageError: something else than numbers.

    Example:
        >>> parse_seeds("0-2, 7"), parse_seeds("3 1")
        ((0, 1, 2, 7), (3, 1))
    """
    out: list[int] = []
    for part in text.replace(",", " ").split():
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or len(part) > 20:
            raise UsageError("--seeds", got=repr(text), expected="numbers such as 0,1,2 or 0-4")
        numbers = range(int(first), int(last if dash else first) + 1)
        if len(numbers) > 1000:
            raise UsageError("--seeds", got=f"{len(numbers)} seeds", expected="at most 1000")
        out += numbers
    if not out:
        raise UsageError("--seeds", got=repr(text), expected="numbers such as 0,1,2 or 0-4")
    return tuple(out)
