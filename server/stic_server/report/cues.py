"""What a reader should know of a result before quoting it: no better than chance, or still improving.

A cue follows from an interval or from a trend, never from a threshold on a figure. The trend is a
heuristic: it is silent where the losses do not show one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import fmean
from typing import Any, TypeAlias

from stic_core.evaluation import Evaluation, listed, overall_auc
from stic_core.evaluation.figures import AucFigure, Proportion
from stic_core.statistics import Absent, Interval, NotEstimable

Json: TypeAlias = Any

CHANCE = 0.5
"""AUC of scores that say nothing."""

LAST_SHARE = 0.2
"""The best round is near the end where it is among the last fifth of the rounds."""

RELEVANT_FALL = 0.08
"""Of all that the loss fell, so much must have been in the second half for more rounds to be worth it:
a loss that falls exponentially has then about a fiftieth of its way to go."""

SMALLEST_FALL = 0.005
"""A fall of the mean loss (nats per patient) below this is no improvement that a figure would show."""

CLEAR_FALL = 2.5
"""Standard errors by which the fall must exceed the scatter from round to round."""

FEW_ROUNDS = 5
"""With fewer, no trend can be told from scatter."""


@dataclass(frozen=True, slots=True)
class Cue:
    """Something to know of a result: a headline, and what it is about and what to do."""

    headline: str
    text: str

    def __str__(self) -> str:
        """One line for a terminal."""
        return f"{self.headline}. {self.text}"


def cues_of(
    record: Mapping[str, Json], *, rounds: Sequence[Mapping[str, Json]], evaluation: Evaluation | None
) -> tuple[Cue, ...]:
    """All cues of a run, the most important first.

    Args:
        record: `record.json`.
        rounds: lines of `rounds.jsonl`.
        evaluation: None where the run was not evaluated.
    """
    found = [] if evaluation is None else list(chance_cues(evaluation))
    improving = training_cue(record, rounds=rounds)
    return (*found, *(() if improving is None else (improving,)))


def chance_cues(evaluation: Evaluation) -> Iterator[Cue]:
    """Whether the federated model's scores are told from chance: pooled, by class, within hospitals, at each."""
    name = overall_auc(evaluation.classes)
    pooled, _ = evaluation.headline
    if isinstance(pooled, Absent):
        yield from _accuracy_cue(evaluation)
    elif (side := side_of_chance(pooled)) < 0:
        yield Cue(
            "Worse than chance",
            f"{_shown(pooled, name)} lies below {CHANCE}. Check that every hospital's labels mean the same.",
        )
    elif side == 0:
        yield Cue(
            "No better than chance, as far as these patients show",
            f"{_shown(pooled, name)} {_includes(pooled)}. Either the model learned nothing that holds for new "
            "patients, or too few were held out to show it.",
        )
    else:
        yield from _hidden_chance(evaluation, name=name)
    yield from _reversed_sites(evaluation, name=name)


def side_of_chance(auc: AucFigure) -> int:
    """1 above chance, -1 below it, 0 where the interval includes it."""
    low, high = _interval(auc)
    return 1 if low > CHANCE else -1 if high < CHANCE else 0


def _interval(auc: AucFigure) -> Interval:
    """The interval that decides; without one, the value is all there is.

    It is the logit interval that tables show, unless the AUC is nearer to 0 or 1 than its standard
    error: there that interval spans everything, also for a model that is nearly perfect, and Wald's is taken.
    """
    near = auc.ci95_newcombe is None and isinstance(auc.se, float) and auc.se > min(auc.value, 1 - auc.value)
    found = auc.ci95_wald if near else auc.interval
    return (auc.value, auc.value) if isinstance(found, NotEstimable) else found


def _shown(auc: AucFigure, name: str) -> str:
    if _interval(auc) == (auc.value, auc.value):
        return f"The {name}, {auc.value:.3f} without an interval,"
    return f"The 95 % interval of the {name}, {_ends(auc)},"


def _includes(auc: AucFigure) -> str:
    return f"is {CHANCE}" if _interval(auc) == (auc.value, auc.value) else f"includes {CHANCE}"


def _hidden_chance(evaluation: Evaluation, *, name: str) -> Iterator[Cue]:
    """Chance behind a pooled figure that is better: in single classes, or among patients of the same hospital."""
    aucs = evaluation.pooled.auc if len(evaluation.classes) > 2 else {}
    weak = {of: auc for of, auc in aucs.items() if isinstance(auc, AucFigure) and side_of_chance(auc) <= 0}
    if weak:
        told = "; ".join(f"{of} {_ends(auc)}" for of, auc in weak.items())
        yield Cue(
            f"No better than chance for {listed(list(weak))}",
            f"The 95 % interval of the AUC does not lie above {CHANCE} ({told}), although the {name} does.",
        )
    within = evaluation.stratified_auc.auc_macro
    if isinstance(within, AucFigure) and len(evaluation.sites) > 1 and side_of_chance(within) <= 0:
        yield Cue(
            "No better than chance within the hospitals",
            f"Compared with patients of the same hospital only, the {name} is {within.value:.3f} ({_ends(within)}). "
            "The pooled figure may come from differences between hospitals rather than between patients.",
        )


