"""One hospital's answer with one absurd figure: it counts nowhere or as what it is, and the run goes on.

Issue 11 found 159 answers that ended everybody's run: infinity, NaN or 10^400 where a figure is
expected, an AUC of 2, a negative variance, more patients right than there are. Here every place of
every kind of answer is changed to every absurd value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stic_core.evaluation import as_json, evaluation_document
from stic_core.evaluation.document import evaluation_of
from stic_core.protocol.messages import HeldOutAnswer, decode_report, encode
from stic_core.tasks import TASKS
from stic_server.federation.sites import read_answer
from stic_server.report import write_report
from support.absurd import changed
from support.replay import Asked, Ended, Repeating, Said, listen, run_of

CLASSES = TASKS["malignant"].classes
LIAR = "center3"
OTHERS = ("center1", "center2")

EVALUATED: Asked = ("evaluate-held-out", "ensemble")
"""Its answer has everything in it: figures of a model and its comparison with another."""

QUESTIONS: tuple[Asked, ...] = (
    ("describe", ""),
    ("train-round", "2"),  # validates the model of round 1, and trains
    ("train-round", "4"),  # only validates the last model
    ("train-local", ""),
    EVALUATED,
    ("finish", ""),
)
"""Those whose answers are changed; the others are answered with the same fields."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Said, Ended]:
    """What three honest sites say in a run, and what became of it."""
    return listen(tmp_path_factory.mktemp("honest"))


def _kinds(said: Said) -> list[Asked]:
    return [question for site, question in said if site == LIAR]


def _of_others(document: dict[str, Any]) -> dict[str, Any]:
    """Figures of the honest sites' patients: each model's, and comparisons of models."""
    models = {"federated": document, "ensemble": document.get("ensemble", {}), **document["local_only"]}
    return {
        name: {site: found["sites"][site] for site in OTHERS}
        for name, found in {**models, **document["comparison"]}.items()
        if found
    }


def _rows(ended: Ended) -> list[dict[str, Any]]:
    """What the honest sites reported in each round."""
    return [
        {key: {site: row[key][site] for site in OTHERS} for key in ("val", "train_loss")}
        for row in ended.run.read_rounds()
    ]


def _is_within(part: Any, whole: Any) -> bool:
    """A model that could not be evaluated is missing; what is there is as it was."""
    return all(whole[name] == found for name, found in part.items())


@dataclass(frozen=True)
class Changed:
    """Absurd answers to one question.

    Args:
        refused: how many cannot be read.
        taken: the others, each once, by what was changed.
    """

    refused: int
    taken: list[tuple[str, str]]


@pytest.fixture(scope="module")
def absurd(said: tuple[Said, Ended]) -> dict[Asked, Changed]:
    """All of them, read as the server reads them; none may raise."""
    found = {}
    for question in QUESTIONS:
        honest = said[0][LIAR, question][0]
        seen, taken, refused = {honest}, [], 0
        for name, text in changed(honest):
            answer = read_answer(text, None)
            refused += bool(answer.fault)
            if not answer.fault and (read := encode(answer.report)) not in seen:
                seen.add(read)
                taken.append((name, text))
        found[question] = Changed(refused, taken)
    return found


def test_most_absurd_answers_are_refused(absurd: dict[Asked, Changed]) -> None:
    """What is left are values that could be true, and texts that say why a figure is not there."""
    for question, found in absurd.items():
        assert found.refused > 8 * len(found.taken), question


@pytest.mark.parametrize("kind", ["describe", "train-round", "train-local"])
def test_what_can_be_read_ends_no_run(
    said: tuple[Said, Ended], absurd: dict[Asked, Changed], tmp_path: Path, kind: str
) -> None:
    """A part of it, through a whole run each: what the others say is what it was, in rounds and evaluation."""
    texts, honest = said
    for question in [question for question in absurd if question[0] == kind]:
        for number, (name, text) in enumerate(absurd[question].taken[::12]):
            sites = Repeating(texts, {(LIAR, question): text})
            ended = run_of(sites, tmp_path / f"{question[1]}-{number}", local_only=kind == "train-local")
            assert _rows(ended) == _rows(honest), name
            assert _is_within(_of_others(ended.document), _of_others(honest.document)), name


def test_what_can_be_read_changes_nobody_elses_figures(
    said: tuple[Said, Ended], absurd: dict[Asked, Changed]
) -> None:
    """A part of the held-out answers: with every one of them the evaluation can be written and read again."""
    texts, _ = said
    answers = {site: decode_report(texts[site, EVALUATED][0]) for site in (*OTHERS, LIAR)}
    found = {site: answer for site, answer in answers.items() if isinstance(answer, HeldOutAnswer)}
    before = _evaluated(found)
    for name, text in absurd[EVALUATED].taken[::12]:
        answer = read_answer(text, None).report
        assert isinstance(answer, HeldOutAnswer)
        after = _evaluated(found | {LIAR: answer})
        for site in OTHERS:
            assert after["sites"][site] == before["sites"][site], name
            assert (
                after["comparison"]["ensemble"]["sites"][site]
                == before["comparison"]["ensemble"]["sites"][site]
            )


def _evaluated(answers: dict[str, HeldOutAnswer]) -> dict[str, Any]:
    """The evaluation of one model as it would be written, all finite."""
    document = as_json(
        evaluation_document(
            model_digest="0" * 64,
            task="malignant",
            classes=CLASSES,
            phantom=True,
            federated={site: answer.report for site, answer in answers.items()},
            local_only={},
            paired={"ensemble": {site: answer.paired for site, answer in answers.items() if answer.paired}},
        )
    )
    evaluation_of(document)
    return json.loads(json.dumps(document, allow_nan=False))


@pytest.mark.parametrize("kind", ["describe", "train-round", "evaluate-held-out", "train-local", "all"])
def test_a_site_that_says_nothing_usable_is_named_and_left_out(
    said: tuple[Said, Ended], tmp_path: Path, kind: str
) -> None:
    """Infinity in each answer of a kind: the run ends with the others' figures, as they were, and its page."""
    texts, honest = said
    nonsense = {
        (LIAR, question): '{"version": 5, "kind": "held-out-answer", "n": Infinity}'
        for question in _kinds(texts)
        if kind in (question[0], "all")
    }
    ended = run_of(Repeating(texts, nonsense), tmp_path)
    assert any(note.startswith(f"{LIAR}: its answer cannot be read") for note in ended.notes)
    assert ended.run.read_record()["status"] == "complete"
    assert _is_within(_of_others(ended.document), _of_others(honest.document))
    assert _rows(ended) == _rows(honest)
    assert (LIAR in ended.document["sites"]) == (kind in ("train-round", "train-local"))
    if kind == "all":
        write_report(ended.run.path)
