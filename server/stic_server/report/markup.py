"""How templates are rendered: what a page shows is escaped, and a name that is missing is an error."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from stic_core.evaluation import p_text, points
from stic_server.report.wording import capitalise, human_bytes, human_seconds, moment, thousands, tied


def environment(*, escape: bool = True) -> Environment:
    """The templates with the filters that they use.

    Args:
        escape: for HTML; Markdown has nothing to escape.
    """
    found = Environment(
        loader=PackageLoader("stic_server", "templates"),
        autoescape=escape,  # noqa: S701 - off for Markdown alone
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(
        bytes=human_bytes,
        capitalise=capitalise,
        seconds=human_seconds,
        moment=moment,
        thousands=thousands,
        p=p_text,
        points=points,
        tied=tied,
    )
    return found
