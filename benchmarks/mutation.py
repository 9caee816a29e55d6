"""Mutation testing: does a test fail when one thing in a module is changed?

    python benchmarks/mutation.py [--only PATH] [--sample 120 --seed 0] [--jobs 2] [--retry]

For each module of `TESTS` this prints how many of its mutants (`mutants.py`) the tests killed and which
ones lived; the last line is JSON. benchmarks/results/mutation.json keeps each module's result. A module
with more mutants than --sample is sampled at random with --seed; --retry runs those that lived last time.
benchmarks/equivalent_mutants.json lists mutants that no test can kill, by the text of their line and with
the reason; they do not count.

The libraries are imported once. Each mutant is a fork in which Python reads the changed text instead of
the module's file (so jaxtyping's checks and doctests see it too), and pytest stops at the first failure.
A mutant that cannot be imported, or whose tests take several times as long, is killed as well.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import random
import signal
import sys
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from mutants import Mutant, mutants_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/mutation.json"
EQUIVALENT = ROOT / "benchmarks/equivalent_mutants.json"
HEAVY = ("torch", "scipy.optimize", "pydantic", "jaxtyping", "beartype", "hypothesis.extra.numpy", "sklearn.metrics",
         "statsmodels.api")  # fmt: skip
"""What our modules and their tests import and a fork need not."""


def _tests(side: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/unit/{side}/test_{name}.py" for name in names)


TESTS: dict[str, tuple[str, ...]] = {
    "server/stic_server/strategies/__init__.py": _tests("server", "fed_avg"),
    "server/stic_server/strategies/algorithm.py": _tests("server", "checkpoints"),
    "server/stic_server/strategies/fed_avg.py": _tests("server", "fed_avg", "round"),
    "server/stic_server/strategies/screening.py": _tests("server", "screening", "round"),
    "server/stic_server/federation/round.py": _tests("server", "round"),
    "stic_core/statistics/auc.py": _tests("core", "statistics_by_hand", "statistics_reference"),
    "stic_core/statistics/calibration.py": _tests("core", "statistics_by_hand", "statistics_reference"),
    "stic_core/statistics/edges.py": _tests("core", "statistics_by_hand", "statistics_federated"),
    "stic_core/statistics/histogram.py": _tests("core", "statistics_by_hand", "statistics_federated"),
    "stic_core/statistics/meta.py": _tests("core", "statistics_by_hand", "statistics_reference"),
    "stic_core/statistics/multiclass.py": _tests("core", "statistics_by_hand", "statistics_reference"),
    "stic_core/statistics/non_inferiority.py": _tests("core", "statistics_by_hand", "statistics_reference"),
    "stic_core/statistics/paired.py": _tests("core", "statistics_by_hand", "statistics_golden"),
    "stic_core/statistics/proportions.py": _tests("core", "statistics_by_hand", "statistics_golden"),
    "stic_core/statistics/values.py": _tests("core", "statistics_by_hand", "evaluation"),
    "stic_core/privacy/release.py": _tests("core", "release"),
    "stic_core/privacy/confusion_cells.py": _tests("core", "confusion_cells", "release"),
    "stic_core/data/clinical.py": _tests("core", "clinical"),
    "stic_core/tensors/flat.py": _tests("core", "flat"),
    "stic_core/tensors/npy.py": _tests("core", "npy"),
}
"""The tests that answer for a module, the quick ones first; its own doctests run after them.

