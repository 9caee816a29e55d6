"""Runs with `evaluation: pooled`, with participants in this process: complete tables, and nothing of one site."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from stic_client.participation.participant import Participant
from stic_core.config import FederationConfig
from stic_core.errors import FederationError
from stic_core.evaluation import read_evaluation
from stic_core.evaluation.held_out_counts import held_out_counts, size_of
from stic_core.privacy.looks import HeldOutLooks, Look
from stic_core.protocol.compression import WireArray
from stic_core.protocol.mask_messages import MaskKeysReport, MaskSharesReport, SurvivorsReport, UnmaskReport
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
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import Exchange, RunLimits, read_answer
from stic_server.report import write_report
from support.federation_kit import InProcessSites, Recorder, participant
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
