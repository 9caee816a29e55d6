"""What every test shares."""

from __future__ import annotations

import os

# Two cores: more threads than that slow each other down, and sums stay in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# A shared machine may pause anywhere, so no example has a deadline. On CI examples are the same
# each time: what lands is not decided by chance; a developer's run looks at new ones.
settings.register_profile("shared", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first: then the two workers of a run end at about the same time."""

    def place(item: pytest.Item) -> int:
        return next((n for n, name in enumerate(("long", "processes")) if item.get_closest_marker(name)), 2)

    items.sort(key=place)
