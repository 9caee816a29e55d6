"""Runs with `evaluation: pooled`, with participants in this process: complete tables, and nothing of one site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stic_client.participation.participant import Participant
from stic_client.participation.policy import check_plan
from stic_core import load_run
from stic_core.config import FederationConfig, PolicyConfig
from stic_core.errors import FederationError, PlanRefusedError
from stic_core.evaluation import read_evaluation
from stic_core.evaluation.held_out_counts import HeldOutCounts, held_out_counts, size_of, summed_figures
from stic_core.privacy.looks import HeldOutLooks, Look
from stic_core.privacy.secure_aggregation.fixed_point import encode_counts
from stic_core.privacy.secure_aggregation.masks import masked, ring_sum, without_own
from stic_core.protocol.compression import WireArray
from stic_core.protocol.mask_messages import MaskKeysReport, MaskSharesReport, SurvivorsReport
from stic_core.protocol.messages import (
    EvaluateHeldOut,
    HeldOutAnswer,
    Instruction,
    PooledAnswer,
    Refusal,
    Report,
    decode_instruction,
    encode,
)
from stic_core.statistics import Suppressed
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import Exchange, RunLimits, read_answer
from stic_server.report import write_report
from stic_server.report.model_card import write_model_card
from support.federation_kit import InProcessSites, Recorder, participant
from support.masked_sites import KilledError
from support.waiting import PATIENCE_S

NAMES = ("center1", "center2", "center3", "center4")


def federation(tmp_path: Path, **changes: object) -> FederationConfig:
    """One round of a small federation, evaluated in sums alone."""
    return FederationConfig.model_validate(
        {
            "name": "test",
            "model": {"backbone": "tiny"},
            "rounds": 1,
            "training": {"views": 1, "batch_size": 4, "local_epochs": 1},
            "runs": tmp_path / "runs",
            "local_only": False,
            "secure_aggregation": True,
            "evaluation": "pooled",
            **changes,
        }
    )


class MeddledSites(InProcessSites):
    """Sites of which some may be away, and whose exchanges a test may meddle with.

    `on_question` gives what a site is asked instead, `on_answer` what arrives instead; None where nothing does.
    """

    def __init__(self, participants: Mapping[str, Participant]) -> None:
        super().__init__(participants)
        self.reports: list[tuple[str, Report, WireArray | None]] = []
        self.on_question: Callable[[str, Instruction], Instruction | None] = lambda site, question: question
        self.on_answer: Callable[[str, Report], Report | None] = lambda site, report: report

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: WireArray | None, timeout: float
    ) -> Exchange:
        """One after the other."""
        answers = {}
        for site, asked in questions.items():
            if (question := self.on_question(site, asked)) is None:
                continue
            self.asked.append(question)
            report, wire = self.participants[site].answer(
                decode_instruction(encode(question)), None if weights is None else weights.copy()
            )
            self.reports.append((site, report, wire))
            if (arrived := self.on_answer(site, report)) is not None:
                answers[site] = read_answer(encode(arrived), wire)
        return Exchange(answers)

    def restart(self, site: str) -> None:
        """The site's process begins anew."""
        self.participants[site] = Participant(self.participants[site].config)


def sites_of(tmp_path: Path, *, number: int = 3) -> MeddledSites:
    """Sites with random patients, twelve held out at each."""
    return MeddledSites(
        {
            name: participant(
                tmp_path / name, site=name, seed=place, counts={"train": 6, "val": 6, "test": 12}
            )
            for place, name in enumerate(NAMES[:number])
        }
    )


def run_of(
    config: FederationConfig, sites: InProcessSites, recorder: Recorder | None = None
) -> tuple[Callable[[], dict], RunFolder]:
    """A run that is ready to be executed, and its folder."""
    proposal = training_of(config, sites=sites.public_keys)
    run = RunFolder.begin(config, proposal.plan)
    limits = RunLimits(min_sites=2, join_timeout_s=PATIENCE_S, round_timeout_s=PATIENCE_S)
    session = partial(
        execute,
        proposal.plan,
        proposal.weights,
        run=run,
        sites=sites,
        limits=limits,
        observer=recorder or Recorder(),
    )
    return session, run


