"""A page for the hospital's own eyes: a template of ours, everything in it escaped, nothing left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def template(name: str, **filters: Callable[..., str]) -> Template:
    """A template that escapes what it shows, and fails on a name that it lacks.

    Args:
        name: a file in `templates/`.
        filters: functions that the template calls by these names.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("stic_client", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
