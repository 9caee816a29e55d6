"""JSON Schema of the configuration files, for editors and for docs/configuration.md; made from the models."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, Literal

from stic_core import config, tasks
from stic_core.config import FederationConfig, SiteConfig
from stic_core.tasks import TASKS

KINDS: Mapping[str, type[FederationConfig | SiteConfig]] = {
    "federation": FederationConfig,
    "site": SiteConfig,
}


def schema(kind: Literal["federation", "site"]) -> dict[str, Any]:
    """The schema of `federation.yaml` or `site.yaml`, each key with what it means.

    Example:
        >>> schema("site")["properties"]["device"]["default"]
        'auto'
    """
    document = KINDS[kind].model_json_schema()
    models = {KINDS[kind].__name__: document, **document.get("$defs", {})}
    for name, model in models.items():
        source = getattr(config, name, None) or getattr(tasks, name)
        model["description"], described = _docstring(source)
        for key, field in model["properties"].items():
            field.pop("title", None)
            if key in described:
                field["description"] = _sentence(described[key])
    if kind == "federation":
        # The file may name a task instead of spelling it out.
        task = document["properties"]["task"]
        document["properties"]["task"] = {
            "anyOf": [{"enum": list(TASKS)}, {"$ref": "#/$defs/Task"}],
            "default": "malignant",
            "description": task["description"],
        }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document, "title": f"{kind}.yaml"}


def _sentence(text: str) -> str:
    """As a reader of YAML says it."""
    text = re.sub(r"\bNone\b", "null", text)
    return text[:1].upper() + text[1:]


def _docstring(source: type) -> tuple[str, dict[str, str]]:
    """What a model is, and what each of its keys is, from its docstring."""
    text = inspect.cleandoc(source.__doc__ or "")
    summary, _, arguments = text.partition("\nArgs:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in arguments.splitlines():
        if not line.startswith("    "):
            break
        if begins := re.match(r"    (\w+(?:, \w+)*): (.*)", line):
            names = begins[1].split(", ")
            found |= dict.fromkeys(names, begins[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return " ".join(summary.split()), found
