"""A whole run with participants in this process: what the server asks and what it makes of the answers."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from stic_client.participation import participant as participant_module
from stic_client.participation.participant import Participant
from stic_core.config import FederationConfig, Transport
from stic_core.data.dataset import load_dataset
from stic_core.errors import FederationError
from stic_core.evaluation.run_results import load_run
from stic_core.models.parameters import trainable_specs
from stic_core.models.saved import read_model
from stic_core.models.stic import build_head
from stic_core.privacy.looks import HeldOutLooks, patients_of
from stic_core.protocol.messages import Describe, EvaluateHeldOut
from stic_core.tasks import TASKS
from stic_core.tensors.flat import FlatArray
from stic_core.training.setup import ComputeConfig
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from stic_server.report import write_report
from stic_server.report.model_card import write_model_card
from support.federation_kit import InProcessSites, Recorder, participant, write_site_dataset
from support.waiting import PATIENCE_S


def _federation(tmp_path: Path, **changes: object) -> FederationConfig:
    return FederationConfig.model_validate(
        {
            "name": "test",
            "model": {"backbone": "tiny"},
            "rounds": 3,
            "training": {"views": 1, "batch_size": 4, "local_epochs": 1},
            "runs": tmp_path / "runs",
            **changes,
        }
    )


def _session(
    federation: FederationConfig,
    sites: InProcessSites,
    *,
    recorder: Recorder | None = None,
    admitted: Mapping[str, Participant] = MappingProxyType({}),
) -> tuple[Callable[[], dict], RunFolder]:
    named = InProcessSites({**sites.participants, **admitted})
    proposal = training_of(federation, sites=named.public_keys)
    run = RunFolder.begin(federation, proposal.plan)
    plan = run.read_plan() or proposal.plan
    limits = RunLimits(min_sites=federation.min_sites, join_timeout_s=PATIENCE_S, round_timeout_s=PATIENCE_S)
    session = partial(
        execute, plan, proposal.weights, run=run, sites=sites, limits=limits, observer=recorder or Recorder()
    )
    return session, run


@pytest.fixture
def sites(tmp_path: Path) -> InProcessSites:
    """Two sites with random patients."""
    return InProcessSites(
        {
            name: participant(tmp_path / name, site=name, seed=number)
            for number, name in enumerate(("center1", "center2"))
        }
    )


def test_a_run_leaves_record_rounds_model_and_evaluation(tmp_path: Path, sites: InProcessSites) -> None:
    """Every file of a run's folder is there and they agree with each other."""
    session, run = _session(_federation(tmp_path), sites)
    document = session()
    record = json.loads((run.path / "record.json").read_text())
    rounds = [json.loads(line) for line in (run.path / "rounds.jsonl").read_text().splitlines()]
    model = json.loads((run.path / "model" / "model.json").read_text())
    assert record["status"] == "complete"
    assert record["phantom"] is document["phantom"] is True
    assert record["participation"] == {str(number): ["center1", "center2"] for number in (1, 2, 3)}
    assert [row["round"] for row in rounds] == [1, 2, 3]
    pooled = [row["val"]["pooled"] for row in rounds]
    for row, of_all in zip(rounds, pooled, strict=True):
        parts = [row["val"][site] for site in ("center1", "center2")]
        assert of_all["n"] == sum(part["n"] for part in parts)
        assert of_all["loss"] == pytest.approx(sum(part["loss"] * part["n"] for part in parts) / of_all["n"])
    best = min(range(3), key=lambda index: pooled[index]["loss"]) + 1
    assert record["best_round"] == best == model["best_round"]
    assert record["model_digest"] == model["digest"] == document["model_digest"]
    assert set(document["local_only"]) == {"center1", "center2"}
    assert document["sites"]["center1"]["n"] == 12
    assert document["ensemble"]["sites"]["center2"]["n"] == 12
    assert set(document["comparison"]) == {"center1", "center2", "ensemble"}
    assert set(document["comparison"]["ensemble"]["sites"]) == {"center1", "center2"}
    kept = read_model(tmp_path / "center2" / "models" / run.run_id)
    assert kept.description.digest == record["model_digest"]