def _reversed_sites(evaluation: Evaluation, *, name: str) -> Iterator[Cue]:
    """A hospital at which the model orders patients the wrong way round, though not everywhere."""
    sites = {site: figures.auc_macro for site, figures in evaluation.sites.items()}
    wrong = {
        site: auc
        for site, auc in sites.items()
        if isinstance(auc, AucFigure)
        and not isinstance(auc.interval, NotEstimable)
        and side_of_chance(auc) < 0
    }
    if wrong and len(wrong) < len(sites):
        told = "; ".join(f"{site} {_ends(auc)}" for site, auc in wrong.items())
        yield Cue(
            f"Worse than chance at {listed(list(wrong))}",
            f"The 95 % interval of the {name} lies below {CHANCE} ({told}). Check that the labels mean the same there.",
        )


def _ends(auc: AucFigure) -> str:
    low, high = _interval(auc)
    return f"{low:.3f} to {high:.3f}"


def _accuracy_cue(evaluation: Evaluation) -> Iterator[Cue]:
    """Without an AUC: is the model right more often than whoever always names the commonest class?"""
    accuracy, counts = evaluation.pooled.accuracy, evaluation.pooled.class_counts
    if not isinstance(accuracy, Proportion) or not isinstance(counts, dict):
        return
    if isinstance(accuracy.ci95, NotEstimable) or accuracy.total != sum(counts.values()):
        return
    commonest = max(counts, key=lambda name: counts[name])
    share = counts[commonest] / accuracy.total
    low, high = accuracy.ci95
    if low <= share:
        yield Cue(
            "No better than always naming the commonest class",
            f"{100 * share:.1f} % of the held-out patients are {commonest}, and the 95 % interval of the accuracy, "
            f"{100 * low:.1f} to {100 * high:.1f} %, does not lie above that.",
        )


def training_cue(record: Mapping[str, Json], *, rounds: Sequence[Mapping[str, Json]]) -> Cue | None:
    """Whether more rounds would have helped, or why that cannot be told; None where nothing is to be said.

    Args:
        record: `record.json`; of a run that is not complete, that trained nothing, or that stopped
            early there is nothing to say.
        rounds: lines of `rounds.jsonl`.
    """
    planned = record["config"]["rounds"]
    if record.get("status") != "complete" or record.get("evaluates") or not rounds:
        return None
    last = rounds[-1]["round"]
    if last < planned:  # early stopping saw no better loss for some time
        return None
    scored = [line for line in rounds if _loss(line) is not None]
    if not scored:
        return Cue(
            "Not known whether more rounds would help",
            "No hospital released a validation loss, so the model of the last round was kept.",
        )
    best = min(scored, key=lambda line: _loss(line) or 0.0)
    if best["round"] <= last - max(1, int(LAST_SHARE * planned)):
        return None
    if len(scored) < FEW_ROUNDS:
        return _few_rounds([_loss(line) or 0.0 for line in scored], last=last)
    # A hospital that comes or goes moves the pooled loss, so that rounds with others do not compare.
    comparable = [_loss(line) or 0.0 for line in scored if _validators(line) == _validators(scored[-1])]
    if not still_falling(comparable):
        return None
    return Cue(
        "Still improving when it ended",
        f"The validation loss was lowest in round {best['round']} of {last} and had fallen until then, from "
        f"{comparable[0]:.3f} to {min(comparable):.3f}. "
        "More rounds may give a better model (rounds in federation.yaml).",
    )


def _few_rounds(losses: Sequence[float], *, last: int) -> Cue | None:
    if last >= FEW_ROUNDS or any(b >= a for a, b in pairwise(losses)):
        return None
    return Cue(
        "Perhaps still improving when it ended",
        f"With {last} round{'' if last == 1 else 's'}, of which the last was the best, it cannot be told whether "
        "more would help (rounds in federation.yaml).",
    )


def still_falling(losses: Sequence[float]) -> bool:
    """Whether losses fall in their second half, clearly, and by enough of all that they fell.

    The scatter from round to round is that of second differences, which a steady fall leaves alone.

    Args:
        losses: validation loss by round.

    Example:
        >>> still_falling([0.9 * 0.9**t for t in range(20)])
        True
        >>> still_falling([0.9 * 0.5**t for t in range(20)])
        False
    """
    if len(losses) < FEW_ROUNDS:
        return False
    half = losses[-max(FEW_ROUNDS, len(losses) // 2) :]
    width = max(1, len(half) // 3)
    fall = fmean(half[:width]) - fmean(half[-width:])
    bends = [a - 2 * b + c for a, b, c in zip(half, half[1:], half[2:], strict=False)]
    scatter = sqrt(fmean([bend * bend for bend in bends]) / 6)
    clear = fall > CLEAR_FALL * scatter * sqrt(2 / width)
    return clear and fall >= max(SMALLEST_FALL, RELEVANT_FALL * (losses[0] - min(losses)))


def _loss(line: Mapping[str, Json]) -> float | None:
    return line.get("val", {}).get("pooled", {}).get("loss")


def _validators(line: Mapping[str, Json]) -> dict[str, int]:
    """Whose validation patients the pooled loss is over, and how many they are."""
    return {site: of["n"] for site, of in line["val"].items() if site != "pooled" and "loss" in of}
