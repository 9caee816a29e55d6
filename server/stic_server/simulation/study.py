"""A simulation from its registration to its table: a folder that a killed one goes on in, seed by seed."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stic_core.errors import UsageError
from stic_core.statistics import MARGIN
from stic_core.system.files import write_atomically
from stic_core.system.terminal import Terminal
from stic_server.federation.run_folder import now, versions
from stic_server.simulation.cohorts import prepared_sites
from stic_server.simulation.console import SeedObserver
from stic_server.simulation.engine import Engine, OneProcess
from stic_server.simulation.settings import SimulationConfig
from stic_server.simulation.summary import summarise
from stic_server.simulation.tables import markdown, write_tables

SCHEMA = 1


@dataclass(frozen=True)
class Registered:
    """What is claimed and how it will be judged; written before the first seed runs."""

    hypothesis: str = (
        "The federated model is non-inferior to the model trained on all patients in one place (centralised)."
    )
    figure: str = "macro AUC over all sites' held-out patients together, federated minus centralised"
    margin: float = MARGIN
    rule: str = (
        "Non-inferior if the lower end of the two-sided 95 % t interval of the mean difference over the "
        "registered seeds lies above minus the margin."
    )


def simulate(
    study: SimulationConfig, out: Path, *, terminal: Terminal | None = None, engine: Engine | None = None
) -> dict[str, Any]:
    """Run every seed that has no result yet, and sum up.

    Args:
        study: what is simulated.
        out: the simulation's folder; one of the same study goes on.
        terminal: shows how far it is; None shows nothing.
        engine: what computes the seeds; None is this process. It does not change the figures.

    Returns:
        The simulation, as `simulation.json` has it.

    Raises:
        UsageError: the folder holds a simulation of another study.
        SticError: what a federation may raise.
    """
    terminal, engine = terminal or Terminal(quiet=True), engine or OneProcess()
    given = prepared_sites(study.prepared) if study.prepared else None
    wrong = {name for name, dataset in (given or {}).items() if dataset.image != study.federation.image}
    if wrong:
        raise UsageError(
            f"images of {', '.join(sorted(wrong))} were not prepared as the federation asks",
            expected=study.federation.image,
            advice="Set image in federation.yaml to match how they were prepared.",
        )
    simulation = _registered(study, out, settings=study.settings(given))
    named = {
        seed: f"seed {seed} ({place} of {len(study.seeds)})"
        for place, seed in enumerate(study.seeds, start=1)
    }
    observers = {seed: SeedObserver(terminal, which=name) for seed, name in named.items()}
    files = {seed: out / "seeds" / f"seed-{seed}.json" for seed in study.seeds}
    for seed in study.seeds:
        if files[seed].exists():
            terminal.note(f"{named[seed]}: already done")
    missing = [seed for seed in study.seeds if not files[seed].exists()]
    with engine.started(study) as run:
        for seed, result in run(missing, out, observers):
            _write_json(files[seed], result)
        device = engine.device
    results = simulation["results"] = {
        str(seed): json.loads(path.read_text(encoding="utf-8")) for seed, path in files.items()
    }
    summary = summarise(
        results,
        margin=simulation["registered"]["margin"],
        new_patients=given is None,
        same_sites=study.split == "centre",
    )
    simulation |= {
        "status": "complete",
        "finished": now(),
        "phantom": any(one["phantom"] for one in results.values()),
        "machine": {"device": device, "cores": os.cpu_count(), "processor": platform.machine()},
        "versions": versions(),
        "summary": summary,
    }
    _write_json(out / "simulation.json", simulation)
    write_tables(out, simulation)
    write_atomically(out / "simulation.md", markdown(simulation).encode())
    return simulation


def _registered(study: SimulationConfig, out: Path, *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The simulation's record: found, or written before anything is computed."""
    path = out / "simulation.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("settings") != settings:
            raise UsageError(
                f"{out} contains a simulation with different settings or seeds",
                got=", ".join(_differences(found.get("settings", {}), settings)),
                advice="Choose another folder with --out; what was registered is not changed afterwards.",
            )
        return found
    simulation = {
        "schema": SCHEMA,
        "status": "running",
        "registered": {"at": now(), **asdict(Registered()), "seeds": list(study.seeds)},
        "settings": settings,
        "results": {},
    }
    _write_json(path, simulation)
    return simulation


def _differences(before: Mapping[str, Any], now_: Mapping[str, Any]) -> list[str]:
    """Settings that differ, as paths."""
    out = []
    for key in sorted({*before, *now_}):
        a, b = before.get(key), now_.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += [f"{key}.{inner}" for inner in _differences(a, b)]
        elif a != b:
            out.append(f"{key} {a} before and {b} now")
    return out


def _write_json(path: Path, value: object) -> None:
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
