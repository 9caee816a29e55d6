"""Names that people type, and what they probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from stic_core.errors import UsageError

SITE_NAME = r"^[a-z0-9][a-z0-9-]{0,31}$"
"""A site's name: it becomes a file's name and a host's, so no two differ by case alone."""


def site_name(text: str) -> str:
    """A site's name as it was typed.

    Raises:
        UsageError: it cannot be one; says which name was probably meant.

    Example:
        >>> site_name("center2")
        'center2'
    """
    if re.fullmatch(SITE_NAME, text):
        return text
    likely = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:32].strip("-")
    raise UsageError(
        "not a valid site name",
        got=repr(text),
        expected="1 to 32 lower-case letters, digits and hyphens, such as center2",
        advice=f"Did you mean {likely}?" if likely else None,
    )


def did_you_mean(text: str, known: Iterable[str]) -> str | None:
    """A question after the known name that is nearest to a mistyped one, whatever its case; None where none is near.

    Example:
        >>> did_you_mean("HCC_ICC", ["malignant", "hcc-icc"])
        'Did you mean hcc-icc?'
    """
    by_plain = {name.lower(): name for name in known}
    plain = re.sub(r"[\s_]+", "-", text.strip().lower())
    near = get_close_matches(plain, by_plain, n=1, cutoff=0.6)
    return f"Did you mean {by_plain[near[0]]}?" if near else None
