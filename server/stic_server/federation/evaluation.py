"""The end of a run: the best model, each site's own, and their ensemble, on every site's held-out patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stic_core.errors import FederationError, SiteReportError
from stic_core.evaluation import (
    Evaluation,
    HeldOutReport,
    PairedReport,
    as_json,
    evaluation_document,
    pooled_document,
)
from stic_core.evaluation.held_out_counts import HeldOutCounts, size_of
from stic_core.protocol.messages import (
    ENSEMBLE,
    FEDERATED,
    EvaluateHeldOut,
    HeldOutAnswer,
    LocalReport,
    TrainLocal,
)
from stic_core.tensors.flat import FlatArray, digest
from stic_server.federation.masked_rounds import MaskedRounds
from stic_server.federation.participants import Participants
from stic_server.federation.round import ATTEMPTS, BestModel
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.screen_reports import check_held_out
from stic_server.federation.sites import answers_of
from stic_server.strategies.algorithm import Contribution
from stic_server.strategies.screening import check


@dataclass(frozen=True, slots=True)
class ModelResult:
    """One model on every site's held-out patients.

    Args:
        reports: by site.
        paired: the federated model compared with it on the same patients, by site.
    """

    reports: Mapping[str, HeldOutReport]
    paired: Mapping[str, PairedReport]


@dataclass(frozen=True, slots=True)
class _Model:
    """What is asked about: weights that travel, or an ensemble of models that the sites have seen.

    Args:
        best_round, signature: as in `EvaluateHeldOut`.
    """

    name: str
    weights: FlatArray | None = None
    members: tuple[str, ...] = ()
    best_round: int | None = None
    signature: str | None = None


class HeldOutEvaluation:
    """Held-out evaluation.

    Args:
        participants: the sites that take part.
        run: the folder that keeps the model.
    """

    def __init__(self, participants: Participants, run: RunFolder) -> None:
        self._participants, self._run = participants, run

    def evaluate(
        self, best: BestModel, *, initial: FlatArray, others: Mapping[str, FlatArray] | None = None
    ) -> dict[str, Any]:
        """Write the model, open each held-out set once a model, and add up the answers.

        Args:
            best: the global model to evaluate.
            initial: the first weights, from which each site's own model starts.
            others: further models to compare it with, by name, such as a simulation's centralised one.

        Returns:
            The evaluation, as `evaluation.json` has it.
        """
        plan = self._participants.plan
        backbone = next(iter(self._participants.descriptions.values())).backbone_digest
        self._participants.observer.stage("evaluating the federated model on held-out patients")
        model_digest = self._run.write_model(
            best.weights,
            plan,
            backbone_digest=backbone,
            best_round=best.round,
            phantom=self._participants.phantom,
        )
        if plan.evaluation == "pooled":
            return as_json(self._pooled(best, model_digest=model_digest))
        federated = self._evaluate(_Model(FEDERATED, best.weights, best_round=best.round))
        if not federated.reports:
            raise FederationError(
                "no site evaluated the federated model",
                advice="The lines above say why; the run is resumed here at the next start.",
            )
        local: dict[str, ModelResult] = {}
        extra: dict[str, ModelResult] = {}
        if plan.local_only:
            own = self._train_local(initial)
            for site, model in own.items():
                self._participants.observer.stage(f"evaluating {site}'s own model on held-out patients")
                local[site] = self._evaluate(model, against=model_digest)
            if len(own) > 1:
                self._participants.observer.stage(
                    "evaluating the ensemble of the sites' own models on held-out patients"
                )
                members = tuple(
                    digest(model.weights, plan.tensors) for model in own.values() if model.weights is not None
                )
                extra[ENSEMBLE] = self._evaluate(_Model(ENSEMBLE, members=members), against=model_digest)
        for name, weights in (others or {}).items():
            self._participants.observer.stage(f"evaluating the {name} model on held-out patients")
            extra[name] = self._evaluate(_Model(name, weights), against=model_digest)
        for name in [
            name for found in (local, extra) for name, result in found.items() if not result.reports
        ]:
            self._participants.observer.note(f"no site evaluated model {name}; it is left out")
            local.pop(name, None)
            extra.pop(name, None)
        document = evaluation_document(
            model_digest=model_digest,
            task=plan.task.name,
            classes=plan.task.classes,
            phantom=self._participants.phantom,
            federated=federated.reports,
            local_only={site: result.reports for site, result in local.items()},
            extra={name: result.reports for name, result in extra.items()},
            paired={name: result.paired for name, result in (local | extra).items()},
        )
        return as_json(document)

    def _pooled(self, best: BestModel, *, model_digest: str) -> Evaluation:
        """The sum of the sites' counts under masks, tried again while too few are here."""
        plan, masks = self._participants.plan, MaskedRounds(self._participants, self._run)
        classes = plan.task.classes
        model = _Model(FEDERATED, best.weights, best_round=best.round)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                found = masks.sum_counts(
                    self._questions(model), weights=best.weights, size=size_of(len(classes))
                )
                break
            except FederationError as error:
                if attempt == ATTEMPTS:
                    raise
                self._participants.observer.note(f"{error} Trying again ({attempt + 1} of {ATTEMPTS}).")
        else:
            raise AssertionError("the loop breaks or raises")
        return pooled_document(
            HeldOutCounts.of_vector(found.total.astype(np.int64), classes=len(classes)),
            model_digest=model_digest,
            task=plan.task.name,
            classes=classes,
            phantom=self._participants.phantom,
            sites=found.sites,
            patients=found.patients,
        )

    def _evaluate(self, model: _Model, *, against: str | None = None) -> ModelResult:
        """Ask every site."""
        plan, questions = self._participants.plan, self._questions(model, against=against)
        exchange = self._participants.ask_each(questions, weights=model.weights)

        def check_answer(site: str, answer: HeldOutAnswer) -> None:
            described = self._participants.descriptions[site]
            check_held_out(
                site, answer, question=questions[site], described=described, classes=plan.task.classes
            )

        found = answers_of(exchange, HeldOutAnswer, observer=self._participants.observer, check=check_answer)
        return ModelResult(
            {site: answer.report for site, (answer, _) in found.items()},
            {site: answer.paired for site, (answer, _) in found.items() if answer.paired is not None},
        )

    def _questions(self, model: _Model, *, against: str | None = None) -> dict[str, EvaluateHeldOut]:
        plan = self._participants.plan
        weights_digest = None if model.weights is None else digest(model.weights, plan.tensors)
        return {
            site: EvaluateHeldOut(
                run_id=self._participants.run_id,
                plan_digest=plan.digest,
                weights_digest=weights_digest,
                members=model.members,
                best_round=model.best_round,
                signature=model.signature,
                against=against,
                model=model.name,
                test_fingerprint=description.test_fingerprint,
            )
            for site, description in self._participants.descriptions.items()
        }

    def _train_local(self, initial: FlatArray) -> dict[str, _Model]:
        self._participants.observer.stage("training each site's own model, for comparison")
        question = TrainLocal(
            run_id=self._participants.run_id,
            plan_digest=self._participants.plan.digest,
            weights_digest=digest(initial, self._participants.plan.tensors),
        )
        able = [site for site, about in self._participants.descriptions.items() if about.patients["train"].n]
        exchange = self._participants.ask_each(dict.fromkeys(able, question), weights=initial)
        found = answers_of(exchange, LocalReport, observer=self._participants.observer)
        self._run.update_record(
            local_only={
                site: {
                    "epochs": report.epochs,
                    "best_epoch": report.best_epoch,
                    "val_loss": report.validation_loss,
                }
                for site, (report, _) in found.items()
            }
        )
        out = {}
        for site, (report, weights) in found.items():
            if weights is None or digest(weights, self._participants.plan.tensors) != report.weights_digest:
                self._participants.observer.note(
                    f"{site}: its own model does not match the digest that it stated; excluded"
                )
                self._participants.observer.left_out(site, "contradiction")
                continue
            try:
                check(site, Contribution(weights, 1), size=len(initial))
            except SiteReportError as error:
                self._participants.observer.note(f"{error} Its own model is excluded.")
                self._participants.observer.left_out(site, "update")
            else:
                out[site] = _Model(site, weights, signature=report.signature)
        return out
