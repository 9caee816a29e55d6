"""A coordinator who reads patients: models that each ask about one combination of clinical columns, 2,000 of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from stic_core.models.parameters import get_flat
from stic_core.models.stic import STICHead, build_head
from stic_core.protocol.messages import (
    EvaluateHeldOut,
    HeldOutAnswer,
    Refusal,
    Report,
    RoundReport,
    RunPlan,
    TrainLocal,
    TrainRound,
)
from stic_core.tensors.flat import FlatArray, digest

Ask = Callable[[TrainRound | TrainLocal | EvaluateHeldOut, FlatArray | None], Report]


@cache
def _head(seed: int) -> STICHead:
    return build_head(channels=32, classes=3, seed=seed)


def crafted(combination: np.ndarray, *, plain: bool, seed: int = 0) -> FlatArray:
    """A model whose first class is predicted for one combination of the clinical columns alone.

    Args:
        combination: (20,) 0 or 1.
        plain: as the textbook has it, without the images; else their random weights stay, and the
            columns' weights are of a size that training gives.
    """
    head = deepcopy(_head(seed))
    size = 40.0 if plain else 0.3
    with torch.no_grad():
        weight, bias = head.classifier.output.weight, head.classifier.output.bias
        weight[:, :-20] *= 0.0 if plain else 1.0
        signs = torch.from_numpy(np.where(combination > 0, 1.0, -1.0)).float()
        weight[0, -20:] = size * signs
        bias[0] = -size * (float(combination.sum()) - 0.5)
    return get_flat(head)


@dataclass
class Tracker:
    """The attack.

    Args:
        plan: that the site approved, or whose kind its policy accepts.
        weights: the first ones, as the plan names them.
        test_fingerprint: as the site described its held-out set.
        ask: sends a question to the site under a run's id, after describing the run where that is new.
        combinations: (n, 20) that are asked about.
    """

    plan: RunPlan
    weights: FlatArray
    test_fingerprint: str
    ask: Ask
    combinations: np.ndarray
    asked: int = 0
    held_out: list[HeldOutAnswer] = field(default_factory=list)
    rounds: list[RoundReport] = field(default_factory=list)
    refused: int = 0

    def run(self, *, questions: int) -> None:
        """Ask so many questions, under ever new runs of the same plan."""
        for question, weights in self._questions():
            if self.asked == questions:
                return
            self.asked += 1
            match self.ask(question, weights):
                case HeldOutAnswer() as answer:
                    self.held_out.append(answer)
                case RoundReport() as report:
                    self.rounds.append(report)
                case Refusal():
                    self.refused += 1
                case _:
                    pass

    def _questions(self) -> Iterator[tuple[TrainRound | TrainLocal | EvaluateHeldOut, FlatArray]]:
        number = 0
        while True:
            run_id = f"attack-{number}"
            for place, combination in enumerate(self.combinations):
                model = crafted(combination, plain=not (number + place) % 2, seed=number)
                if place < self.plan.rounds + 1:  # as a round's model first, so that the site has seen it
                    yield self._round(run_id, place + 1, self.weights if place == 0 else model)
                yield self._held_out(run_id, "federated", model, best_round=min(place, self.plan.rounds))
                yield self._held_out(
                    run_id, next(iter(self.plan.sites), "center9"), model, signature="00" * 96
                )
            number += 1

    def _round(self, run_id: str, number: int, weights: FlatArray) -> tuple[TrainRound, FlatArray]:
        return (
            TrainRound(
                run_id=run_id,
                plan_digest=self.plan.digest,
                round=number,
                weights_digest=digest(weights, self.plan.tensors),
                train=False,
            ),
            weights,
        )

    def _held_out(
        self, run_id: str, name: str, weights: FlatArray, **facts: Any
    ) -> tuple[EvaluateHeldOut, FlatArray]:
        question = EvaluateHeldOut(
            run_id=run_id,
            plan_digest=self.plan.digest,
            weights_digest=digest(weights, self.plan.tensors),
            model=name,
            test_fingerprint=self.test_fingerprint,
            **facts,
        )
        return question, weights