def test_a_second_study_has_the_patients_of_its_classes(tmp_path: Path, sites: InProcessSites) -> None:
    """HCC against ICC on sites prepared for three classes: others are left out, their looks count together."""
    session, _ = _session(_federation(tmp_path), sites)
    session()
    before = {site: len(list(one.config.held_out.glob("*.json"))) for site, one in sites.participants.items()}
    session, run = _session(_federation(tmp_path, name="second", task="hcc-icc"), sites)
    document = session()
    facts = json.loads((run.path / "record.json").read_text())["sites"]["center1"]
    assert facts["patients"]["test"] == {"n": 8, "classes": {"HCC": 4, "ICC": 4}}
    assert document["sites"]["center1"]["n"] == 8
    one = sites.participants["center1"]
    dataset = load_dataset(one.config.dataset.prepared)
    assert facts["fingerprint"] == dataset.fingerprint_for(TASKS["hcc-icc"]) != dataset.fingerprint
    assert len(list((dataset.folder / "features").glob("*/complete"))) == 1
    patients = patients_of(dataset.subjects[row] for row in dataset.indices("test"))
    assert len(HeldOutLooks(one.config.held_out).at(patients)) == 2 * before["center1"]


def test_training_lowers_the_loss(tmp_path: Path, sites: InProcessSites) -> None:
    """The federation learns what the images show: the brightness that depends on the class."""
    session, run = _session(_federation(tmp_path, rounds=8), sites)
    session()
    rows = run.read_rounds()
    assert rows[-1]["val"]["pooled"]["loss"] < 0.7 * rows[0]["val"]["pooled"]["loss"]


def test_the_held_out_set_is_opened_once_a_model(tmp_path: Path, sites: InProcessSites) -> None:
    """Federated, two local models and their ensemble: each pair of model and site once."""
    session, _ = _session(_federation(tmp_path), sites)
    session()
    opened = [question.model for question in sites.asked if isinstance(question, EvaluateHeldOut)]
    assert sorted(opened) == sorted(["federated", "center1", "center2", "ensemble"] * 2)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_model(
    tmp_path: Path, sites: InProcessSites
) -> None:
    """Interrupted in round 3 and started again, a run gives the digest of the uninterrupted one."""
    federation = _federation(tmp_path)
    session, whole = _session(federation, sites)
    session()

    class Interrupted(Exception):
        pass

    ask, calls = sites.ask, 0

    def interrupted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:  # describe, rounds 1 and 2, and then
            raise Interrupted
        return ask(*args, **kwargs)

    sites.ask = interrupted
    first, run = _session(federation, sites)
    assert run.path != whole.path
    with pytest.raises(Interrupted):
        first()
    sites.ask = ask
    recorder = Recorder()
    second, again = _session(federation, sites, recorder=recorder)
    assert again.path == run.path
    second()
    assert any(f"resuming run {run.run_id} after round 2" == note for note in recorder.notes)
    assert [row["round"] for row in again.read_rounds()] == [1, 2, 3]
    assert again.read_record()["model_digest"] == whole.read_record()["model_digest"]


def test_a_site_that_sends_nan_is_named_and_the_round_goes_on(tmp_path: Path, sites: InProcessSites) -> None:
    """NaN from one of three sites: the two others are averaged, and the note names the third."""
    sites.participants["center3"] = participant(tmp_path / "center3", site="center3", seed=7)
    answer = sites.participants["center3"].answer
    specs = trainable_specs(build_head(channels=32, classes=3, seed=0))

    def poisoned(instruction: object, weights: FlatArray | None) -> object:
        report, trained = answer(instruction, weights)
        if trained is not None and report.kind == "round-report":
            trained = np.full_like(trained, np.nan)
            from stic_core.tensors.flat import digest

            report = report.model_copy(update={"weights_digest": digest(trained, specs)})
        return report, trained

    sites.participants["center3"].answer = poisoned
    recorder = Recorder()
    session, run = _session(_federation(tmp_path, rounds=1), sites, recorder=recorder)
    session()
    assert run.read_rounds()[0]["sites"] == ["center1", "center2"]
    assert any(note.startswith("center3: weights are not finite") for note in recorder.notes)


