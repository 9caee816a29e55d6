"""What secure aggregation costs per round: masked rounds against plain ones, at 2 and at 10 sites, 12.9 MB each way.

    python benchmarks/secure_aggregation.py [--sites 2 10] [--rounds 8]

The sites answer at once and train nothing (`round_overhead.py`), so the ratio is the worst case: a hospital that
trains for a minute adds that minute to both sides. Plain and masked runs alternate on the same machine; only
their ratio means anything elsewhere. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from round_overhead import quiet_flower, server


def compared(sites: int, *, rounds: int, repeats: int) -> dict[str, Any]:
    """Median seconds per round, and what travels, with and without masks."""
    found: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for _ in range(repeats):
        for masked, results in found.items():
            with tempfile.TemporaryDirectory() as folder:
                results.append(server(Path(folder), sites=sites, rounds=rounds, masked=masked))
    plain, masked = (
        statistics.median(one["median_seconds"] for one in found[kind]) for kind in (False, True)
    )
    return {
        "sites": sites,
        "rounds": rounds * repeats,
        "plain_seconds": round(plain, 3),
        "masked_seconds": round(masked, 3),
        "ratio": round(masked / plain, 3),
        "bytes_up_ratio": round(found[True][0]["bytes_up"] / found[False][0]["bytes_up"], 5),
        "bytes_down_ratio": round(found[True][0]["bytes_down"] / found[False][0]["bytes_down"], 5),
    }


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    quiet_flower()
    results = []
    for sites in arguments.sites:
        results.append(compared(sites, rounds=arguments.rounds, repeats=arguments.repeats))
        print(results[-1])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
