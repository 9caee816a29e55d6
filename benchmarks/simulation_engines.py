"""Seconds and memory of a simulation by engine: `python benchmarks/simulation_engines.py --sites 10 --out FILE`.

The same study (phantom patients, the tiny backbone, two seeds) is computed by the default engine and by Ray; the
script stops if their model digests differ. Memory is the largest sum over a command and all that it started, each
shared page divided among those that share it (PSS). `RAY_ADDRESS` names a cluster that runs; its own processes are
not in the sum then.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import yaml

LOOK_S = 1.0


def measured(command: list[str]) -> dict[str, float]:
    """Seconds and largest memory of a command, with all its processes."""
    mark = f"STIC_BENCHMARK={uuid.uuid4().hex}"
    name, _, value = mark.partition("=")
    began, peak = time.monotonic(), 0
    process = subprocess.Popen(command, env=os.environ | {name: value}, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _pss(mark.encode()))
        time.sleep(LOOK_S)
    if process.returncode:
        sys.exit(f"{command[1]} ended with exit code {process.returncode}")
    return {"seconds": round(time.monotonic() - began, 1), "peak_mb": round(peak / 1024)}


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


def main() -> None:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found: dict[str, Any] = {"sites": options.sites, "rounds": options.rounds, "seeds": options.seeds}
    found |= {"cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS"), "engines": {}}
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        federation = {"rounds": options.rounds, "model": {"backbone": "tiny"}, "image": {"crop_mm": 160.0}}
        federation["training"] = {"views": 1, "local_epochs": 1}
        (home / "federation.yaml").write_text(yaml.safe_dump(federation))
        program = str(Path(sys.executable).with_name("stic-server"))
        study = [program, "simulate", "--phantom", "--config", str(home / "federation.yaml")]
        study += ["--split", "dirichlet", "--sites", str(options.sites), "--alpha", "5"]
        study += ["--seeds", options.seeds, "--cohorts", str(home / "cohorts")]
        measured([*study, "--out", str(home / "drawn")])  # draws the patients, which is in no figure
        for engine in ("process", "ray"):
            out = home / engine
            found["engines"][engine] = measured([*study, "--out", str(out), "--engine", engine])
            results = json.loads((out / "simulation.json").read_text())["results"]
            digests[engine] = {seed: result["model_digest"] for seed, result in results.items()}
            print(engine, found["engines"][engine])
    if digests["process"] != digests["ray"]:
        sys.exit(f"the engines disagree: {digests}")
    options.out.write_text(json.dumps(found | {"digests": digests["process"]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
