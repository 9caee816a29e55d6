"""Whoever is notified learns of a site that is gone, once, and when it is back; of a restart nobody is told."""

from __future__ import annotations

from typing import Any, cast

import pytest

from stic_server.federation.sites import RunObserver
from stic_server.flower_sites import FlowerSites


class Events(RunObserver):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, object]] = []

    def event(self, what: str, text: str, **facts: object) -> None:
        """Keep it."""
        self.seen.append((what, facts["site"]))


@pytest.mark.parametrize(("look_s", "told"), [(0.0, True), (1000.0, False)])
def test_a_site_that_goes_is_told_once(look_s: float, told: bool) -> None:
    """After ten looks without it; one that never came is not gone."""
    events = Events()
    sites = FlowerSites(
        cast("Any", None), expected=["center1", "center2"], grace_s=0.0, observer=events, look_s=look_s
    )
    sites._last_seen["center1"] = 0.0
    for _ in range(5):
        sites._tell_gone_and_back(set())
    sites._tell_gone_and_back({"center1"})
    sites._tell_gone_and_back({"center1"})
    assert events.seen == ([("site-gone", "center1"), ("site-back", "center1")] if told else [])
