"""A site whose disk is full waits: the run goes on when there is room, and nothing is lost, nor different."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from stic_client.participation.participant import Participant
from stic_client.participation.shown_models import ShownModels
from stic_core.config import FederationConfig
from stic_core.errors import NoRoomError
from stic_core.evaluation import read_evaluation
from stic_core.evaluation.document import Calibration
from stic_core.evaluation.reliability import read_reliability
from stic_core.models.saved import read_model
from stic_core.protocol.audit_log import AuditLog
from stic_core.protocol.messages import Acknowledged, Describe, Finish, SiteDescription, TrainRound
from stic_server.federation.final_model import finish_of, send_missing, send_model
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from support.federation_kit import InProcessSites, Recorder, participant
from support.small_disk import SmallDisk
from support.waiting import PATIENCE_S

SITES = ("center1", "center2")


@dataclass
class Coordinator(Recorder):
    """An observer that does something the first time that a site with a full disk is waited for."""

    then: Callable[[], None] = lambda: None
    waited: list[tuple[str, ...]] = field(default_factory=list)

    def waiting(self, sites: Sequence[str], seconds: float) -> None:
        """See `RunObserver`."""
        if not self.waited:
            self.then()
        self.waited.append(tuple(sites))


def _sites(folder: Path) -> InProcessSites:
    made = {}
    for number, name in enumerate(SITES):
        one = participant(folder / name, site=name, seed=number)
        made[name] = Participant(one.config, Recorder())
    return InProcessSites(made)


def _notes(site: Participant) -> list[str]:
    assert isinstance(site.observer, Recorder)
    return site.observer.notes


def _session(
    folder: Path, sites: InProcessSites, *, observer: Recorder | None = None, **changes: object
) -> tuple[Callable[[], object], RunFolder]:
    federation = FederationConfig.model_validate(
        {
            "name": "test",
            "model": {"backbone": "tiny"},
            "rounds": 3,
            "local_only": False,
            "training": {"views": 1, "batch_size": 4},
            "runs": folder / "runs",
            **changes,
        }
    )
    proposal = training_of(federation, sites=sites.public_keys)
    run = RunFolder.begin(federation, proposal.plan)
    limits = RunLimits(
        min_sites=2,
        join_timeout_s=PATIENCE_S,
        round_timeout_s=PATIENCE_S,
        grace_s=PATIENCE_S,
        ask_again_s=0.01,
        finish_room_s=1.0,
    )
    session = partial(
        execute,
        proposal.plan,
        proposal.weights,
        run=run,
        sites=sites,
        limits=limits,
        observer=observer or Recorder(),
    )
    return session, run


def _during(
    sites: InProcessSites, kind: str, act: Callable[[], None], *, round_number: int | None = None
) -> None:
    """Do something once, right before the sites are asked one question."""
    ask, done = sites.ask, False

    def acting(questions: dict, **kwargs: object) -> object:
        nonlocal done
        question = next(iter(questions.values()))
        if not done and question.kind == kind and getattr(question, "round", None) == round_number:
            done = True
            act()
        return ask(questions, **kwargs)

    sites.ask = acting


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    """The disk of center2."""
    return SmallDisk(tmp_path / "center2", monkeypatch)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_disk_that_is_full_in_a_round_is_waited_for(
    tmp_path: Path, disk: SmallDisk, restarted: bool
) -> None:
    """int8's rounding error cannot be kept: the round is done again, and the model is bit for bit the same.

    A client that is started again on the full disk says so when it is told the plan again.
    """
    whole, undisturbed = _session(tmp_path / "whole", _sites(tmp_path / "whole"), transport="int8")
    whole()
    sites, coordinator = _sites(tmp_path), Coordinator(then=disk.clear)

    def happen() -> None:
        disk.fill()
        if restarted:
            sites.participants["center2"] = Participant(sites.participants["center2"].config, Recorder())

    _during(sites, "train-round", happen, round_number=2)
    session, run = _session(tmp_path, sites, observer=coordinator, transport="int8")
    session()
    assert coordinator.waited == [("center2 (its disk is full)",)]
    assert sum(note.startswith("center2: its disk is full") for note in coordinator.notes) == 1
    assert coordinator.notes.count("center2 has disk space again") == 1
    assert [(row["round"], row["sites"]) for row in run.read_rounds()] == [
        (n, list(SITES)) for n in (1, 2, 3)
    ]
    record, before = run.read_record(), undisturbed.read_record()
    assert record["model_digest"] == before["model_digest"]
    assert record["model_at"] == list(SITES)
    said = _notes(sites.participants["center2"])
    assert sum(note.startswith("waiting for disk space") for note in said) == 1
    assert sum(note.startswith("there is disk space again") for note in said) == 1
    log = list(AuditLog(tmp_path / "center2" / "audit.jsonl").read())  # whole, "no room" included
    assert [line["content"]["code"] for line in log if line["kind"] == "failure"] == ["NoRoomError"]


def test_the_final_model_and_the_log_have_room_set_aside(tmp_path: Path, disk: SmallDisk) -> None:
    """A disk that is full at the end of a run costs nothing: the model is kept, everything is logged."""
    sites, coordinator = _sites(tmp_path), Coordinator()
    _during(sites, "finish", disk.fill)
    session, run = _session(tmp_path, sites, observer=coordinator)
    session()
    assert not coordinator.waited
    record = run.read_record()
    assert record["model_at"] == list(SITES)
    kept = read_model(tmp_path / "center2" / "models" / run.run_id)
    assert kept.description.digest == record["model_digest"]
    own, others = (list(AuditLog(tmp_path / name / "audit.jsonl").read()) for name in reversed(SITES))
    assert [(line["direction"], line["kind"]) for line in own] == [
        (line["direction"], line["kind"]) for line in others
    ]


def test_a_model_that_could_not_be_kept_comes_with_the_next_run(tmp_path: Path, disk: SmallDisk) -> None:
    """The server says who lacks it; what arrives later has the right digest, and the new run is not disturbed."""
    sites, coordinator = _sites(tmp_path), Coordinator()

    def lose() -> None:
        (tmp_path / "center2" / "models" / ".reserve").unlink()
        disk.fill()

    _during(sites, "finish", lose)
    session, first = _session(tmp_path, sites, observer=coordinator)
    session()
    assert first.read_record()["status"] == "complete"
    assert first.read_record()["model_at"] == ["center1"]
    assert coordinator.waited
    assert [note for note in coordinator.notes if note.startswith("center2 has not stored the final model")]
    site = sites.participants["center2"]
    assert site.finished is None  # with --once it stays
    assert not any("Traceback" in note for note in _notes(site))

    disk.clear()
    sites.participants["center2"] = again = Participant(site.config, Recorder())  # restarted meanwhile
    session, second = _session(tmp_path, sites, seed=1)
    assert second.path != first.path
    session()
    assert first.read_record()["model_at"] == list(SITES)
    for run in (first, second):
        kept = read_model(tmp_path / "center2" / "models" / run.run_id)
        assert kept.description.digest == run.read_record()["model_digest"]
    assert again.finished == "complete"


def test_a_model_can_be_sent_without_a_run(tmp_path: Path) -> None:
    """To a site that was away at the end: it needs no plan again, and an answer twice changes nothing."""
    sites = _sites(tmp_path)
    ask = sites.ask

    def away(questions: dict, **kwargs: object) -> object:
        if any(isinstance(question, Finish) for question in questions.values()):
            questions = {"center1": questions["center1"]}
        return ask(questions, **kwargs)

    sites.ask = away
    session, run = _session(tmp_path, sites)
    session()
    assert run.read_record()["model_at"] == ["center1"]
    sites.ask = ask
    config = sites.participants["center2"].config
    sites.participants["center2"] = back = Participant(config, Recorder())
    sites.asked.clear()
    for _ in range(2):
        send_model(run, ["center2"], sites=sites, observer=Recorder(), patience_s=0, ask_again_s=0)
    assert [question.kind for question in sites.asked] == ["finish"] * 2
    assert run.read_record()["model_at"] == list(SITES)
    assert read_model(config.models / run.run_id).description.digest == run.read_record()["model_digest"]
    assert back.finished == "complete"


def test_a_model_goes_to_nobody_who_took_no_part(tmp_path: Path) -> None:
    """A site that names another's run is not sent its model; and one that is sent an unknown model keeps none."""
    sites = _sites(tmp_path)
    session, run = _session(tmp_path, sites)
    session()
    stranger = participant(tmp_path / "center3", site="center3", seed=3)
    sites.participants["center3"] = stranger
    about = _described(sites, run, "center1").model_copy(update={"lacks_models": (run.run_id, "gone")})
    sites.asked.clear()
    newer = RunFolder(run.path.parent / "newer")
    send_missing({"center3": about}, run=newer, sites=sites, observer=Recorder())
    assert not sites.asked
    weights = read_model(run.path / "model").weights
    answer = sites.ask({"center3": finish_of(run)}, weights=weights, timeout=1).answers["center3"]
    assert answer.report == Acknowledged()
    assert not list(stranger.config.models.glob("*/*"))


