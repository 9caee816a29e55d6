"""Ten sites and two hundred rounds of a tiny model: what grows at the server, and what a round costs.

    python benchmarks/soak.py [--sites 10] [--rounds 200]

The server is `stic-server start` in a process of its own; the sites are ten real participants
with their own keys, datasets and links, as threads of one process (ten times torch would not
fit beside each other on a small machine). TLS, checkpoints, audit logs and the evaluation at
the end are the product's. The last line of the output is JSON; `growth` is the server's
resident memory at the end of training over that after round 20, less one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.federation_kit import (  # pyright: ignore[reportMissingImports] - found through sys.path above
    Home,
    make_home,
    write_site_dataset,
)

_SETTLED = 20
"""Rounds after which nothing may grow any more."""

_COUNTS = {"train": 6, "val": 6, "test": 6}


def serve_sites(home: Home, names: list[str]) -> None:
    """All sites in this process, each with a link of its own, until the run is over."""
    from stic_client.flower_app import client_app
    from stic_client.flower_link import FleetLink
    from stic_client.participation.participant import Participant
    from stic_core import config, config_files
    from stic_core.system.keys import load_private
    from stic_core.system.observer import Observer

    def serve(name: str) -> None:
        path = home.site(name) / "site.yaml"
        site = config_files.load(path, config.SiteConfig)
        participant = Participant(site)
        link = FleetLink(
            site.server.address,
            ca=site.server.ca,
            key=load_private(site.key),
            state=path.with_name("node.json"),
            observer=Observer(),
        )
        link.serve(
            client_app(participant),
            node_config={},
            until=lambda: participant.finished is not None,
        )

    threads = [threading.Thread(target=serve, args=(name,), name=name) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM, as Linux counts it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def watch(server: subprocess.Popen[bytes], rounds_file: Path) -> list[float]:
    """The server's memory as each round ends, until the server does."""
    found: list[float] = []
    while server.poll() is None:
        done = rounds_file.read_bytes().count(b"\n") if rounds_file.exists() else 0
        if done > len(found):
            found += [resident_mb(server.pid)] * (done - len(found))
        time.sleep(0.05)
    return found


def soak(folder: Path, *, sites: int, rounds: int) -> dict[str, Any]:
    """Run, and measure."""
    names = [f"site{number:02d}" for number in range(sites)]
    home = make_home(folder, sites=names, rounds=rounds)
    for number, name in enumerate(names):
        write_site_dataset(home.site(name) / "prepared", seed=number, counts=_COUNTS)
    # An early stop would end the soak; own models for comparison are not what is measured.
    home.edit(home.federation, local_only=False, join_timeout_s=600)
    log = (folder / "server.log").open("w")
    children = subprocess.Popen(
        [sys.executable, __file__, "--as-sites", str(folder), str(home.port), *names], env=home.environment()
    )
    server = subprocess.Popen(
        home.command("stic-server", "start"), env=home.environment(), stdout=log, stderr=subprocess.STDOUT
    )
    try:
        while not list(home.path.glob("runs/*/record.json")):
            if server.poll() is not None:
                raise SystemExit((folder / "server.log").read_text())
            time.sleep(0.2)
        (run,) = home.path.glob("runs/*")
        memory = watch(server, run / "rounds.jsonl")
        if server.returncode != 0:
            raise SystemExit((folder / "server.log").read_text()[-5000:])
        children.wait(60)
    finally:
        for process in (server, children):
            process.kill()
            process.wait()
        log.close()
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows]
    settled = memory[min(_SETTLED, len(memory)) - 1]
    return {
        "sites": sites,
        "rounds": len(rows),
        "reports_used": sum(len(row["sites"]) for row in rows),
        "median_seconds": statistics.median(seconds[1:]),
        "median_seconds_first_tenth": statistics.median(seconds[1 : 1 + max(1, rounds // 10)]),
        "median_seconds_last_tenth": statistics.median(seconds[-max(1, rounds // 10) :]),
        "bytes_down_a_round": rows[-1]["bytes_down"],
        "bytes_up_a_round": rows[-1]["bytes_up"],
        "audit_mb": round((home.path / "server" / "audit.jsonl").stat().st_size / 1e6, 2),
        "rss_mb_by_round": {
            number + 1: round(memory[number], 1)
            for number in range(len(memory))
            if number in (0, _SETTLED - 1, len(memory) - 1) or (number + 1) % max(1, rounds // 10) == 0
        },
        "rss_mb_most": round(max(memory), 1),
        "growth_after_round_20": round(memory[-1] / settled - 1, 4),
    }


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--as-sites", nargs="+", metavar="FOLDER PORT NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.as_sites:
        folder, port, *names = arguments.as_sites
        serve_sites(Home(Path(folder), int(port)), names)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = soak(Path(folder), sites=arguments.sites, rounds=arguments.rounds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
