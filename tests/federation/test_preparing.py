"""What a site answers while a run is being loaded."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from stic_client.participation.preparing import Preparation
from stic_core.protocol.messages import Finish
from support.federation_kit import participant

if TYPE_CHECKING:
    from stic_core.protocol.messages import Describe
    from stic_core.site_run import LocalRun


def test_an_earlier_runs_model_does_not_end_the_run_that_is_being_prepared(tmp_path: Path) -> None:
    """It is kept, but nobody is told that the run is over, and a client that serves once stays."""
    site = participant(tmp_path / "center1", site="center1", seed=1)
    go = threading.Event()
    question = SimpleNamespace(run_id="second", plan=SimpleNamespace(digest="0" * 64))
    site._preparation = Preparation(cast("Describe", question), lambda _: cast("LocalRun", go.wait(30)))
    site.answer(Finish(run_id="first", status="complete"), None)
    assert site.finished is None
    site.answer(Finish(run_id="second", status="complete"), None)
    assert site.finished == "complete"
    go.set()
