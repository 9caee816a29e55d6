"""What every test shares."""

from __future__ import annotations

import os

# Two cores: more threads than that slow each other down, and sums stay in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from support import programs

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


TOGETHER = (
    "federation/test_simulation.py",
    "processes/test_canary.py",
    "processes/test_commands.py",
    "unit/client/test_prepare.py",
    "unit/core/test_keras_import.py",
)
"""Files whose tests share something that takes seconds to make: one worker has them all."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 2`: whichever worker is free is given the next test, or the next file of `TOGETHER`."""
    from xdist.scheduler import LoadScopeScheduling

    class NextOne(LoadScopeScheduling):
        """Of LoadScope's work units, each is what this says."""

        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return path if path.endswith(TOGETHER) else nodeid

    return NextOne(config, log)


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> Iterator[None]:
    """It is there for all tests of a process, once one has asked for it."""
    yield
    programs.end()