def test_a_site_without_training_patients_is_evaluated(tmp_path: Path, sites: InProcessSites) -> None:
    """One held-out patient and nothing else: no weight in the average, no AUC, no error."""
    sites.participants["center3"] = participant(
        tmp_path / "center3", site="center3", seed=7, counts={"test": 1}
    )
    session, run = _session(_federation(tmp_path, rounds=1), sites)
    document = session()
    assert run.read_rounds()[0]["sites"] == ["center1", "center2", "center3"]
    assert run.read_rounds()[0]["train_loss"]["center3"] is None
    assert "center3" not in document["local_only"]
    block = document["sites"]["center3"]
    assert block["n"] == 1
    assert "suppressed" in block["accuracy"]
    assert all("not_estimable" in auc for auc in block["auc"].values())


def test_a_site_with_another_backbone_is_left_out(tmp_path: Path, sites: InProcessSites) -> None:
    """Frozen weights that differ from the others' are found by their digest."""
    from support.federation_kit import write_tiny_weights

    other = participant(tmp_path / "center3", site="center3", seed=7)
    write_tiny_weights(tmp_path / "center3" / "tiny.safetensors", seed=99)
    sites.participants["center3"] = other
    recorder = Recorder()
    session, run = _session(_federation(tmp_path, rounds=1), sites, recorder=recorder)
    session()
    assert "center3" not in run.read_record()["sites"]
    assert any(note.startswith("center3 is excluded: its backbone") for note in recorder.notes)


def test_a_refusal_is_shown_as_a_refusal(tmp_path: Path, sites: InProcessSites) -> None:
    """A site whose policy forbids the task says so; the others go on."""
    third = participant(tmp_path / "center3", site="center3", seed=7)
    policy = third.config.policy.model_copy(update={"tasks": ("hcc-icc",)})
    third.config = third.config.model_copy(update={"policy": policy})
    sites.participants["center3"] = third
    recorder = Recorder()
    session, _ = _session(_federation(tmp_path, rounds=1), sites, recorder=recorder)
    session()
    assert any(note.startswith("center3 refused: task; got malignant") for note in recorder.notes)


def test_equal_seeds_give_equal_models_whatever_the_order_of_answers(tmp_path: Path) -> None:
    """Two runs, the second asking the sites in the opposite order, end with the same digest."""
    digests = []
    for reverse in (False, True):
        folder = tmp_path / str(reverse)
        names = ["center1", "center2"]
        made = {name: participant(folder / name, site=name, seed=int(name[-1])) for name in names}
        sites = InProcessSites(dict(sorted(made.items(), reverse=reverse)))
        ask = sites.ask

        def ordered(
            questions: dict, *, ask: object = ask, reverse: bool = reverse, **kwargs: object
        ) -> object:
            exchange = ask(dict(sorted(questions.items(), reverse=reverse)), **kwargs)
            return replace(exchange, answers=dict(exchange.answers))

        sites.ask = ordered
        session, run = _session(_federation(folder), sites)
        session()
        digests.append(run.read_record()["model_digest"])
    assert digests[0] == digests[1]


def test_a_restarted_site_is_told_the_plan_again(tmp_path: Path, sites: InProcessSites) -> None:
    """A participant that forgot the run between two rounds is described to again and loses nothing."""
    ask = sites.ask

    def forgetful(questions: dict, **kwargs: object) -> object:
        if any(getattr(question, "round", 0) == 2 for question in questions.values()):
            sites.participants["center2"]._run = None
            sites.ask = ask
        return ask(questions, **kwargs)

    sites.ask = forgetful
    recorder = Recorder()
    session, run = _session(_federation(tmp_path), sites, recorder=recorder)
    session()
    assert [row["sites"] for row in run.read_rounds()] == [["center1", "center2"]] * 3
    assert any("center2 was restarted; the plan is sent again" in note for note in recorder.notes)


