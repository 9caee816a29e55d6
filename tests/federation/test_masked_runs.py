"""Whole trainings with secure aggregation over sites that train by arithmetic: sums, faults, kills."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stic_client.participation import mask_state
from stic_core.config import FederationConfig
from stic_core.errors import FederationError
from stic_core.privacy.secure_aggregation.exchange import MaskedExchange
from stic_core.protocol.mask_messages import (
    MaskKeysReport,
    MaskSharesReport,
    SurvivorsReport,
    UnmaskReport,
    keys_statement,
)
from stic_core.protocol.messages import Instruction, RoundReport, RunPlan, TrainRound
from stic_core.system.keys import load_private, sign
from stic_server.federation.participants import Participants
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from stic_server.federation.training import Rounds
from support.federation_kit import Recorder
from support.masked_sites import INITIAL, KilledError, MaskedSites, masked_plan, masked_sites, update_of

FIVE = ("a", "b", "c", "d", "e")
POINTS = (MaskKeysReport, MaskSharesReport, RoundReport, SurvivorsReport, UnmaskReport)


def _train(folder: Path, sites: MaskedSites, plan: RunPlan, recorder: Recorder | None = None) -> np.ndarray:
    """The weights after all rounds; a run in this folder that was interrupted goes on."""
    config = FederationConfig.model_validate(
        {"name": "test", "model": {"backbone": "tiny"}, "runs": folder / "runs"}
    )
    run = RunFolder.begin(config, plan)
    limits = RunLimits(
        min_sites=plan.threshold, join_timeout_s=0.5, round_timeout_s=5, ask_again_s=0.01, grace_s=0.1
    )
    known = run.read_descriptions()
    participants = Participants(
        plan, run_id=run.run_id, sites=sites, limits=limits, observer=recorder or Recorder(), known=known
    )
    participants.gather()
    run.begin_session()
    run.keep_descriptions(participants.descriptions)
    return Rounds(participants, run).train(INITIAL).weights


def _averaged(sites: MaskedSites, weights: np.ndarray, names: Sequence[str]) -> np.ndarray:
    patients = [sites.sites[name].patients for name in names]
    return weights + np.average([update_of(name, weights) for name in names], axis=0, weights=patients)


def _check_nothing_given_away(sites: MaskedSites) -> None:
    """What the sites sent: per exchange one masked update of each, and one kind of share of each site."""
    wires, kinds, serials = defaultdict(set), defaultdict(set), {}
    for site, question, report, wire in sites.answered:
        if isinstance(report, RoundReport) and wire is not None:
            serial = question.masking.serial
            wires[site, serial].add(wire.tobytes())
        if isinstance(report, UnmaskReport):
            serials[question.serial] = question.round
            for owner in report.seeds:
                kinds[question.serial, owner].add("seed")
            for owner in report.mask_keys:
                kinds[question.serial, owner].add("key")
    assert all(len(sent) == 1 for sent in wires.values())
    assert all(len(kind) == 1 for kind in kinds.values())


def test_masked_rounds_give_the_average(tmp_path):
    """Three rounds, and the model is FedAvg's to a millionth; only the first round has a set-up of its own."""
    sites = masked_sites(tmp_path, FIVE)
    weights = _train(tmp_path, sites, masked_plan(sites))
    expected = INITIAL.astype(np.float64)
    for _ in range(3):
        expected = _averaged(sites, expected.astype(np.float32), FIVE)
    assert np.linalg.norm(weights - expected) < 1e-6 * np.linalg.norm(expected)
    asked = [question.kind for site, question in sites.asked if site == "a"]
    each = ["train-round", "survivors", "unmask"]
    assert asked == ["describe", "mask-keys", "mask-shares", *(3 * each), "train-round"]
    _check_nothing_given_away(sites)


def test_two_hospitals_can_be_summed(tmp_path):
    """With two, both are needed."""
    sites = masked_sites(tmp_path, ("a", "b"))
    plan = masked_plan(sites, rounds=1)
    assert plan.threshold == 2
    weights = _train(tmp_path, sites, plan)
    assert np.allclose(weights, _averaged(sites, INITIAL, ("a", "b")), atol=1e-7)


def test_a_site_without_training_patients_is_masked_too(tmp_path):
    """It adds nothing to the sum."""
    sites = masked_sites(tmp_path, ("a", "b", "c"), patients=(10, 20, 0))
    weights = _train(tmp_path, sites, masked_plan(sites, rounds=1))
    assert np.allclose(weights, _averaged(sites, INITIAL, ("a", "b")), atol=1e-7)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("lost", [("a",), ("e",), ("a", "b"), ("b", "d")])