def looks_of(sites: InProcessSites) -> dict[str, list[Look]]:
    """What each site wrote down of its held-out patients."""
    return {name: list(HeldOutLooks(one.config.held_out)) for name, one in sites.participants.items()}


def summed(sites: InProcessSites, names: tuple[str, ...]) -> np.ndarray:
    """The sum of the sites' plain counts, from the scores that lie in their ledgers."""
    return sum(
        held_out_counts(look.scores, np.array(look.labels), classes=look.classes).vector
        for name in names
        for look in looks_of(sites)[name]
    )


def test_the_pooled_table_is_complete(tmp_path):
    """Three sites: every cell of the confusion matrix is the sum of the sites' own; nothing of one site is told."""
    sites = sites_of(tmp_path)
    session, run = run_of(federation(tmp_path), sites)
    session()
    evaluation = read_evaluation(run.path / "evaluation.json")
    expected = summed(sites, NAMES[:3])
    k = len(evaluation.classes)
    assert np.array_equal(np.array(evaluation.pooled.confusion).ravel(), expected[: k * k])
    assert evaluation.sites == {}
    assert evaluation.pooled_over == NAMES[:3]
    assert evaluation.pooled.n == 36
    assert all(rate.total == 12 for rate in evaluation.pooled.sensitivity.values())
    assert [len(looks) for looks in looks_of(sites).values()] == [1, 1, 1]
    assert not [answer for _, answer, _ in sites.reports if isinstance(answer, HeldOutAnswer)]
    page = write_report(run.path).read_text()
    assert "Pooled evaluation" in page
    assert 'id="between"' not in page
    assert {"confusion.csv", "roc.csv"} <= {path.name for path in (run.path / "report").iterdir()}
    assert not (run.path / "report" / "heterogeneity.csv").exists()
    frame = load_run(run.path).held_out
    assert set(frame[frame["value"].notna()]["held_out_set"]) == {"pooled"}
    reasons = frame[frame["held_out_set"] == "center1"]["reason"]
    assert reasons.str.contains("in the pooled sum").all()
    assert "how the model does at each hospital is not known" in write_model_card(run.path).read_text()


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_site_that_is_gone_is_not_in_the_sum(tmp_path, point):
    """Gone before or after it masked its counts: the table is that of the three that are left."""
    sites = sites_of(tmp_path, number=4)
    gone = set()

    def asked(site: str, question: Instruction) -> Instruction | None:
        if site == "center2" and isinstance(question, EvaluateHeldOut):
            gone.add(site)
            if point == "after":
                sites.participants[site].answer(question, sites.model)
        return None if site in gone else question

    real = sites.ask

    def ask(questions, *, weights, timeout):
        sites.model = weights
        return real(questions, weights=weights, timeout=timeout)

    sites.ask, sites.on_question = ask, asked
    session, run = run_of(federation(tmp_path), sites)
    session()
    evaluation = read_evaluation(run.path / "evaluation.json")
    left = ("center1", "center3", "center4")
    assert evaluation.pooled_over == left
    k = len(evaluation.classes)
    assert np.array_equal(np.array(evaluation.pooled.confusion).ravel(), summed(sites, left)[: k * k])


@pytest.mark.parametrize("point", [MaskKeysReport, MaskSharesReport, PooledAnswer, SurvivorsReport])
def test_two_hospitals_are_never_opened(tmp_path, point):
    """One of three is gone, and two would be the threshold of a round: no share of a mask leaves, and the run says it."""
    sites = sites_of(tmp_path)
    trained = []

    def answered(site: str, report: Report) -> Report | None:
        evaluates = sites.asked[-1].kind == "evaluate-held-out" or getattr(sites.asked[-1], "round", 1) == 0
        trained.append(evaluates)
        return None if site == "center3" and evaluates and isinstance(report, point) else report

    sites.on_answer = answered
    session, _ = run_of(federation(tmp_path), sites)
    with pytest.raises(
        FederationError, match="the held-out evaluation cannot be summed; nothing of it was revealed"
    ):
        session()
    opened = [one for one in sites.asked if one.kind == "unmask" and one.round == 0]
    assert opened == []
    sites.on_answer = lambda site, report: report  # the third is back, and the same run goes on
    session()
    assert [len(looks) for looks in looks_of(sites).values()] == [1, 1, 1]


