"""Cues beside a result: no better than chance from the interval, still improving from the trend; silence else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stic_core.config import PolicyConfig
from stic_core.evaluation import Evaluation, evaluation_document, read_evaluation, site_report
from stic_core.evaluation.figures import AucFigure
from stic_core.evaluation.run_facts import facts_of
from stic_core.statistics import NotEstimable, Suppressed
from stic_server.report.cues import Cue, chance_cues, side_of_chance, training_cue
from stic_server.report.notices import notices_of
from support.sample_run import write_sample_run
from support.samples import held_out

CLASSES = ("HCC", "ICC", "META")
COUNTS = (20, 20, 20)


def evaluation(
    sites: dict[str, tuple[np.ndarray, np.ndarray]], classes: Sequence[str] = CLASSES
) -> Evaluation:
    """One model on each site's logits and labels."""
    return evaluation_document(
        model_digest="0" * 64,
        task="malignant",
        classes=tuple(classes),
        phantom=True,
        federated={
            site: site_report(logits, labels, classes=classes, policy=PolicyConfig())
            for site, (logits, labels) in sites.items()
        },
        local_only={},
    )


def headlines(found: Evaluation) -> list[str]:
    """Of its cues."""
    return [cue.headline for cue in chance_cues(found)]


def test_a_good_model_is_not_doubted() -> None:
    """Where every interval lies above chance nothing is said, for three classes and for two."""
    assert headlines(evaluation({"a": held_out(1, COUNTS), "b": held_out(2, COUNTS)})) == []
    two = {"a": held_out(1, (30, 30)), "b": held_out(2, (30, 30))}
    assert headlines(evaluation(two, CLASSES[:2])) == []


def test_chance_is_said_from_the_interval() -> None:
    """Scores that say nothing, and too few patients to show what they say: the interval includes .5."""
    (nothing,) = headlines(evaluation({"a": held_out(1, COUNTS, skill=0.0)}))
    assert nothing.startswith("No better than chance")
    few = evaluation({"a": held_out(3, (10, 10), skill=0.5)}, CLASSES[:2])
    assert isinstance(few.pooled.auc_macro, AucFigure)
    assert few.pooled.auc_macro.value > 0.6
    assert headlines(few) == ["No better than chance, as far as these patients show"]


def test_reversed_labels_are_worse_than_chance() -> None:
    """A model that orders patients the wrong way round; at one hospital of two, that hospital is named."""
    logits, labels = held_out(1, (30, 30), skill=1.5)
    assert headlines(evaluation({"a": (-logits, labels)}, CLASSES[:2])) == ["Worse than chance"]
    sites = {"a": held_out(2, (60, 60), skill=2.5), "b": (-logits, labels)}
    assert "Worse than chance at b" in headlines(evaluation(sites, CLASSES[:2]))


def test_equal_scores_are_chance() -> None:
    """A collapsed model gives everybody the same score: its AUC is .5."""
    _, labels = held_out(1, (30, 30))
    found = evaluation({"a": (np.zeros((60, 2)), labels)}, CLASSES[:2])
    assert headlines(found)[0].startswith("No better than chance")


@pytest.mark.parametrize("scatter", [0.0, 1.0, 4.0])
def test_a_nearly_perfect_model_is_not_doubted(scatter: float) -> None:
    """At 1 there is no interval, and close to it the logit interval spans everything: nobody calls that chance."""
    logits, labels = held_out(1, (30, 30), skill=0.0)
    found = evaluation({"a": (20 * np.eye(2)[labels] + scatter * logits, labels)}, CLASSES[:2])
    assert headlines(found) == []


def test_one_class_at_chance() -> None:
    """Two classes that are told apart carry the mean; the one that is not is named."""
    logits, labels = held_out(1, (40, 40, 40), skill=0.0)
    known = labels != 2
    logits[known, labels[known]] += 3.0
    logits[:, 2] = np.random.default_rng(0).normal(size=120) + np.logaddexp(logits[:, 0], logits[:, 1])
    weak = [name for name in headlines(evaluation({"a": (logits, labels)})) if name.endswith("META")]
    assert weak == ["No better than chance for META"]


