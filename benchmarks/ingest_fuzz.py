"""Thousands of broken files through every reader; prints one line of JSON with outcomes by kind.

    python benchmarks/ingest_fuzz.py --count 2000

Exits with 1 where one crashed a reader, hung it, or gave another image that could be told.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.mutated_files import run  # pyright: ignore[reportMissingImports] - found through sys.path above


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.monotonic()
    by_format: dict[str, Counter[str]] = defaultdict(Counter)
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(Path(folder).resolve(), count=args.count, seed=args.seed)
    for (case, kind, outcome), count in sorted(outcomes.items()):
        by_format[case][outcome] += count
        by_kind[kind][outcome] += count
        if outcome.startswith(("CRASH", "SILENT")) or "too long" in outcome:
            bad += count
            print(f"{count} x {case}, {kind}: {outcome}", file=sys.stderr)
    print(
        json.dumps(
            {
                "benchmark": "ingest_fuzz",
                "count": args.count,
                "seed": args.seed,
                "seconds": round(time.monotonic() - started, 1),
                "bad": bad,
                "by_kind": by_kind,
                "by_format": by_format,
            }
        )
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