def answers_again(sites: MeddledSites, site: str, kind: str, **changes: object) -> list[Report]:
    """What a site answers to the questions of the evaluation when they come again, changed."""
    asked = [one for one in sites.asked if one.kind == kind and getattr(one, "round", 0) == 0]
    return [
        sites.participants[site].answer(one.model_copy(update=changes), sites.weights)[0] for one in asked
    ]


def test_a_hostile_server_gets_nothing_more(tmp_path):
    """Asked without masks, for two hospitals, over others than before, or with used keys: the site refuses."""
    sites = sites_of(tmp_path)
    sites.weights = None
    real = sites.ask

    def ask(questions, *, weights, timeout):
        if any(isinstance(one, EvaluateHeldOut) for one in questions.values()):
            sites.weights = weights
        return real(questions, weights=weights, timeout=timeout)

    sites.ask = ask
    session, _ = run_of(federation(tmp_path), sites)
    sites.on_answer = lambda site, report: report
    finish = []

    def kept_open(site: str, question: Instruction) -> Instruction | None:
        finish.append(question.kind)
        return None if question.kind == "finish" else question

    sites.on_question = kept_open
    session()
    assert all(
        isinstance(one, Refusal) for one in answers_again(sites, "center1", "evaluate-held-out", masking=None)
    )
    for survivors in (("center1", "center2"), ("center1", "center3")):
        found = answers_again(sites, "center1", "survivors", survivors=survivors)
        assert found
        assert all(isinstance(one, Refusal) for one in found)
    sites.restart("center1")
    describe = next(one for one in sites.asked if one.kind == "describe")
    sites.participants["center1"].prompt_s = None
    sites.participants["center1"].answer(describe, None)
    again = answers_again(sites, "center1", "evaluate-held-out")
    assert all(isinstance(one, Refusal) for one in again)  # the masks are used up
    assert [len(looks) for looks in looks_of(sites).values()] == [1, 1, 1]


def test_a_second_sum_is_over_the_same_hospitals(tmp_path):
    """A second plan with nearly the same model: the sites let it be summed over the same hospitals only."""
    sites = sites_of(tmp_path, number=4)
    session, _ = run_of(federation(tmp_path), sites)
    session()
    sites.on_question = lambda site, question: (
        None if site == "center4" and isinstance(question, EvaluateHeldOut) else question
    )
    recorder = Recorder()
    session, _ = run_of(federation(tmp_path / "second", name="second"), sites, recorder)
    with pytest.raises(FederationError, match="nothing of it was revealed"):
        session()
    sites.on_question = lambda site, question: question
    session()


def test_no_figures_of_its_own_after_a_sum(tmp_path):
    """A model that was counted in a sum: asked for its own figures of it, a site keeps them."""
    sites = sites_of(tmp_path)
    session, _ = run_of(federation(tmp_path), sites)
    session()
    plain = federation(tmp_path / "plain", name="plain", evaluation="per-site")
    session, run = run_of(plain, sites)
    session()
    evaluation = read_evaluation(run.path / "evaluation.json")
    assert all(isinstance(figures.confusion, Suppressed) for figures in evaluation.sites.values())


def test_no_sum_after_figures_of_its_own(tmp_path):
    """A model of which the sites told figures by themselves: they add nothing to a sum that would complete these."""
    sites = sites_of(tmp_path)
    session, _ = run_of(federation(tmp_path, name="plain", evaluation="per-site"), sites)
    session()
    recorder = Recorder()
    session, _ = run_of(federation(tmp_path / "pooled"), sites, recorder)
    with pytest.raises(FederationError, match="nothing of it was revealed"):
        session()
    assert any("told by itself" in note for note in recorder.notes)