def _described(sites: InProcessSites, run: RunFolder, site: str) -> SiteDescription:
    (plan,) = {asked.plan.digest: asked.plan for asked in sites.asked if isinstance(asked, Describe)}.values()
    question = Describe(run_id=run.run_id, plan=plan)
    report = sites.ask({site: question}, weights=None, timeout=1).answers[site].report
    assert isinstance(report, SiteDescription)
    return report


def test_what_its_scores_were_worth_goes_with_the_model(tmp_path: Path) -> None:
    """The pooled groups of the evaluation lie beside the model at the server and at each site, and no site's own."""
    sites = _sites(tmp_path)
    session, run = _session(tmp_path, sites)
    session()
    digest = read_model(run.path / "model").description.digest
    known = read_reliability(run.path / "model", model_digest=digest)
    assert known is not None
    calibration = read_evaluation(run.path / "evaluation.json").pooled.calibration
    assert isinstance(calibration, Calibration)
    for name, of_class in calibration.classes.items():
        assert [(group.n, group.observed) for group in known.classes[name]] == [
            (one.n, one.observed) for one in of_class.bins
        ]
    for one in sites.participants.values():
        assert read_reliability(one.config.models / run.run_id, model_digest=digest) == known


def test_a_model_that_is_here_is_not_replaced(tmp_path: Path) -> None:
    """A server that sends another one later under the same run's name changes nothing at the site."""
    sites = _sites(tmp_path)
    session, run = _session(tmp_path, sites)
    session()
    site, weights = sites.participants["center1"], read_model(run.path / "model").weights
    true = run.read_record()["model_digest"]
    forged = finish_of(run).model_copy(update={"weights_digest": "0" * 64})
    assert site.answer(forged, weights * 2)[0] == Acknowledged(kept_model=true)
    shutil.rmtree(site.config.models / run.run_id)
    assert site.answer(forged, weights * 2)[0] == Acknowledged()