def test_any_minority_may_be_killed_at_any_point(tmp_path, point, lost):
    """Whoever of five is gone, from whichever message on: the rounds are those of the others, and are not repeated."""
    sites = masked_sites(tmp_path, FIVE)
    plan = masked_plan(sites, rounds=2, threshold=0.51)

    def gone(site: str, question: Instruction, report: object) -> object:
        if site in lost and isinstance(report, point):
            sites.away.add(site)
        return None if site in sites.away else report

    sites.on_answer = gone
    recorder = Recorder()
    weights = _train(tmp_path, sites, plan, recorder)
    left = [name for name in FIVE if name not in lost]
    # Who is killed when its masked update was already summed is in that round.
    first = FIVE if point in (SurvivorsReport, UnmaskReport) else left
    expected = _averaged(sites, _averaged(sites, INITIAL, first).astype(np.float32), left)
    assert np.linalg.norm(weights - expected) < 1e-6 * np.linalg.norm(expected)
    assert not [note for note in recorder.notes if "Trying again" in note]
    _check_nothing_given_away(sites)


@pytest.mark.parametrize("point", [MaskKeysReport, MaskSharesReport, RoundReport, SurvivorsReport])
def test_below_the_threshold_nothing_is_revealed(tmp_path, point):
    """Two of five are left from some point on: the round is tried again, fails, and no share ever leaves."""
    sites = masked_sites(tmp_path, FIVE)
    plan = masked_plan(sites, rounds=1)

    def gone(site: str, question: Instruction, report: object) -> object:
        return None if site in "abc" and isinstance(report, point) else report

    sites.on_answer = gone
    with pytest.raises(FederationError, match="nothing of it was revealed"):
        _train(tmp_path, sites, plan)
    assert "unmask" not in {question.kind for _, question in sites.asked}
    serials = [
        question.serial for site, question in sites.asked if question.kind == "mask-keys" and site == "d"
    ]
    assert serials == sorted(set(serials))
    assert len(serials) == 3  # new keys for each attempt
    _check_nothing_given_away(sites)


def test_a_server_killed_anywhere_ends_with_the_same_bits(tmp_path):
    """Killed in the middle of any exchange and started again, it has the model of a run that nobody killed."""
    whole = masked_sites(tmp_path / "whole", ("a", "b", "c"))
    expected = _train(tmp_path / "whole", whole, masked_plan(whole, rounds=2))
    for killed_at in range(4, len(whole.asked), 3):  # each exchange has reached one of three sites
        folder = tmp_path / str(killed_at)
        sites = masked_sites(folder, ("a", "b", "c"))
        plan = masked_plan(sites, rounds=2)

        def kill(site: str, question: Instruction, sites=sites, killed_at=killed_at) -> Instruction:
            if len(sites.asked) == killed_at:
                raise KilledError
            return question

        sites.on_question = kill
        with pytest.raises(KilledError):
            _train(folder, sites, plan)
        sites.on_question = lambda site, question: question
        assert np.array_equal(_train(folder, sites, plan), expected), killed_at
        _check_nothing_given_away(sites)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_site_killed_at_any_write_masks_nothing_twice(tmp_path, monkeypatch, when):
    """Killed just before or after any write of its state, it is missing from a round at most."""
    real, writes = mask_state.write_atomically, []

    def write(path: Path, content: str, **options: object) -> None:
        of_a = path.parts[-4] == "a" if len(path.parts) > 3 else False
        if of_a:
            writes.append(path)
        if of_a and len(writes) == kill_at and when == "before":
            raise KilledError
        real(path, content, **options)
        if of_a and len(writes) == kill_at and when == "after":
            raise KilledError

    monkeypatch.setattr(mask_state, "write_atomically", write)
    kill_at = 0
    sites = masked_sites(tmp_path / "0", ("a", "b", "c"))
    _train(tmp_path / "0", sites, masked_plan(sites, rounds=2))
    total = len(writes)
    assert total == 7  # keys, shares; update, list and shares; update, list
    for number in range(1, total + 1):
        kill_at, writes[:] = number, []
        sites, recorder, expected = masked_sites(tmp_path / str(number), ("a", "b", "c")), Recorder(), INITIAL
        weights = _train(tmp_path / str(number), sites, masked_plan(sites, rounds=2), recorder)
        for row in recorder.rows:
            expected = _averaged(sites, expected, row["sites"]).astype(np.float32)
        assert np.allclose(weights, expected, atol=1e-7)
        missing = [row["round"] for row in recorder.rows if "a" not in row["sites"]]
        assert len(missing) <= 1
        _check_nothing_given_away(sites)


def test_a_process_for_each_message_masks_as_well(tmp_path):
    """A stock SuperNode starts a process per message: all that a site knows of its masks is on its disk."""
    sites = masked_sites(tmp_path, ("a", "b", "c"))
    plan = masked_plan(sites, rounds=2)

    def ended(site: str, question: Instruction, report: object) -> object:
        if question.kind not in ("describe", "finish"):
            sites.sites[site].begin(plan, question.run_id)
        return report

    sites.on_answer = ended
    recorder = Recorder()
    weights = _train(tmp_path, sites, plan, recorder)
    expected = _averaged(sites, _averaged(sites, INITIAL, "abc").astype(np.float32), "abc")
    assert np.allclose(weights, expected, atol=1e-7)
    assert not [note for note in recorder.notes if "Trying again" in note]