def test_two_hospitals_are_no_pool(tmp_path):
    """A plan with two hospitals is refused by the sites, and a policy may refuse pooled counts."""
    sites = sites_of(tmp_path, number=2)
    plan = training_of(federation(tmp_path), sites=sites.public_keys).plan
    with pytest.raises(PlanRefusedError, match="hospitals with evaluation: pooled"):
        check_plan(plan, PolicyConfig())
    plan = training_of(federation(tmp_path), sites=sites_of(tmp_path / "three").public_keys).plan
    check_plan(plan, PolicyConfig(evaluation="pooled"))
    with pytest.raises(PlanRefusedError, match="evaluation"):
        check_plan(plan, PolicyConfig(evaluation="per-site"))
    with pytest.raises(PlanRefusedError, match="histograms"):
        check_plan(plan, PolicyConfig(release=("accuracy", "auc", "calibration", "confusion")))
    with pytest.raises(ValueError, match="needs secure_aggregation"):
        federation(tmp_path, secure_aggregation=False)


def test_a_server_killed_in_the_evaluation_goes_on(tmp_path):
    """Killed at any question of it, and started again, it has the sum; a site that was restarted is in it too."""
    for point in ("mask-keys", "mask-shares", "evaluate-held-out", "survivors", "unmask"):
        folder = tmp_path / point
        sites = sites_of(folder)

        def kill(site: str, question: Instruction, point=point) -> Instruction:
            if site == "center2" and question.kind == point and getattr(question, "round", 0) == 0:
                raise KilledError
            return question

        sites.on_question = kill
        session, run = run_of(federation(folder), sites)
        with pytest.raises(KilledError):
            session()
        sites.on_question = lambda site, question: question
        sites.restart("center3")
        session()
        evaluation = read_evaluation(run.path / "evaluation.json")
        k = len(evaluation.classes)
        expected = summed(sites, NAMES[:3])[: k * k]
        assert np.array_equal(np.array(evaluation.pooled.confusion).ravel(), expected), point


@given(
    counts=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2**16)), min_size=2, max_size=4),
    k=st.integers(2, 3),
)
@settings(max_examples=15, deadline=None)
def test_summed_counts_are_those_of_all_patients(counts, k):
    """Counts of sites add up to the counts of their patients together, sums of losses to a thousandth each."""
    classes, sites = ("A", "B", "C")[:k], []
    for n, seed in counts:
        rng = np.random.default_rng(seed)
        sites.append((rng.normal(size=(n, k)) * 3, rng.integers(0, k, n)))
    parts = [held_out_counts(logits, labels, classes=classes).vector for logits, labels in sites]
    keys = {place: bytes([place]) * 32 for place in range(len(parts))}
    hidden = [
        masked(
            encode_counts([int(x) for x in part], sites=len(parts)),
            site=str(place),
            own=keys[place],
            pairs={str(other): bytes([100 + place + other]) * 32 for other in keys if other != place},
        )
        for place, part in enumerate(parts)
    ]
    total = without_own(ring_sum(hidden), keys.values()).astype(np.int64)
    assert len(total) == size_of(k)
    together = held_out_counts(
        np.concatenate([logits for logits, _ in sites]),
        np.concatenate([labels for _, labels in sites]),
        classes=classes,
    ).vector
    assert np.array_equal(total[:-2], together[:-2])
    assert np.abs(total[-2:] - together[-2:]).max() <= len(sites)
    n = sum(n for n, _ in counts)
    figures = summed_figures(HeldOutCounts.of_vector(total, classes=k), classes=classes, patients=n)
    assert figures.n == n
    with pytest.raises(FederationError, match="honest counts"):
        summed_figures(HeldOutCounts.of_vector(total, classes=k), classes=classes, patients=n + 1)
