"""Sites that get ready one after the other: what they answer meanwhile, and what the first one may decide."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from stic_client.participation.preparing import Preparation
from stic_core.config import ImageConfig
from stic_core.errors import FederationError
from stic_core.protocol.messages import Finish, Preparing, Refusal, SiteDescription, SplitCounts
from stic_server.federation import joining as joining_module
from stic_server.federation.joining import Joining
from stic_server.federation.participants import Participants
from stic_server.federation.sites import Answer, Exchange, RunLimits
from support.federation_kit import Recorder, participant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stic_core.protocol.messages import Describe, Instruction, RunPlan
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


PLAN = cast(
    "RunPlan",
    SimpleNamespace(
        digest="a" * 64, sites={}, image=ImageConfig(), task=SimpleNamespace(classes=("HCC", "ICC"))
    ),
)
LIMITS = RunLimits(min_sites=2, join_timeout_s=0.2, round_timeout_s=5.0, ask_again_s=0.01, grace_s=0.1)


def _described(site: str, *, backbone: str) -> Answer:
    one = SplitCounts(n=20, classes={"HCC": 10, "ICC": 10})
    mark = f"{sum(site.encode()):064x}"
    about = SiteDescription(
        patients={"train": one, "val": one, "test": one},
        quarantined=0,
        fingerprint=mark,
        test_fingerprint=mark,
        image=ImageConfig(),
        phantom=False,
        backbone_digest=backbone * 64,
        device="cpu",
        versions={},
    )
    return Answer(about)


class _Scripted:
    """`sites.Sites` whose answers are given: by site, one after the other, the last one for ever."""

    def __init__(self, answers: dict[str, list[Answer]]) -> None:
        self.answers, self.asked = answers, dict.fromkeys(answers, 0)

    def present(self) -> list[str]:
        return sorted(self.answers)

    def wait_for(self, **_: object) -> list[str]:
        return self.present()

    def ask(self, questions: Mapping[str, Instruction], **_: object) -> Exchange:
        found = {}
        for site in questions:
            script = self.answers[site]
            found[site] = script[self.asked[site] % len(script)]
            self.asked[site] += 1
        return Exchange(found)


@pytest.fixture(autouse=True)
def _any_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """These sites do not read the question."""
    monkeypatch.setattr(joining_module, "Describe", SimpleNamespace)


@pytest.mark.parametrize("begun", [False, True])
def test_one_that_is_ready_first_with_another_backbone_keeps_nobody_out(begun: bool) -> None:
    """Until the run begins the majority decides, and who was declined for the first one's digest is asked again."""
    backbones = {"center1": "b", "center2": "c", "center3": "c"}
    sites = _Scripted({site: [_described(site, backbone=one)] for site, one in backbones.items()})
    joining = Joining(PLAN, run_id="r", sites=sites, limits=LIMITS, observer=Recorder(), known={})
    for number in (1, 2, 3, 3):
        joining.ask_newcomers(sites.present()[:number])
        if begun:
            joining.begin()
    right, wrong = ["center2", "center3"], ["center1"]
    if begun:  # rounds were trained on it
        right, wrong = wrong, right
    assert (sorted(joining.ready), sorted(joining.declined)) == (right, wrong)
    assert sorted(joining.known) == right


WAITS = [
    [Answer(Preparing())],
    [Answer(Preparing(done=3, total=40))],
    [Answer(Preparing(done=done, total=2)) for done in (1, 2)],
    [Answer(Preparing()), Answer(Refusal(reason="not approved", pending=True))],
    [Answer(Refusal(reason="not approved", pending=True))],
]


@pytest.mark.parametrize("script", WAITS)
def test_one_that_is_never_ready_holds_the_quorum_up_for_a_time(script: list[Answer]) -> None:
    """Whether it says the same, goes back and forth, or prepares and refuses in turn: only real progress counts."""
    sites = _Scripted({"center1": [_described("center1", backbone="b")], "center2": script})
    gathering = Participants(PLAN, run_id="r", sites=sites, limits=LIMITS, observer=Recorder())
    began = time.monotonic()
    with pytest.raises(FederationError, match="too few sites"):
        gathering.gather()
    assert time.monotonic() - began < 10