def test_equal_runs_have_equal_bits(tmp_path):
    """Whatever the masks, two runs with the same data end with the same model."""
    found = []
    for place in "xy":
        sites = masked_sites(tmp_path / place, ("a", "b", "c"))
        found.append(_train(tmp_path / place, sites, masked_plan(sites)))
    assert np.array_equal(*found)


def test_clipped_values_are_counted_in_the_sum(tmp_path):
    """The row of a round says how many values were clipped and how many updates scaled down, over all sites."""
    sites = masked_sites(tmp_path, ("a", "b", "c"))
    recorder = Recorder()
    _train(tmp_path, sites, masked_plan(sites, rounds=1, clip=0.01, max_update_norm=0.0125), recorder)
    figures = recorder.rows[0]["algorithm"]
    expected = 0
    bound = 0.0125 * np.linalg.norm(INITIAL)
    scaled = 0
    for name in sites.sites:
        update = ((INITIAL + update_of(name, INITIAL)) - INITIAL).astype(np.float64)
        if (norm := np.linalg.norm(update)) > bound:
            update *= bound / norm
            scaled += 1
        expected += int((np.abs(update) > 0.01).sum())
    assert expected > 0
    assert scaled > 0
    assert (figures["clipped_values"], figures["scaled_down_updates"]) == (expected, scaled)
    assert recorder.rows[0]["update_norm"] == {}


def test_a_site_that_sends_noise_is_noticed_and_not_averaged(tmp_path):
    """The sum is longer than honest updates can be: the round is refused, though masks hide who it was."""
    sites = masked_sites(tmp_path, ("a", "b", "c"))
    plan = masked_plan(sites, rounds=1)
    honest = sites.sites["b"].answer

    def lying(question: Instruction, weights: np.ndarray | None) -> tuple:
        report, wire = honest(question, weights)
        if isinstance(question, TrainRound) and wire is not None:
            values = wire.view("<u4").copy()
            values[:-2] += 2**30
            wire = values.view(np.uint8)
            report = report.model_copy(update={"weights_digest": hashlib.sha256(wire.tobytes()).hexdigest()})
        return report, wire

    sites.sites["b"].answer = lying
    with pytest.raises(FederationError, match="not one of honest updates"):
        _train(tmp_path, sites, plan)


@pytest.mark.parametrize("wrong", ["small order", "signature", "patients"])
def test_a_site_with_wrong_keys_is_left_out(tmp_path, wrong):
    """Keys that nobody can use or trust are refused by the server, by name, and the others go on."""
    sites = masked_sites(tmp_path, ("a", "b", "c"))
    zero = "A" * 43 + "="

    def lie(site: str, question: Instruction, report: object) -> object:
        if site != "b" or not isinstance(report, MaskKeysReport):
            return report
        keys = report.keys.model_copy(
            update={"small order": {"mask_key": zero}, "signature": {}, "patients": {"patients": 999}}[wrong]
        )
        exchange = MaskedExchange(question.run_id, question.plan_digest, question.round, question.serial)
        key = load_private(sites.sites["a" if wrong == "signature" else "b"].folder / "site.key")
        return MaskKeysReport(
            keys=keys.model_copy(update={"signature": sign(key, keys_statement(exchange, keys))})
        )

    sites.on_answer = lie
    recorder = Recorder()
    weights = _train(tmp_path, sites, masked_plan(sites, rounds=1), recorder)
    assert np.allclose(weights, _averaged(sites, INITIAL, "ac"), atol=1e-7)
    assert [note for note in recorder.notes if note.startswith("b: ")]


def test_wrong_shares_are_worked_around_and_named(tmp_path):
    """With one share to spare a lying holder changes nothing; with none, the round fails and is not opened otherwise."""
    sites = masked_sites(tmp_path / "four", ("a", "b", "c", "d"))

    def lie(site: str, question: Instruction, report: object) -> object:
        if site == "a" and isinstance(report, UnmaskReport):
            return report.model_copy(update={"seeds": dict.fromkeys(report.seeds, "A" * 43 + "=")})
        return report

    sites.on_answer = lie
    weights = _train(tmp_path / "four", sites, masked_plan(sites, rounds=1))
    assert np.allclose(weights, _averaged(sites, INITIAL, ("a", "b", "c", "d")), atol=1e-7)
    sites = masked_sites(tmp_path / "two", ("a", "b"))
    sites.on_answer = lie
    with pytest.raises(FederationError, match="cannot be opened yet"):
        _train(tmp_path / "two", sites, masked_plan(sites, rounds=1))


def test_a_late_site_takes_part_from_the_next_round_on(tmp_path):
    """A site that was away when keys were exchanged gets new ones with the others."""
    sites = masked_sites(tmp_path, ("a", "b", "c"))
    plan = masked_plan(sites, rounds=2)
    sites.away.add("c")

    def back(site: str, question: Instruction, report: object) -> object:
        if isinstance(report, UnmaskReport):
            sites.away.discard("c")
        return report

    sites.on_answer = back
    weights = _train(tmp_path, sites, plan)
    first = _averaged(sites, INITIAL, ("a", "b")).astype(np.float32)
    assert np.allclose(weights, _averaged(sites, first, ("a", "b", "c")), atol=1e-7)
