"""A plan names its sites, so it is made once enough of them are admitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from stic_core.config import FederationConfig
from stic_core.errors import FederationError
from stic_core.system.keys import make_key_pair
from stic_server.admission.registry import admit
from stic_server.federation.sites import RunObserver
from stic_server.flower_app import enough_admitted


class Admits(RunObserver):
    """An operator who admits a second site when told that one is too few."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        self.signs = 0

    def alive(self) -> None:
        """Count it."""
        self.signs += 1

    def note(self, text: str) -> None:
        """Admit center2."""
        self.told.append(text)
        admit(self.folder / "sites", name="center2", public_key=make_key_pair(self.folder / "center2.key"))


def test_the_plan_waits_for_the_sites_that_it_names(tmp_path: Path) -> None:
    """With one of two sites admitted, the operator is told once; the second is then among the named."""
    admit(tmp_path / "sites", name="center1", public_key=make_key_pair(tmp_path / "center1.key"))
    operator = Admits(tmp_path)
    keys = enough_admitted(tmp_path / "sites", FederationConfig(name="t", min_sites=2), observer=operator)
    assert set(keys) == {"center1", "center2"}
    assert len(operator.told) == 1
    assert operator.signs > 0  # or whoever watches takes the waiting server for one that hangs


def test_nobody_admitted_in_time_ends_the_start(tmp_path: Path) -> None:
    """After `join_timeout_s` the error says how many there are."""
    federation = FederationConfig(name="t", min_sites=2, join_timeout_s=0.01)
    with pytest.raises(FederationError) as caught:
        enough_admitted(tmp_path / "sites", federation, observer=RunObserver())
    assert str(caught.value.got).startswith("0 ")
