"""Which models a site recognises: those that a plan's rounds showed it, its own, and the other hospitals'.

A server that could ask about any weights would build models that test one patient at a time. So a
site answers for a model of this federation alone: the first weights are named in the plan, each
round has its model, after the held-out set was opened there are no further rounds, the final model
is one of the rounds', and each hospital's own model carries that hospital's signature. All of that
is counted by plan: a plan that was approved once is no licence for any number of runs. What was
shown is on the disk before it is answered, so that a restart forgets nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from stic_core.errors import DataError, PlanRefusedError
from stic_core.protocol.messages import (
    ENSEMBLE,
    FEDERATED,
    EvaluateHeldOut,
    RunPlan,
    TrainLocal,
    TrainRound,
    own_model_statement,
)
from stic_core.system.files import PRIVATE, write_atomically
from stic_core.system.keys import signed_by

PER_ROUND = 3
"""Models of one round, over all runs of a plan: a server may be restored from the checkpoint before the last,
and a run be done again, which on a GPU gives other bits."""

_RUNS = 100


class Shown(BaseModel):
    """What a plan showed so far.

    Args:
        plan: its hash.
        runs: under which it was shown, the last ones.
        rounds: digests of the models that came with each round.
        own: of the model that the site trained on its own, last.
        evaluating: the held-out set was opened, or the site trained a model of its own.
        models: of the models that were to be evaluated, by name.
    """

    model_config = ConfigDict(extra="forbid")

    plan: str
    runs: list[str] = []
    rounds: dict[int, list[str]] = {}
    own: str | None = None
    evaluating: bool = False
    models: dict[str, str] = {}


class ShownModels:
    """What one plan showed to one site.

    Args:
        folder: holds a file for each plan.
        run_id: of the run.
        plan: the plan that the site accepted.
        note: told what an operator should know.

    Raises:
        DataError: the plan's file is damaged.
    """

    def __init__(self, folder: Path, *, run_id: str, plan: RunPlan, note: Callable[[str], None]) -> None:
        self._path, self._run_id, self._plan, self._note = folder / f"{plan.digest}.json", run_id, plan, note
        self._shown = _read(self._path) or Shown(plan=plan.digest)

    def check(self, question: TrainRound | TrainLocal | EvaluateHeldOut) -> None:
        """Refuse a model that the site does not recognise; remember the others.

        Raises:
            PlanRefusedError: says what is wrong with the model, in terms of the run.
        """
        before = self._shown.model_copy(deep=True)
        try:
            match question:
                case TrainRound():
                    self._check_round(question)
                case TrainLocal():
                    self._check_first(question.weights_digest)
                    self._shown.evaluating = True
                case EvaluateHeldOut():
                    self._shown.evaluating = True
                    self._check_held_out(question)
            if self._shown != before:
                self._shown.runs = [*(run for run in before.runs if run != self._run_id), self._run_id][
                    -_RUNS:
                ]
                self._save()
        except (PlanRefusedError, OSError):  # on a full disk the same question comes again
            self._shown = before
            raise

    def trained(self, weights_digest: str) -> None:
        """The site trained a model of its own."""
        before, self._shown.own = self._shown.own, weights_digest
        try:
            self._save()
        except OSError:
            self._shown.own = before
            raise

    def _check_first(self, weights_digest: str) -> None:
        if weights_digest != self._plan.initial:
            raise PlanRefusedError(
                "the first weights",
                got=weights_digest[:12],
                expected=f"{(self._plan.initial or 'none')[:12]}, as the plan says",
            )

    def _check_round(self, question: TrainRound) -> None:
        if question.round == 1:
            self._check_first(question.weights_digest)
        seen = self._shown.rounds.setdefault(question.round, [])
        if question.weights_digest in seen:
            return
        if self._shown.evaluating:
            raise PlanRefusedError(
                f"another model in round {question.round}",
                expected="no more, since the held-out patients were looked at",
            )
        if len(seen) >= PER_ROUND:
            raise PlanRefusedError(
                f"one more model in round {question.round}", expected=f"at most {PER_ROUND} per round"
            )
        seen.append(question.weights_digest)

    def _check_held_out(self, question: EvaluateHeldOut) -> None:
        if question.model == ENSEMBLE:
            own = {digest for name, digest in self._shown.models.items() if name != FEDERATED}
            if not question.members or not set(question.members) <= own:
                raise PlanRefusedError("the ensemble", expected="the hospitals' own models of this run")
            return
        if question.members or question.weights_digest is None:
            raise PlanRefusedError(f"model {question.model}", expected="weights")
        kept = self._shown.models.setdefault(question.model, question.weights_digest)
        if kept != question.weights_digest:
            raise PlanRefusedError(
                f"a second model {question.model}", got=question.weights_digest[:12], expected=kept[:12]
            )
        if question.model == FEDERATED:
            self._check_federated(question.weights_digest, question.best_round)
        elif question.weights_digest != self._shown.own:
            self._check_signature(question)

    def _check_federated(self, weights_digest: str, number: int | None) -> None:
        if self._plan.evaluates is not None:
            if weights_digest != self._plan.evaluates:
                raise PlanRefusedError(
                    "the model",
                    got=weights_digest[:12],
                    expected=f"{self._plan.evaluates[:12]}, as the plan says",
                )
            return
        if number is None or not 1 <= number <= self._plan.rounds:
            raise PlanRefusedError(
                "the final model", got=f"round {number}", expected="one of the plan's rounds"
            )
        # The model that a round made comes with the next one.
        seen = self._shown.rounds.get(number + 1)
        if seen is None:
            self._note(
                f"this site took no part in round {number + 1}; the model of round {number} is new to it"
            )
        elif weights_digest not in seen:
            raise PlanRefusedError(
                "the final model", got=weights_digest[:12], expected=f"the model after round {number}"
            )

    def _check_signature(self, question: EvaluateHeldOut) -> None:
        statement = own_model_statement(
            run_id=self._run_id,
            plan_digest=self._plan.digest,
            weights_digest=question.weights_digest or "",
        )
        key = self._plan.sites.get(question.model)
        if (
            key is None
            or question.signature is None
            or not signed_by(key, statement, signature=question.signature)
        ):
            raise PlanRefusedError(
                f"model {question.model}",
                got="no signature of a hospital that the plan names",
                expected="the final model, the ensemble, or a hospital's own model",
            )

    def _save(self) -> None:
        write_atomically(self._path, self._shown.model_dump_json(), mode=PRIVATE)


def shown_under(folder: Path) -> list[Shown]:
    """What each plan in a folder showed."""
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return [shown for path in paths if (shown := _read(path)) is not None]


def _read(path: Path) -> Shown | None:
    try:
        return Shown.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path.parent.name}/{path.name}, what a plan showed, cannot be read",
            got=type(error).__name__,
            advice="Restore it from a backup, or ask the coordinator for a new plan.",
        ) from None
