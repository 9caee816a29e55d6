"""docs/api.md from the docstrings of the public names: `python scripts/make_api_page.py`.

Nothing is imported: griffe reads the sources. A test makes the page again and compares.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"
WIDTH = 100
"""Longest signature on one line."""

HEAD = """\
# The Python interface

The names of `stic_core` and `stic_server` below are the public ones: they have types, and change only with an entry in
the [changelog](../CHANGELOG.md). Everything else may change. The notebook
[open_a_run.py](notebooks/open_a_run.py) uses them: it opens a run, plots a ROC curve, compares two runs and scores a
patient. `stic-server compare RUN RUN` prints the comparison without any Python.

This page is made from the docstrings by `python scripts/make_api_page.py`; do not edit it.
"""

GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Runs": ("stic_core", ("load_run", "compare_runs")),
    "Data and models": ("stic_core", ("load_dataset", "read_model", "restore_model", "predict", "logits")),
    "Evaluation": ("stic_core", ("PolicyConfig", "validation_report", "site_report", "pool")),
    "Statistics": (
        "stic_core",
        ("clopper_pearson", "delong", "paired_test", "mcnemar", "paired_difference", "meta_analysis"),
    ),
    "Simulation": ("stic_server", ("SimulationConfig", "simulate")),
}
"""Headings, and which names of which package stand under them."""

TYPES = (
    "stic_core.evaluation.run_results.Run",
    "stic_core.data.dataset.SiteDataset",
    "stic_core.models.saved.SavedModel",
    "stic_core.models.saved.ModelDescription",
    "stic_core.prediction.RestoredModel",
    "stic_core.evaluation.reports.HeldOutReport",
    "stic_core.statistics.auc.Estimate",
    "stic_core.statistics.auc.Auc",
    "stic_core.statistics.auc.AucTest",
    "stic_core.statistics.paired.TestResult",
    "stic_core.statistics.paired.PairedDifference",
    "stic_core.statistics.meta.MetaAnalysis",
    "stic_core.statistics.values.NotEstimable",
    "stic_core.statistics.values.Suppressed",
)
"""What the functions take and return."""


def make_page() -> str:
    """The page as Markdown."""
    logging.getLogger("griffe").setLevel(logging.ERROR)  # it misses types that the signatures have
    paths = [ROOT, ROOT / "server"]
    packages = {name: griffe.load(name, search_paths=paths) for name in ("stic_core", "stic_server")}
    parts = [HEAD, "```python\nimport stic_core\n```\n", *_docstring(packages["stic_core"])]
    for heading, (package, names) in GROUPS.items():
        parts.append(f"## {heading}\n")
        if package != "stic_core":
            parts.append(
                f"Names of `{package}`: a simulation runs the server's code, which the core does not know.\n"
            )
        for name in names:
            parts += _entry(packages[package][name].final_target, f"{package}.{name}")
    parts.append("## Types\n")
    for path in TYPES:
        package, _, rest = path.partition(".")
        parts += _entry(packages[package][rest], path)
    return "\n".join(parts)


def _entry(found: griffe.Object | griffe.Alias, title: str) -> Iterator[str]:
    """One name: heading, signature, and what its docstring says."""
    yield f"### {title}\n"
    if isinstance(found, griffe.Function):
        yield f"```python\n{_signature(found)}\n```\n"
    yield from _docstring(found)
    if isinstance(found, griffe.Class):
        yield from _members(found)


def _signature(function: griffe.Function) -> str:
    """On one line where it fits, else a line for each parameter."""
    text = function.signature()
    if len(text) <= WIDTH:
        return text
    lines, starred = [], False
    for parameter in function.parameters:
        if parameter.kind is griffe.ParameterKind.keyword_only and not starred:
            lines.append("*")
            starred = True
        default = "" if parameter.default is None else f" = {parameter.default}"
        lines.append(f"{parameter.name}: {parameter.annotation}{default}")
    return (
        "\n    ".join([f"{function.name}(", *(f"{line}," for line in lines)]) + f"\n) -> {function.returns}"
    )


def _members(found: griffe.Class) -> Iterator[str]:
    """Public properties and methods, in the order of the source."""
    lines = []
    for name, member in found.members.items():
        own = isinstance(member, griffe.Function) or "property" in member.labels
        if own and not name.startswith("_") and member.docstring is not None:
            call = "" if "property" in member.labels else f"({', '.join(_parameters(member))})"
            text = next(iter(_sections(member))).value
            lines.append(f"- `{name}{call}`: {_joined(text)}")
    if lines:
        yield "\n".join(["**Properties and methods**\n", *lines, ""])


def _parameters(function: griffe.Object | griffe.Alias) -> list[str]:
    assert isinstance(function, griffe.Function)
    return [parameter.name for parameter in function.parameters if parameter.name != "self"]


def _sections(found: griffe.Object | griffe.Alias) -> list[griffe.DocstringSection]:
    assert found.docstring is not None, found.path
    options = griffe.GoogleOptions(returns_named_value=False, returns_multiple_items=False)
    return griffe.parse_google(found.docstring, **options)


def _docstring(found: griffe.Object | griffe.Alias) -> Iterator[str]:
    """The sections of a docstring as Markdown."""
    named = "**Fields**" if isinstance(found, griffe.Class) else "**Arguments**"
    sections = _sections(found)
    if isinstance(found, griffe.Class) and not any(
        isinstance(section, griffe.DocstringSectionParameters) for section in sections
    ):
        fields = [f"`{name}`" for name, member in found.members.items() if _is_field(name, member)]
        found_text, *sections = sections
        yield f"{found_text.value}\n"
        if fields:
            yield f"{named} {', '.join(fields)}\n"
    for section in sections:
        match section:
            case griffe.DocstringSectionText(value=text):
                yield f"{text}\n"
            case griffe.DocstringSectionParameters(value=items):
                yield "\n".join(
                    [f"{named}\n", *(f"- {_named(i.name)}: {_joined(i.description)}" for i in items), ""]
                )
            case griffe.DocstringSectionRaises(value=items):
                raised = (f"- `{item.annotation}`: {_joined(item.description)}" for item in items)
                yield "\n".join(["**Raises**\n", *raised, ""])
            case griffe.DocstringSectionReturns(value=items):
                yield f"**Returns** {_joined(' '.join(item.description for item in items))}\n"
            case griffe.DocstringSectionAdmonition(title="Example", value=example):
                yield f"**Example**\n\n```python\n{example.description}\n```\n"
            case _:
                raise ValueError(
                    f"{found.path}: no rule for a section {section.kind.value} ({section.title})"
                )


def _is_field(name: str, member: griffe.Object | griffe.Alias) -> bool:
    return (
        isinstance(member, griffe.Attribute) and "property" not in member.labels and not name.startswith("_")
    )


def _named(names: str) -> str:
    """Arguments that a docstring describes together, each as code."""
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _joined(text: str) -> str:
    """A text's lines as one."""
    return re.sub(r"\s+", " ", text).strip()


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
