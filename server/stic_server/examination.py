"""The end of a run: the best model, and each site's own, on every site's held-out patients."""

from __future__ import annotations

from typing import Any

from stic_core.evaluation import HeldOutReport, evaluation_document, score_edges
from stic_core.protocol import (
    EvaluateHeldOut,
    HeldOutAnswer,
    HistogramReport,
    HistogramRequest,
    LocalReport,
    TrainLocal,
)
from stic_core.tensors import FlatArray, digest
from stic_server.asking import answers_of
from stic_server.coordinator import Best
from stic_server.roster import Roster
from stic_server.run_folder import RunFolder


class Examination:
    """Held-out evaluation.

    Args:
        roster: the sites that take part.
        run: the folder that keeps the model.
    """

    def __init__(self, roster: Roster, run: RunFolder) -> None:
        self._roster, self._run = roster, run

    def evaluate(self, best: Best, *, initial: FlatArray) -> dict[str, Any]:
        """Write the model, open each held-out set once a model, and add up the answers.

        Args:
            best: the global model to evaluate.
            initial: the first weights, from which each site's own model starts.

        Returns:
            The evaluation, as `evaluation.json` has it.
        """
        backbone = next(iter(self._roster.descriptions.values())).backbone_digest
        self._roster.observer.stage("held-out evaluation of the federated model")
        edges = self._edges(best.weights)
        model_digest = self._run.write_model(
            best.weights,
            self._roster.plan,
            backbone_digest=backbone,
            best_round=best.round,
            histogram_edges=edges,
        )
        federated = self._held_out("federated", best.weights, edges)
        local: dict[str, dict[str, HeldOutReport]] = {}
        if self._roster.plan.local_only:
            for site, weights in self._train_local(initial).items():
                self._roster.observer.stage(f"held-out evaluation of {site}'s own model")
                local[site] = self._held_out(site, weights, self._edges(weights))
        return evaluation_document(
            model_digest=model_digest,
            task=self._roster.plan.task.name,
            classes=self._roster.plan.task.classes,
            phantom=self._roster.phantom,
            federated=federated,
            local_only=local,
        )

    def _edges(self, weights: FlatArray) -> dict[str, tuple[float, ...]]:
        """Inner bin edges of each class, from where the validation scores lie."""
        question = HistogramRequest(
            run_id=self._roster.run_id,
            plan_digest=self._roster.plan.digest,
            weights_digest=digest(weights, self._roster.plan.tensors),
        )
        found = answers_of(
            self._roster.ask(question, weights=weights), HistogramReport, observer=self._roster.observer
        )
        reports = {site: report.validation for site, (report, _) in found.items()}
        return score_edges(reports, classes=self._roster.plan.task.classes)

    def _held_out(
        self, model: str, weights: FlatArray, edges: dict[str, tuple[float, ...]]
    ) -> dict[str, HeldOutReport]:
        weights_digest = digest(weights, self._roster.plan.tensors)
        questions = {
            site: EvaluateHeldOut(
                run_id=self._roster.run_id,
                plan_digest=self._roster.plan.digest,
                weights_digest=weights_digest,
                model=model,
                edges=edges,
                test_fingerprint=description.test_fingerprint,
            )
            for site, description in self._roster.descriptions.items()
        }
        exchange = self._roster.put(questions, weights=weights)
        found = answers_of(exchange, HeldOutAnswer, observer=self._roster.observer)
        return {site: answer.report for site, (answer, _) in found.items()}

    def _train_local(self, initial: FlatArray) -> dict[str, FlatArray]:
        self._roster.observer.stage("each site trains its own model, for comparison")
        question = TrainLocal(
            run_id=self._roster.run_id,
            plan_digest=self._roster.plan.digest,
            weights_digest=digest(initial, self._roster.plan.tensors),
        )
        able = [site for site, about in self._roster.descriptions.items() if about.patients["train"].n]
        exchange = self._roster.put(dict.fromkeys(able, question), weights=initial)
        found = answers_of(exchange, LocalReport, observer=self._roster.observer)
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
            if weights is None or digest(weights, self._roster.plan.tensors) != report.weights_digest:
                self._roster.observer.note(
                    f"{site}: its own model does not have the digest that it names; left out"
                )
            else:
                out[site] = weights
        return out