@pytest.mark.parametrize("transport", ["float32", "float16", "int8"])
def test_a_site_that_was_killed_ends_with_the_same_model(tmp_path: Path, transport: Transport) -> None:
    """Killed before a round, and after one whose answer was lost: the model is that of an undisturbed run."""

    def made(folder: Path) -> InProcessSites:
        return InProcessSites(
            {
                name: participant(folder / name, site=name, seed=int(name[-1]))
                for name in ("center1", "center2")
            }
        )

    def federation(folder: Path) -> FederationConfig:
        return _federation(folder).model_copy(update={"transport": transport, "rounds": 4})

    whole, undisturbed = _session(federation(tmp_path / "whole"), made(tmp_path / "whole"))
    whole()
    sites = made(tmp_path / "killed")
    ask, killed = sites.ask, set[int]()

    def killing(questions: dict, **kwargs: object) -> object:
        number = max(getattr(question, "round", 0) for question in questions.values())
        if number == 3 and number not in killed:
            ask(questions, **kwargs)  # center2 trains, and is killed before its answer has left
        if number in (2, 3) and number not in killed:
            killed.add(number)
            sites.participants["center2"] = Participant(sites.participants["center2"].config)
        return ask(questions, **kwargs)

    sites.ask = killing
    disturbed, run = _session(federation(tmp_path / "killed"), sites)
    disturbed()
    assert killed == {2, 3}
    assert run.read_record()["model_digest"] == undisturbed.read_record()["model_digest"]
    for site in sites.participants.values():  # the run is over, and what it kept is gone
        assert not list(site.config.between_rounds.glob("*"))


def test_a_round_without_a_quorum_is_tried_again(tmp_path: Path, sites: InProcessSites) -> None:
    """One of two sites is silent once: the same round is asked again and counts once."""
    ask = sites.ask

    def silent_once(questions: dict, **kwargs: object) -> object:
        exchange = ask(questions, **kwargs)
        if any(getattr(question, "round", 0) == 2 for question in questions.values()):
            sites.ask = ask
            return replace(exchange, answers={"center1": exchange.answers["center1"]})
        return exchange

    sites.ask = silent_once
    recorder = Recorder()
    session, run = _session(_federation(tmp_path), sites, recorder=recorder)
    session()
    assert [(row["round"], row["sites"]) for row in run.read_rounds()] == [
        (number, ["center1", "center2"]) for number in (1, 2, 3)
    ]
    assert any("round 2 cannot be averaged" in note and "Trying again" in note for note in recorder.notes)


def test_a_round_that_never_has_a_quorum_fails_and_can_be_resumed(
    tmp_path: Path, sites: InProcessSites
) -> None:
    """After three tries the run fails with whom it lacked; with the sites back it goes on."""
    ask = sites.ask

    def silent(questions: dict, **kwargs: object) -> object:
        exchange = ask(questions, **kwargs)
        if any(getattr(question, "round", 0) == 2 for question in questions.values()):
            return replace(exchange, answers={"center1": exchange.answers["center1"]})
        return exchange

    sites.ask = silent
    session, run = _session(_federation(tmp_path), sites)
    with pytest.raises(FederationError, match=r"round 2 cannot be averaged; got usable reports from 1 sites"):
        session()
    sites.ask = ask
    session, again = _session(_federation(tmp_path), sites)
    session()
    assert again.path == run.path
    assert [row["round"] for row in again.read_rounds()] == [1, 2, 3]


def test_a_site_that_comes_late_takes_part_from_the_next_round(tmp_path: Path, sites: InProcessSites) -> None:
    """Not there at the beginning: told the plan before a round, and in record and evaluation like the others."""
    third = participant(tmp_path / "center3", site="center3", seed=7)
    ask = sites.ask

    def arriving(questions: dict, **kwargs: object) -> object:
        if any(getattr(question, "round", 0) == 2 for question in questions.values()):
            sites.participants["center3"] = third
        return ask(questions, **kwargs)

    sites.ask = arriving
    recorder = Recorder()
    session, run = _session(_federation(tmp_path), sites, recorder=recorder, admitted={"center3": third})
    document = session()
    two, three = ["center1", "center2"], ["center1", "center2", "center3"]
    assert [row["sites"] for row in run.read_rounds()] == [two, two, three]
    assert set(run.read_record()["sites"]) == set(document["sites"]) == set(three)
    assert "center3 joins the run from here on" in recorder.notes