def test_hospitals_that_differ_are_no_skill() -> None:
    """Scores that only tell the hospital look good pooled, where hospitals have other shares of a class."""
    rng = np.random.default_rng(3)

    def site(share: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
        labels = (np.arange(100) < 100 * share).astype(int)
        logits = np.stack([np.zeros(100), rng.normal(size=100) + shift], axis=1)
        return logits, labels

    found = headlines(evaluation({"a": site(0.9, 3.0), "b": site(0.1, -3.0)}, CLASSES[:2]))
    assert found == ["No better than chance within the hospitals"]


def test_without_an_auc_accuracy_is_compared_with_the_commonest_class() -> None:
    """Hospitals that keep AUCs back may still release accuracy; always naming one class is no success."""
    good = evaluation({"a": held_out(1, (80, 20, 20), skill=3.0)})
    kept = Suppressed("policy")
    silent = replace(good, pooled=replace(good.pooled, auc_macro=kept))
    assert headlines(silent) == []
    bad = evaluation({"a": held_out(1, (80, 20, 20), skill=0.0)})
    silent = replace(bad, pooled=replace(bad.pooled, auc_macro=kept))
    assert headlines(silent) == ["No better than always naming the commonest class"]


def test_the_side_of_chance_by_hand() -> None:
    """Above, below, across; without an interval the value itself."""

    def auc(value: float, interval: tuple[float, float] | NotEstimable) -> AucFigure:
        return AucFigure(value, 0.1, interval, interval)

    none = NotEstimable("no variance")
    assert [side_of_chance(auc(0.6, ends)) for ends in ((0.51, 0.7), (0.5, 0.7), (0.3, 0.49), none)] == [
        1,
        0,
        -1,
        1,
    ]
    assert side_of_chance(auc(0.5, none)) == 0


def rows(losses: Sequence[float | None], *, sites: Sequence[str] = ("a", "b")) -> list[dict[str, Any]]:
    """Lines of rounds.jsonl with these pooled validation losses."""
    return [
        {
            "round": number,
            "sites": list(sites),
            "val": {}
            if loss is None
            else {"pooled": {"loss": loss, "n": 20}} | {site: {"loss": loss, "n": 10} for site in sites},
        }
        for number, loss in enumerate(losses, start=1)
    ]


def cue(losses: Sequence[float | None], *, rounds: int | None = None, **facts: object) -> str:
    """The headline for a complete run of these losses; empty where nothing is said."""
    record = {"status": "complete", "config": {"rounds": rounds or len(losses)}} | facts
    found = training_cue(record, rounds=rows(losses))
    return "" if found is None else found.headline


def decay(rounds: int, *, constants: float) -> list[float]:
    """A loss that falls exponentially over so many time constants."""
    return [0.4 + 0.7 * float(np.exp(-constants * t / rounds)) for t in range(1, rounds + 1)]


@pytest.mark.parametrize("rounds", [6, 20, 150])
def test_a_loss_that_falls_to_the_end(rounds: int) -> None:
    """One or two time constants: much of the way is left, and it is said."""
    assert cue(decay(rounds, constants=1)).startswith("Still improving")
    assert cue(decay(rounds, constants=2)).startswith("Still improving")


def test_the_demo_of_twenty_rounds() -> None:
    """Losses of a real run, whose best round was the 18th of 20: 150 rounds gave a better model."""
    losses = [1.1615, 1.0772, 1.0041, 0.94, 0.8619, 0.7891, 0.7398, 0.6748, 0.6333, 0.5976]
    losses += [0.5763, 0.5504, 0.5344, 0.5176, 0.5152, 0.507, 0.5156, 0.488, 0.4959, 0.4976]
    assert cue(losses).startswith("Still improving")


@pytest.mark.parametrize("rounds", [20, 50, 150])
def test_a_loss_that_has_settled(rounds: int) -> None:
    """After seven time constants the last round is still the best by a hair: more rounds would not help."""
    assert cue(decay(rounds, constants=7)) == ""


def test_scatter_is_no_improvement() -> None:
    """Of 400 runs on a plateau, few have both a best round near the end and a clear fall before it."""
    rng = np.random.default_rng(0)
    false = sum(bool(cue(list(0.5 + 0.02 * rng.normal(size=20)))) for _ in range(400))
    assert false <= 12


def test_overfitting_is_not_improving() -> None:
    """The best round lies in the middle."""
    assert cue([*decay(10, constants=3), *(0.5 + 0.02 * t for t in range(10))]) == ""


def test_tiny_falls_are_none() -> None:
    """A warm start that moves the loss by a thousandth has nothing to gain."""
    assert cue([0.5 - 0.00005 * t for t in range(20)]) == ""


def test_where_nothing_is_to_be_said() -> None:
    """Stopped early, not complete, only evaluated, no rounds."""
    falling = decay(20, constants=1)
    assert cue(falling, rounds=50) == ""
    assert cue(falling, status="running") == ""
    assert cue(falling, evaluates="0" * 64) == ""
    assert cue([], rounds=20) == ""


def test_no_validation_loss_is_said() -> None:
    """Where no hospital releases one, the last model was kept unseen; where some rounds lack it, the others speak."""
    assert cue([None] * 20).startswith("Not known")
    falling: list[float | None] = [*decay(20, constants=1)]
    falling[3] = None
    assert cue(falling).startswith("Still improving")


def test_few_rounds_are_called_few() -> None:
    """With two or three no trend can be told: the last was best, which is said with a perhaps, or it was not."""
    assert cue([0.9, 0.8]).startswith("Perhaps")
    assert cue([0.9]).startswith("Perhaps")
    assert cue([0.8, 0.9, 0.85]) == ""


def test_a_hospital_that_leaves_is_no_improvement() -> None:
    """When the one with the high loss goes, the pooled loss falls; rounds with others do not compare."""
    lines = rows([0.9 + 0.01 * (t % 3) for t in range(12)]) + rows(
        [0.5 + 0.01 * (t % 3) for t in range(8)], sites=("a",)
    )
    for number, line in enumerate(lines, start=1):
        line["round"] = number
    assert training_cue({"status": "complete", "config": {"rounds": 20}}, rounds=lines) is None


def test_notices_name_who_was_missing_and_whose_data_are_equal(tmp_path: Path) -> None:
    """A round without a hospital, hospitals with one digest, one that did not evaluate: each by name."""
    run = write_sample_run(tmp_path, tiny_site=True)
    record = json.loads((run / "record.json").read_text())
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    found = read_evaluation(run / "evaluation.json")

    def noted(evaluation: Evaluation) -> tuple[Cue, ...]:
        facts = facts_of(record, rounds=lines, evaluated=evaluation.sites)
        return notices_of(record, facts=facts, rounds=lines, evaluation=evaluation)

    before = [notice.headline for notice in noted(found)]
    assert before == ["center2 did not take part in every round"]
    sites = record["sites"]
    sites["center2"]["test_fingerprint"] = sites["center1"]["test_fingerprint"]
    fewer = replace(found, sites={site: block for site, block in found.sites.items() if site != "center3"})
    after = [notice.headline for notice in noted(fewer)]
    assert after[0] == "center1 and center2 have the same held-out patients"
    assert after[1] == "center3 left before the end"
    record["sessions"] = [{}, {}]
    assert "The server was restarted" in [notice.headline for notice in noted(found)]
