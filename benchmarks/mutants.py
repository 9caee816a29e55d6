"""The mutants of a module: one node of its syntax tree changed in each; see `mutation.py`.

A comparison, an operator, a number by one, a truth value, a string, a condition that is always true or
false, a call or `raise` that is left out, an argument that is dropped, None for what is returned. The
wording of messages and reasons, annotations, type aliases and `__all__` are not mutated, nor is zip's
`strict`, which is an assertion.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# What a comparison or an operator becomes: its neighbour at the boundary, and its opposite.
SWAPS: dict[type[ast.AST], tuple[type[Any], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.Pow: (ast.Mult,),
    ast.FloorDiv: (ast.Div,), ast.Mod: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "any": "all", "all": "any", "argmin": "argmax", "argmax": "argmin",
    "minimum": "maximum", "maximum": "minimum", "zeros": "ones", "ones": "zeros", "sf": "cdf",
    "left": "right", "right": "left",
}  # fmt: skip
UNWRAPPED = {"abs", "sorted", "min", "max", "lower", "sqrt", "square", "cumsum"}
"""Calls whose argument may stand for them."""
WORDING = {"NotEstimable", "Suppressed"}
MESSAGE_FIELDS = {"got", "expected", "advice"}
UNTOUCHED = {"annotation", "returns", "decorator_list", "format_spec", "ctx", "ops", "op"}


@dataclass(frozen=True)
class Mutant:
    """One change: the number and the text of its line, what became what, and the module's text with it."""

    number: int
    line: str
    change: str
    source: str


def mutants_of(source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree, lines, found = ast.parse(source), source.splitlines(), {}
    for node, parent, put, in_message in _places(tree, in_message=False):
        leaf = isinstance(node, ast.Constant | ast.Name) and isinstance(parent, ast.expr)
        before = ast.unparse(parent if leaf else node).splitlines()[0]
        for new in _variants(node, in_message=in_message):
            put(new)
            text = ast.unparse(ast.fix_missing_locations(tree))
            at: Any = getattr(node, "target", node)  # a comprehension has no line of its own
            change = f"{before} -> {ast.unparse(parent if leaf else new).splitlines()[0]}"
            put(node)
            found[text] = Mutant(at.lineno, lines[at.lineno - 1].strip(), change, text)
    return sorted(found.values(), key=lambda mutant: mutant.number)


def _places(
    parent: ast.AST, *, in_message: bool
) -> Iterator[tuple[Any, ast.AST, Callable[[ast.AST], None], bool]]:
    """Every node that may be changed, its parent, how to replace it, and whether it words a message."""
    match parent:
        case ast.Import() | ast.ImportFrom() | ast.Assign([ast.Name("__all__")]) | ast.keyword("strict"):
            return
        case ast.AnnAssign(_, ast.Name("TypeAlias")):
            return
        case ast.Call(function):
            in_message |= (called := ast.unparse(function)) in WORDING or called.endswith("Error")
        case _:
            in_message |= isinstance(parent, ast.Raise)
    for field, value in ast.iter_fields(parent):
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            text = isinstance(parent, ast.JoinedStr | ast.Expr) and isinstance(child, ast.Constant)
            if field in UNTOUCHED or text or not isinstance(child, ast.AST):
                continue

            def put(new: ast.AST, field: str = field, index: int = index, value: Any = value) -> None:
                if isinstance(value, list):
                    value[index] = new
                else:
                    setattr(parent, field, new)

            yield child, parent, put, in_message
            yield from _places(child, in_message=in_message)


def _variants(node: Any, *, in_message: bool) -> Iterator[ast.AST]:  # noqa: C901, PLR0912  one table of operators
    """What a node is changed into."""
    match node:
        case ast.Compare(left, ops, comparators):
            for index, op in enumerate(ops):
                for swap in SWAPS[type(op)]:
                    yield ast.Compare(left, [*ops[:index], swap(), *ops[index + 1 :]], comparators)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(SWAPS[type(op)][0](), values)
            yield from (ast.BoolOp(op, [v for v in values if v is not one]) for one in values)
        case ast.BinOp(left, op, right) if type(op) in SWAPS:
            yield ast.BinOp(left, SWAPS[type(op)][0](), right)
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(str() as value) if not in_message:
            yield ast.Constant(NAMES.get(value, "XX" + value))
        case ast.Constant(bytes() as value):
            yield ast.Constant(b"XX" + value)
        case ast.Name(name) if name in NAMES:
            yield ast.Name(NAMES[name])
        case ast.Attribute(value, name) if name in NAMES:
            yield ast.Attribute(value, NAMES[name])
        case ast.Call(ast.Name() | ast.Attribute() as function, arguments, keywords):
            kept = {None, "strict", *(MESSAGE_FIELDS if in_message else ())}
            for one in keywords:
                if one.arg not in kept:
                    yield ast.Call(function, arguments, [other for other in keywords if other is not one])
            if getattr(function, "id", getattr(function, "attr", "")) in UNWRAPPED:
                yield from arguments or [
                    called for called in ast.iter_child_nodes(function) if isinstance(called, ast.expr)
                ]
        case ast.Return(value) if value is not None and ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case ast.AugAssign(target, op, value) if type(op) in SWAPS:
            yield from (ast.Pass(), ast.AugAssign(target, SWAPS[type(op)][0](), value))
        case ast.Raise() | ast.Expr(ast.Call()) | ast.AugAssign() | ast.Delete():
            yield ast.Pass()
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