def test_a_late_site_that_does_not_fit_is_asked_once(tmp_path: Path, sites: InProcessSites) -> None:
    """Another backbone than the others': left out with a word, and not asked in every round."""
    from support.federation_kit import write_tiny_weights

    third = participant(tmp_path / "center3", site="center3", seed=7)
    write_tiny_weights(tmp_path / "center3" / "tiny.safetensors", seed=99)
    ask = sites.ask

    def arriving(questions: dict, **kwargs: object) -> object:
        sites.participants["center3"] = third
        return ask(questions, **kwargs)

    sites.ask = arriving
    recorder = Recorder()
    session, run = _session(_federation(tmp_path), sites, recorder=recorder, admitted={"center3": third})
    session()
    assert [row["sites"] for row in run.read_rounds()] == [["center1", "center2"]] * 3
    assert sum(note.startswith("center3 is excluded: its backbone") for note in recorder.notes) == 1


def test_a_site_that_the_plan_does_not_name_waits_for_the_next_run(
    tmp_path: Path, sites: InProcessSites
) -> None:
    """Admitted after the run began: its operators approved a list of hospitals, and it stays as it is."""
    third = participant(tmp_path / "center3", site="center3", seed=7)
    ask = sites.ask

    def arriving(questions: dict, **kwargs: object) -> object:
        sites.participants["center3"] = third
        return ask(questions, **kwargs)

    sites.ask = arriving
    recorder = Recorder()
    session, run = _session(_federation(tmp_path), sites, recorder=recorder)
    session()
    assert {site for row in run.read_rounds() for site in row["sites"]} == {"center1", "center2"}
    assert sum(note.startswith("center3 is excluded") for note in recorder.notes) == 1


def test_a_run_goes_on_after_a_site_was_admitted(tmp_path: Path, sites: InProcessSites) -> None:
    """Interrupted, and a third hospital admitted meanwhile: the run keeps the plan that was approved."""
    session, run = _session(_federation(tmp_path), sites)
    before = run.read_plan()
    third = participant(tmp_path / "center3", site="center3", seed=7)
    _, again = _session(_federation(tmp_path), sites, admitted={"center3": third})
    assert again.path == run.path
    assert again.read_plan() == before
    session()


def test_the_last_look_needs_a_quorum_too(tmp_path: Path, sites: InProcessSites) -> None:
    """One of two sites is silent when the last model is scored: asked again, so the best model is the same."""
    whole, undisturbed = _session(_federation(tmp_path / "undisturbed"), sites)
    whole()
    ask = sites.ask

    def silent_once(questions: dict, **kwargs: object) -> object:
        exchange = ask(questions, **kwargs)
        if any(getattr(question, "train", True) is False for question in questions.values()):
            sites.ask = ask
            return replace(exchange, answers={"center1": exchange.answers["center1"]})
        return exchange

    sites.ask = silent_once
    session, run = _session(_federation(tmp_path / "disturbed"), sites)
    session()
    assert run.read_rounds()[-1]["val"] == undisturbed.read_rounds()[-1]["val"]
    assert run.read_record()["best_round"] == undisturbed.read_record()["best_round"]


def test_a_run_that_owes_its_report_is_not_run_again(tmp_path: Path, sites: InProcessSites) -> None:
    """Killed after the last round and before the report: the same run, and the sites are told that it is over."""
    session, run = _session(_federation(tmp_path), sites)
    document = session()
    run.update_record(report="owed")
    sites.asked.clear()
    session, again = _session(_federation(tmp_path), sites)
    assert session() == document
    assert again.path == run.path
    assert [question.kind for question in sites.asked] == ["finish", "finish"]
    run.update_record(report="written")
    assert _session(_federation(tmp_path), sites)[1].path != run.path