`tensors/array_types.py` and `tensors/torch_types.py` are type aliases alone, and have no mutants.
"""


class _SameExamples:
    """A pytest plugin: hypothesis draws the same examples each time, and does not shrink a failure."""

    def pytest_sessionstart(self) -> None:  # after tests/conftest.py has chosen its profile
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutation", deadline=None, derandomize=True, database=None, phases=phases)
        settings.load_profile("mutation")


def _serve(module: str, source: str) -> None:
    """From now on this process reads `source` where it imports `module`, a path."""
    read, stat = SourceFileLoader.get_data, SourceFileLoader.path_stats

    def get_data(self: SourceFileLoader, path: str) -> bytes:
        return source.encode() if path == module else read(self, path)

    def path_stats(self: SourceFileLoader, path: str) -> Any:
        if path == module:
            raise OSError  # bytecode of the unchanged text is not taken, and none is written
        return stat(self, path)

    SourceFileLoader.get_data, SourceFileLoader.path_stats = get_data, path_stats


def start(path: str, source: str | None) -> int:
    """Fork. The child runs the tests with `source` as the module's text, and ends with pytest's exit code."""
    child = os.fork()
    if child:
        return child
    code, module = 99, str(ROOT / path)
    try:
        os.setpgid(0, 0)
        if source is not None:
            _serve(module, source)
        doctests = [module] if ">>>" in Path(module).read_text(encoding="utf-8") else []
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            options = ["-x", "--tb=no", "--assert=plain", *TESTS[path], *doctests]
            code = int(pytest.main(options, plugins=[_SameExamples()]))
    finally:
        os._exit(code)


def run_all(path: str, sources: list[str | None], *, jobs: int, limit: float = 600) -> list[int]:
    """The exit code of each one's tests; -9 where they were stopped after `limit` seconds."""
    codes, waiting = [0] * len(sources), list(enumerate(sources))[::-1]
    running: dict[int, tuple[int, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            index, source = waiting.pop()
            running[start(path, source)] = (index, time.monotonic() + limit)
        for child, (index, deadline) in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[index] = os.waitstatus_to_exitcode(status)
                del running[child]
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return codes


def measure(path: str, *, sample: int, seed: int, jobs: int, before: dict[str, Any] | None) -> dict[str, Any]:
    """One module's result; with `before`, only what lived then is run again."""
    began = time.monotonic()
    found = mutants_of((ROOT / path).read_text(encoding="utf-8"))
    listed = [entry for entry in _read(EQUIVALENT) if entry["file"] == path]
    known = {(entry["line"], change) for entry in listed for change in entry["changes"]}
    drawn = found if len(found) <= sample else random.Random(seed).sample(found, sample)
    chosen = [mutant for mutant in drawn if (mutant.line, mutant.change) not in known]
    lived = None if before is None else {(one["line"], one["change"]) for one in before["lived"]}
    tried: list[Mutant] = [m for m in chosen if lived is None or (m.line, m.change) in lived]
    if run_all(path, [None], jobs=1) != [0]:
        raise SystemExit(
            f"{path}: its tests do not pass as it is; run them with pytest: {' '.join(TESTS[path])}"
        )
    limit = 10 + 5 * (time.monotonic() - began)
    codes = run_all(path, [mutant.source for mutant in tried], jobs=jobs, limit=limit)
    alive = [mutant for mutant, code in zip(tried, codes, strict=True) if code == 0]
    return {
        "mutants": len(found),
        "equivalent": len(drawn) - len(chosen),
        "run": len(chosen),
        "sampled": len(drawn) < len(found),
        "seed": seed,
        "killed": len(chosen) - len(alive),
        "timeouts": codes.count(-signal.SIGKILL),
        "seconds": round(time.monotonic() - began),
        "lived": [{"line": m.line, "change": m.change} for m in sorted(alive, key=lambda m: m.number)],
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def main() -> None:
    """Run, print, and keep the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="modules whose path contains this")
    parser.add_argument("--sample", type=int, default=120, help="at most this many mutants per module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--retry", action="store_true", help="only the mutants that lived last time")
    options = parser.parse_args()
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path[:0] = [str(ROOT), str(ROOT / "server"), str(ROOT / "client")]
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()  # pytest collects garbage twice a session; what the forks share is none
    print(f"{'module':44} mutants equivalent    run killed  score seconds", flush=True)
    paths = [path for path in TESTS if options.only in path]
    for path in paths:
        before = _read(RESULTS).get(path) if options.retry else None
        one = measure(path, sample=options.sample, seed=options.seed, jobs=options.jobs, before=before)
        counts = f"{one['mutants']:7} {one['equivalent']:10} {one['run']:6} {one['killed']:6}"
        print(f"{path:44} {counts} {one['killed'] / max(one['run'], 1):6.1%} {one['seconds']:7}")
        for mutant in one["lived"]:
            print(f"    lived: {mutant['line']}\n           {mutant['change']}", flush=True)
        kept = json.dumps({**_read(RESULTS), path: one}, indent=1, ensure_ascii=False)
        RESULTS.write_text(kept + "\n", encoding="utf-8")
    results = _read(RESULTS)
    print(json.dumps({path: {key: results[path][key] for key in ("run", "killed")} for path in paths}))


if __name__ == "__main__":
    main()
