"""Seconds and memory of a simulation by engine: `python benchmarks/simulation_engines.py --sites 10 --out FILE`.

The same sites (random images behind the tiny backbone, 24 patients each) are simulated by the default engine, by
`--engine ray` and by Flower's own simulation; the script stops if their model digests differ. `simulate` also trains
the centralised model and every site's own; Flower's simulation trains the sites' own with `--local-only`. Seconds
include the start of all processes. Memory is the largest sum over a command and all that it started, each shared page
divided among those that share it (PSS). With `RAY_ADDRESS` Ray's own processes are not in the sum.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.federation_kit import Home, make_home  # pyright: ignore[reportMissingImports] - through sys.path above
from support.ray_room import ray_room  # pyright: ignore[reportMissingImports] - likewise
from support.stock_flower import APP, superlink  # pyright: ignore[reportMissingImports] - likewise

LOOK_S = 1.0
ENGINES = ("process", "ray", "flower")


def measured(work: Callable[[], None]) -> dict[str, float]:
    """Seconds and largest memory of all processes that some work starts."""
    name, value = "STIC_BENCHMARK", uuid.uuid4().hex
    peaks, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_S):
            peaks.append(_pss(f"{name}={value}".encode()))

    watcher = threading.Thread(target=watch)
    os.environ[name] = value  # inherited by what is started, and not of this process in /proc
    watcher.start()
    before, began = os.getloadavg()[0], time.monotonic()
    try:
        work()
    finally:
        seconds = time.monotonic() - began
        over.set()
        watcher.join()
    return {
        "seconds": round(seconds, 1),
        "peak_mb": round(max(peaks) / 1024),
        "load_before": round(before, 1),
    }


def _pss(mark: bytes) -> int:
    """kB of all processes that have the mark in their environment."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0"):
                text = (path / "smaps_rollup").read_text()
                total += int(text.partition("Pss:")[2].split()[0])
        except (OSError, ValueError, IndexError):
            continue  # it has just ended
    return total


def _simulated(home: Home, names: list[str], engine: str) -> str:
    """The digest of `stic-server simulate`; what it says goes to this script's stderr."""
    out = home.path / engine
    settings = yaml.safe_load(home.federation.read_text())
    kept = {key: settings[key] for key in ("rounds", "model", "training")}
    config = home.path / "simulation.yaml"
    weights = {"tiny": str(home.site(names[0]) / "tiny.safetensors")}
    config.write_text(yaml.safe_dump(kept | {"backbone_weights": weights}))
    command = [str(Path(sys.executable).with_name("stic-server")), "simulate", "--config", str(config)]
    command += ["--seeds", str(settings.get("seed", 0)), "--engine", engine, "--out", str(out)]
    for name in names:
        command += ["--prepared", str(home.site(name) / "prepared")]
    with ray_room() as room:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, env=home.environment() | room, check=False)
    if done.returncode:
        sys.exit(f"--engine {engine} ended with exit code {done.returncode}")
    (result,) = json.loads((out / "simulation.json").read_text())["results"].values()
    return result["model_digest"]


def _flower(home: Home, names: list[str]) -> str:
    """The digest of `flwr run` with one virtual node per site, a CPU each."""
    with superlink(home, simulation=True) as (flwr, _):
        said = flwr(
            *("run", str(APP), "here", "--stream"),
            *("--run-config", f'federation="{home.federation}" sites="{home.path / "sites"}"'),
            *("--federation-config", f"num-supernodes={len(names)} client-resources-num-cpus=1"),
        )
    if not [*(home.path / "runs").glob("*/report.html")]:
        sys.exit(f"Flower's simulation ended without a report:\n{said[-3000:]}")
    return json.loads((home.run_folder() / "evaluation.json").read_text())["model_digest"]


def main() -> None:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--local-only", action="store_true", help="in Flower's simulation; simulate always does"
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "cores": os.cpu_count()}
    found |= {"sites": options.sites, "rounds": options.rounds, "flower_local_only": options.local_only}
    found["engines"] = {}
    digests: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        names = [f"site{number:03d}" for number in range(1, options.sites + 1)]
        home = make_home(Path(folder), sites=names, rounds=options.rounds)
        home.edit(home.federation, local_only=options.local_only)
        for engine in options.engines:

            def work(engine: str = engine) -> None:
                digests[engine] = (
                    _flower(home, names) if engine == "flower" else _simulated(home, names, engine)
                )

            found["engines"][engine] = measured(work)
            print(engine, found["engines"][engine], digests[engine], flush=True)
            options.out.write_text(json.dumps(found | {"digests": digests}, indent=1) + "\n")
    if len(set(digests.values())) > 1:
        sys.exit(f"the engines disagree: {digests}")


if __name__ == "__main__":
    main()