def test_a_hospital_that_left_is_in_every_document(tmp_path: Path, sites: InProcessSites) -> None:
    """Trained round 1 and was revoked, and the server was started again: record, report, card and figures name it."""
    third = participant(tmp_path / "center3", site="center3", seed=7)
    sites.participants["center3"] = third
    ask = sites.ask

    def killed(questions: dict, **kwargs: object) -> object:
        if any(getattr(question, "round", 0) == 3 for question in questions.values()):
            raise InterruptedError
        exchange = ask(questions, **kwargs)
        if any(getattr(question, "round", 0) == 2 for question in questions.values()):
            answers = {site: one for site, one in exchange.answers.items() if site != "center3"}
            return replace(exchange, answers=answers)
        return exchange

    sites.ask = killed
    session, run = _session(_federation(tmp_path), sites)
    with pytest.raises(InterruptedError):
        session()
    before = run.read_record()
    sites.ask = ask
    del sites.participants["center3"]
    session, again = _session(_federation(tmp_path), sites, admitted={"center3": third})
    assert again.path == run.path
    session()
    record = run.read_record()
    assert next(row["sites"] for row in run.read_rounds()) == ["center1", "center2", "center3"]
    assert set(record["sites"]) == {"center1", "center2", "center3"}
    assert record["model_at"] == ["center1", "center2"]
    assert len(record["sessions"]) == 2
    assert record["wall_seconds"] > before["wall_seconds"] > 0
    page, card = write_report(run.path).read_text(), write_model_card(run.path).read_text()
    assert "center1, center2 and center3 trained one model together over 3 rounds, on 18 training" in page
    assert "center3 trained round 1 of 3 and took no part in the held-out evaluation" in page
    assert "took part in every round" not in page
    assert "by center1, center2 and center3" in card
    assert "| center3 | 6 (HCC" in card or "| center3 | 6 |" in card
    assert load_run(run.path).sites == ("center1", "center2", "center3")


def test_a_record_that_lost_a_hospital_does_not_hide_it(tmp_path: Path, sites: InProcessSites) -> None:
    """As versions before wrote it: the rounds have a hospital that the record lacks; the documents say so."""
    session, run = _session(_federation(tmp_path, rounds=1), sites)
    session()
    record = run.read_record()
    del record["sites"]["center2"]
    run.write_record(record)
    (run.path / "evaluation.json").unlink()
    page = write_report(run.path).read_text()
    assert "center1 and center2 trained one model" in page
    assert "6 training patients, without those of center2, which the record lacks" in page


def test_phantoms_that_left_still_mark_the_run(tmp_path: Path, sites: InProcessSites) -> None:
    """Whoever trained counts: a model that learned from phantoms stays marked when their site is gone."""
    _, run = _session(_federation(tmp_path, rounds=1), sites)
    descriptions = {
        site: one.answer(Describe(run_id=run.run_id, plan=run.read_plan()), None)[0]
        for site, one in sites.participants.items()
    }
    real = {site: about.model_copy(update={"phantom": False}) for site, about in descriptions.items()}
    run.keep_descriptions({"center1": descriptions["center1"]})
    run.keep_descriptions({"center2": real["center2"]})
    assert run.read_record()["phantom"] is True


def test_a_site_comes_back_after_a_restart_with_the_data_it_began_with(
    tmp_path: Path, sites: InProcessSites
) -> None:
    """The record remembers what a new server cannot: another dataset under the same name is excluded."""
    session, run = _session(_federation(tmp_path), sites)
    write_site_dataset(tmp_path / "other", seed=99)
    other = sites.participants["center2"].config
    sites.participants["center3"] = participant(tmp_path / "center3", site="center3", seed=7)
    plan = run.read_plan()
    about, _ = sites.participants["center2"].answer(Describe(run_id=run.run_id, plan=plan), None)
    run.keep_descriptions({"center2": about})
    moved = other.dataset.model_copy(update={"prepared": tmp_path / "other"})
    sites.participants["center2"] = Participant(other.model_copy(update={"dataset": moved}))
    recorder = Recorder()
    session.keywords["observer"] = recorder
    plan = session.keywords.get("plan") or session.args[0]
    session = partial(
        session.func, plan.model_copy(update={"sites": {}}), *session.args[1:], **session.keywords
    )
    session()
    assert any("center2 is excluded: it came back with different data" in note for note in recorder.notes)
    assert {site for row in run.read_rounds() for site in row["sites"]} == {"center1", "center3"}


