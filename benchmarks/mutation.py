"""Mutation testing: does a test fail when one thing in a module is changed?

    python benchmarks/mutation.py [--only PATH] [--sample 120 --seed 0] [--jobs 2] [--retry]

For each module of `TESTS` this prints how many mutants its tests killed and which ones lived; the last
line is JSON, and benchmarks/results/mutation.json keeps the result of each module. --retry runs only the
mutants that lived last time. A module with more mutants than --sample is sampled at random with --seed.

A mutant changes one node of the syntax tree: a comparison, an operator, a number by one, a truth value,
a string, a condition that is always true or false, a call or `raise` that is left out, an argument that
is dropped, None for what is returned. The wording of messages and reasons, annotations and type aliases
are not mutated. benchmarks/equivalent_mutants.json lists mutants that no test can kill, by the text of
their line, each with the reason; they do not count.

The libraries are imported once. Each mutant is a fork, in which the import system reads the changed text
instead of the module's file (so jaxtyping's checks and doctests see it too), and pytest stops at the
first failure. Mutants that fail to import, and those that run several times as long, are killed as well.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import json
import os
import pickle
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/mutation.json"
EQUIVALENT = ROOT / "benchmarks/equivalent_mutants.json"
sys.path[:0] = [str(ROOT), str(ROOT / "server"), str(ROOT / "client")]

_STATISTICS = tuple(
    f"tests/unit/core/{name}.py"
    for name in ("test_statistics_golden", "test_statistics_reference", "test_statistics_federated")
)
_STRATEGIES = tuple(
    f"tests/unit/server/{name}.py" for name in ("test_fed_avg", "test_screening", "test_round")
)
_PRIVACY = ("tests/unit/core/test_release.py", "tests/unit/core/test_statistics_federated.py")

TESTS: dict[str, tuple[str, ...]] = {
    "server/stic_server/strategies/__init__.py": _STRATEGIES,
    "server/stic_server/strategies/algorithm.py": ("tests/unit/server/test_checkpoints.py",),
    "server/stic_server/strategies/fed_avg.py": _STRATEGIES,
    "server/stic_server/strategies/screening.py": _STRATEGIES,
    "server/stic_server/federation/round.py": ("tests/unit/server/test_round.py",),
    **{
        f"stic_core/statistics/{name}.py": _STATISTICS
        for name in (
            "auc", "calibration", "edges", "histogram", "meta", "multiclass", "non_inferiority", "paired",
            "proportions", "values",
        )
    },
    "stic_core/privacy/release.py": _PRIVACY,
    "stic_core/privacy/small_cells.py": _PRIVACY,
    "stic_core/data/clinical.py": ("tests/unit/core/test_clinical.py",),
    "stic_core/tensors/array_types.py": (),
    "stic_core/tensors/flat.py": ("tests/unit/core/test_flat.py", "tests/unit/core/test_compression.py"),
    "stic_core/tensors/npy.py": ("tests/unit/core/test_npy.py",),
    "stic_core/tensors/torch_types.py": (),
}  # fmt: skip
"""The tests that answer for a module, the quick ones first; its own doctests run after them."""

# What a comparison or an operator becomes: its neighbour at the boundary, and its opposite.
SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.Pow: (ast.Mult,),
    ast.FloorDiv: (ast.Div,), ast.Mod: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "any": "all", "all": "any", "argmin": "argmax", "argmax": "argmin",
    "minimum": "maximum", "maximum": "minimum", "zeros": "ones", "ones": "zeros", "sf": "cdf", "left": "right",
    "right": "left",
}  # fmt: skip
UNWRAPPED = {"abs", "sorted", "min", "max", "lower", "sqrt", "square", "cumsum"}
"""Calls that one of their own arguments may stand for; `x.lower()` becomes `x`."""
WORDING = {"NotEstimable", "Suppressed"}
MESSAGE_FIELDS = {"got", "expected", "advice"}


@dataclass(frozen=True)
class Mutant:
    """One change: the text of the line, what became of what, and the whole module's text after it."""

    number: int
    line: str
    change: str
    source: str