@pytest.mark.parametrize("transport", ["float32", "int8"])
def test_room_is_looked_for_before_a_run(tmp_path: Path, disk: SmallDisk, transport: str) -> None:
    """A site without room for the log, the model and what it keeps between rounds waits, and joins when it has it."""
    sites, coordinator = _sites(tmp_path), Coordinator(then=disk.clear)
    disk.fill()
    participant = sites.participants["center2"]
    assert not participant.disk.can_log()  # nor does it come online: it could not log its answer
    session, run = _session(tmp_path, sites, observer=coordinator, transport=transport)
    disk.clear()
    assert participant.disk.can_log()
    disk.fill()
    session()
    assert coordinator.waited == [("center2 (its disk is full)",)]
    assert [row["sites"] for row in run.read_rounds()] == [list(SITES)] * 3
    (said,) = [note for note in _notes(participant) if note.startswith("waiting for disk space")]
    assert sum(note.startswith(f"run {run.run_id}: task") for note in _notes(participant)) == 1
    assert str(participant.config.audit.parent) in said


def test_nothing_leaves_that_cannot_be_logged(tmp_path: Path, disk: SmallDisk) -> None:
    """With the log's own reserve gone as well no answer is given; with room the same question has one."""
    site = _sites(tmp_path).participants["center2"]
    question = Finish(run_id="r", status="failed")
    assert site.disk.can_log()
    site.config.audit.with_suffix(".reserve").unlink()
    disk.fill()
    for _ in range(2):
        with pytest.raises(NoRoomError):
            site.answer(question, None)
    assert not site.disk.can_log()
    disk.clear()
    assert site.disk.can_log()
    assert site.answer(question, None) == (Acknowledged(), None)
    assert [line["kind"] for line in AuditLog(site.config.audit).read()] == ["finish", "acknowledged"]
    assert sum(note.startswith("waiting for disk space") for note in _notes(site)) == 1


def test_a_site_that_stays_full_does_not_end_a_round_of_the_others(tmp_path: Path, disk: SmallDisk) -> None:
    """Once the deadline has passed the round continues without it, and it joins again when it has room."""
    sites, coordinator = _sites(tmp_path), Coordinator()
    _during(sites, "train-round", disk.fill, round_number=2)
    _during(sites, "train-round", disk.clear, round_number=3)
    session, run = _session(tmp_path, sites, observer=coordinator, transport="int8")
    session.keywords["limits"] = RunLimits(
        min_sites=1, join_timeout_s=PATIENCE_S, round_timeout_s=0.5, ask_again_s=0.01
    )
    session()
    assert [row["sites"] for row in run.read_rounds()] == [list(SITES), ["center1"], list(SITES)]
    assert run.read_record()["model_at"] == list(SITES)


def test_what_a_site_was_shown_is_on_its_disk_before_it_answers(tmp_path: Path, disk: SmallDisk) -> None:
    """Asked again on a full disk, the question is no more answered than the first time; with room it is, and kept."""
    folder, federation = (
        tmp_path / "center2",
        FederationConfig.model_validate({"model": {"backbone": "tiny"}}),
    )
    plan = training_of(federation).plan
    assert plan.initial is not None
    question = TrainRound(run_id="r", plan_digest=plan.digest, round=1, weights_digest=plan.initial)
    shown = ShownModels(folder, run_id="r", plan=plan, note=print)
    folder.mkdir()
    disk.fill()
    for act in 2 * [partial(shown.check, question), partial(shown.trained, "0" * 64)]:
        with pytest.raises(OSError, match="No space"):
            act()
        assert not list(folder.iterdir())
    disk.clear()
    shown.check(question)
    assert [path.name for path in folder.iterdir()] == [f"{plan.digest}.json"]