def test_one_dataset_under_two_names_is_counted_once(tmp_path: Path, sites: InProcessSites) -> None:
    """Identical fingerprints, or identical held-out patients: the second is excluded, and the line names both."""
    sites.participants["center3"] = participant(tmp_path / "center3", site="center3", seed=1)
    shutil.copytree(tmp_path / "center3" / "prepared", tmp_path / "center4" / "prepared")
    sites.participants["center4"] = participant(tmp_path / "center4", site="center4", seed=1)
    recorder = Recorder()
    session, run = _session(_federation(tmp_path, rounds=1), sites, recorder=recorder)
    document = session()
    assert set(document["sites"]) == set(run.read_record()["sites"]) == {"center1", "center2"}
    for site in ("center3", "center4"):
        assert any(
            note.startswith(f"{site} is excluded: its dataset is that of center2") for note in recorder.notes
        )


def test_two_sites_without_held_out_patients_are_no_twins(tmp_path: Path, sites: InProcessSites) -> None:
    """Nothing equals nothing: an empty held-out set has the same fingerprint everywhere."""
    for number, site in enumerate(("center3", "center4")):
        sites.participants[site] = participant(
            tmp_path / site, site=site, seed=7 + number, counts={"train": 3}
        )
    session, run = _session(_federation(tmp_path, rounds=1), sites)
    session()
    assert len(run.read_rounds()[0]["sites"]) == 4


class _Slow:
    """Assembles a site's features only when it is let; tells its steps meanwhile."""

    def __init__(self, assemble: Callable[..., object]) -> None:
        self._assemble, self.go = assemble, threading.Event()

    def __call__(self, *arguments: object, compute: ComputeConfig, **facts: object) -> object:
        while not self.go.wait(0.01):
            compute.progress(3, 40)
        return self._assemble(*arguments, compute=compute, **facts)


def test_nobody_waits_for_a_site_that_computes_its_features(
    tmp_path: Path, sites: InProcessSites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run begins without it once the others are enough, says how far it is, and takes it in when it is ready."""
    third = participant(tmp_path / "center3", site="center3", seed=7)
    sites.participants["center3"] = third
    session, run = _session(_federation(tmp_path, rounds=12), sites, recorder=(recorder := Recorder()))
    slow = _Slow(participant_module.assemble)
    answer = third.answer
    third.prompt_s = 0.05

    def answering(*question: object) -> object:
        monkeypatch.setattr(participant_module, "assemble", slow)
        try:
            return answer(*question)
        finally:
            monkeypatch.setattr(participant_module, "assemble", slow._assemble)

    third.answer = answering
    session.keywords["limits"] = replace(session.keywords["limits"], grace_s=0.1, ask_again_s=0.01)
    ask = sites.ask

    def letting(questions: dict, **kwargs: object) -> object:
        if any(getattr(question, "round", 0) == 2 for question in questions.values()):
            slow.go.set()
            third.prompt_s = PATIENCE_S
        return ask(questions, **kwargs)

    sites.ask = letting
    session()
    two, three = ["center1", "center2"], ["center1", "center2", "center3"]
    rows = [row["sites"] for row in run.read_rounds()]
    assert rows[:2] == [two, two]
    assert rows == [two] * rows.count(two) + [three] * rows.count(
        three
    )  # once it is asked again, which is rarely
    assert rows[-1] == three
    assert any(part.get("center3") == "is computing features, 3 of 40" for part in recorder.seen_parts)
    assert recorder.seen_parts[-1] == dict.fromkeys(three, "takes part")
    assert any(
        "the run begins without center3, which is computing features" in note for note in recorder.notes
    )


def test_a_silent_newcomer_costs_the_others_little(tmp_path: Path, sites: InProcessSites) -> None:
    """Online and answering nothing, as a client in mid-training for a server that was killed: asked again later."""
    third = participant(tmp_path / "center3", site="center3", seed=7)
    ask, asked = sites.ask, []

    def silent(questions: dict, **kwargs: object) -> object:
        if "center3" in questions:
            asked.append(kwargs["timeout"])
            questions = {site: one for site, one in questions.items() if site != "center3"}
        return ask(questions, **kwargs)

    sites.ask = silent
    sites.participants["center3"] = third
    session, run = _session(_federation(tmp_path), sites)
    session.keywords["limits"] = replace(session.keywords["limits"], grace_s=0.0, describe_s=50.0)
    session()
    assert asked == [50.0]
    assert [row["sites"] for row in run.read_rounds()] == [["center1", "center2"]] * 3