def mutants_of(source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree, lines = ast.parse(source), source.splitlines()
    found: dict[tuple[int, str, int], Mutant] = {}
    for node, put, in_message in _places(tree, in_message=False):
        before = ast.unparse(node).splitlines()[0]
        for new in _variants(node, in_message=in_message):
            put(new)
            text = ast.unparse(ast.fix_missing_locations(tree))
            put(node)
            change = f"{before} -> {ast.unparse(new).splitlines()[0]}"
            number = getattr(node, "lineno", None) or node.target.lineno  # a comprehension has none
            found.setdefault(
                (number, change, hash(text)), Mutant(number, lines[number - 1].strip(), change, text)
            )
    return sorted(found.values(), key=lambda mutant: mutant.number)


def _places(
    parent: ast.AST, *, in_message: bool
) -> Iterator[tuple[Any, Callable[[ast.AST], None], bool]]:
    """Every node that may be changed, how to put another in its place, and whether it words a message."""
    if isinstance(parent, ast.Import | ast.ImportFrom) or _is_declaration(parent):
        return
    called = ast.unparse(parent.func) if isinstance(parent, ast.Call) else ""
    in_message |= isinstance(parent, ast.Raise) or called in WORDING or called.endswith("Error")
    for field, value in ast.iter_fields(parent):
        if field in {"annotation", "returns", "decorator_list", "format_spec", "ctx", "ops", "op"}:
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            literal_text = isinstance(parent, ast.JoinedStr | ast.Expr) and isinstance(child, ast.Constant)
            if not isinstance(child, ast.AST) or literal_text:
                continue

            def put(new: ast.AST, field: str = field, index: int = index, value: Any = value) -> None:
                if isinstance(value, list):
                    value[index] = new
                else:
                    setattr(parent, field, new)

            if getattr(child, "arg", "") == "strict":
                continue  # zip's lengths: an assertion, which no test can reach where the code is right
            yield child, put, in_message
            yield from _places(child, in_message=in_message)


def _is_declaration(node: ast.AST) -> bool:
    """Type aliases and `__all__` say what there is and compute nothing."""
    if isinstance(node, ast.AnnAssign):
        return "TypeAlias" in ast.unparse(node.annotation)
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _variants(node: ast.AST, *, in_message: bool) -> Iterator[ast.AST]:  # noqa: C901  a table of operators
    """What a node is changed into."""
    match node:
        case ast.Compare(left, [op, *more], comparators):
            for swap in SWAPS[type(op)]:
                yield ast.Compare(left, [swap(), *more], comparators)  # pyright: ignore[reportArgumentType]
            if more:
                for swap in SWAPS[type(more[0])]:
                    yield ast.Compare(left, [op, swap(), *more[1:]], comparators)  # pyright: ignore[reportArgumentType]
        case ast.BoolOp(op, values):
            yield ast.BoolOp(SWAPS[type(op)][0](), values)  # pyright: ignore[reportArgumentType]
            yield from (ast.BoolOp(op, [v for v in values if v is not one]) for one in values)
        case ast.BinOp(left, op, right) if type(op) in SWAPS:
            yield ast.BinOp(left, SWAPS[type(op)][0](), right)  # pyright: ignore[reportArgumentType]
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(str() | bytes() as value) if not in_message:
            other = NAMES.get(value, "XX" + value) if isinstance(value, str) else b"XX" + value
            yield ast.Constant(other)
        case ast.Name(name) if name in NAMES:
            yield ast.Name(NAMES[name])
        case ast.Attribute(value, name) if name in NAMES:
            yield ast.Attribute(value, NAMES[name])
        case ast.Call(function, arguments, keywords):
            for one in keywords:
                if one.arg and one.arg != "strict" and not (in_message and one.arg in MESSAGE_FIELDS):
                    yield ast.Call(function, arguments, [other for other in keywords if other is not one])
            if getattr(function, "id", getattr(function, "attr", "")) in UNWRAPPED:
                yield from arguments or [function.value]  # pyright: ignore[reportAttributeAccessIssue]
        case ast.Return(value) if value is not None and ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Expr(ast.Call()) | ast.AugAssign() | ast.Delete():
            yield ast.Pass()
            if isinstance(node, ast.AugAssign) and type(node.op) in SWAPS:
                yield ast.AugAssign(node.target, SWAPS[type(node.op)][0](), node.value)  # pyright: ignore[reportArgumentType]
        case ast.Assign([ast.Subscript() | ast.Attribute()]):
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.If(_, body, orelse) | ast.While(_, body, orelse):
            yield from (type(node)(ast.Constant(always), body, orelse) for always in (True, False))
        case ast.IfExp(_, body, orelse):
            yield from (body, orelse)
        case ast.comprehension(target, iterable, [_], is_async):
            yield ast.comprehension(target, iterable, [], is_async)
        case _:
            pass


def run_tests(path: str, source: str | None, report: int | None = None) -> int:
    """In a fork of its own: pytest's exit code with `source` in the place of a module's text.

    Args:
        path: of the module.
        source: None leaves the module as it is.
        report: a pipe that gets the names of the modules that were imported.
    """
    import pytest
    from hypothesis import Phase, settings

    module = str(ROOT / path)
    if source is not None:
        read, stat = SourceFileLoader.get_data, SourceFileLoader.path_stats

        def get_data(self: SourceFileLoader, name: str) -> bytes:
            return source.encode() if name == module else read(self, name)

        def path_stats(self: SourceFileLoader, name: str) -> Any:
            if name == module:
                raise OSError  # so that no bytecode of the unchanged text is taken, and none is written
            return stat(self, name)

        SourceFileLoader.get_data, SourceFileLoader.path_stats = get_data, path_stats

    class Derandomized:
        def pytest_sessionstart(self) -> None:  # after tests/conftest.py has chosen its profile
            settings.register_profile(
                "mutation", deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
            )
            settings.load_profile("mutation")

    doctests = [module] if ">>>" in Path(module).read_text(encoding="utf-8") else []
    if 0: pass
    with open("/tmp/mutout" if source is None else os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):  # noqa: PTH123
        code = pytest.main(["-x", "--tb=short", "--assert=plain", *TESTS[path], *doctests], plugins=[Derandomized()])
    if report is not None:
        os.write(report, pickle.dumps([name for name in sys.modules if not name.startswith(("stic_", "support", "test"))]))
    return int(code)


def start(path: str, source: str | None, report: int | None = None) -> int:
    """Fork; the child runs the tests and ends with pytest's exit code."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            code = run_tests(path, source, report)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def run_all(path: str, mutants: list[Mutant], *, jobs: int, limit: float) -> list[int]:
    """The exit code of each mutant's tests; -9 where they were stopped after `limit` seconds."""
    codes, waiting = [0] * len(mutants), list(enumerate(mutants))[::-1]
    running: dict[int, tuple[int, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            index, mutant = waiting.pop()
            running[start(path, mutant.source)] = (index, time.monotonic() + limit)
        for child, (index, deadline) in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[index] = os.waitstatus_to_exitcode(status)
                del running[child]
            elif time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)
    return codes


def clean_run(path: str) -> float:
    """The seconds that the unchanged module's tests take; what they import is kept for the forks."""
    for _ in range(2):  # the second time with everything imported
        reader, writer = os.pipe()
        began = time.monotonic()
        child = start(path, None, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            imported = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.monotonic() - began
        if code != 0:
            raise SystemExit(f"{path}: the tests of the unchanged module end with {code}; nothing to measure")
        for name in pickle.loads(imported):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    return seconds


def measure(path: str, *, sample: int, seed: int, jobs: int, before: dict[str, Any] | None) -> dict[str, Any]:
    """One module's result; with `before`, only what lived then is run again."""
    began = time.monotonic()
    found = mutants_of((ROOT / path).read_text(encoding="utf-8"))
    listed = [entry for entry in json.loads(EQUIVALENT.read_text(encoding="utf-8")) if entry["file"] == path]
    known = {(entry["line"], change) for entry in listed for change in entry["changes"]}
    counted = [mutant for mutant in found if (mutant.line, mutant.change) not in known]
    chosen = counted if len(counted) <= sample else random.Random(seed).sample(counted, sample)
    lived = None if before is None else {(one["line"], one["change"]) for one in before["lived"]}
    tried = [m for m in chosen if lived is None or (m.line, m.change) in lived]
    codes = run_all(path, tried, jobs=jobs, limit=5 + 6 * clean_run(path)) if tried else []
    alive = [mutant for mutant, code in zip(tried, codes, strict=True) if code == 0]
    return {
        "mutants": len(found),
        "equivalent": len(found) - len(counted),
        "run": len(chosen),
        "sampled": len(chosen) < len(counted),
        "killed": len(chosen) - len(alive),
        "timeouts": codes.count(-signal.SIGKILL),
        "seconds": round(time.monotonic() - began),
        "lived": [{"line": m.line, "change": m.change} for m in sorted(alive, key=lambda m: m.number)],
    }


def _results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


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
    print(f"{'module':44} mutants equivalent    run killed  score seconds")
    for path in (path for path in TESTS if options.only in path):
        before = _results().get(path) if options.retry else None
        one = measure(path, sample=options.sample, seed=options.seed, jobs=options.jobs, before=before)
        score = f"{100 * one['killed'] / one['run']:5.1f}%" if one["run"] else "     -"
        print(
            f"{path:44} {one['mutants']:7} {one['equivalent']:10} {one['run']:6} {one['killed']:6} {score} {one['seconds']:7}"
        )
        for mutant in one["lived"]:
            print(f"    lived: {mutant['line']}\n           {mutant['change']}", flush=True)
        results = {**_results(), path: one}
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    results = _results()
    print(json.dumps({path: {key: results[path][key] for key in ("run", "killed")} for path in TESTS if path in results}))


if __name__ == "__main__":
    main()
