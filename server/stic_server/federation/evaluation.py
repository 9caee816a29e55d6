"""The end of a run: the best model, each site's own, and their ensemble, on every site's held-out patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stic_core.errors import SiteReportError
from stic_core.evaluation import HeldOutReport, PairedReport, evaluation_document, score_edges
from stic_core.protocol.messages import (
    EvaluateHeldOut,
    HeldOutAnswer,
    HistogramReport,
    HistogramRequest,
    LocalReport,
    TrainLocal,
)
from stic_core.tensors.flat import FlatArray, digest
from stic_server.federation.participants import Roster
from stic_server.federation.round import Best
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import answers_of
from stic_server.strategies.fed_avg import Contribution, check


@dataclass(frozen=True, slots=True)
class Judged:
    """One model on every site's held-out patients.

    Args:
        reports: by site.
        paired: the federated model compared with it on the same patients, by site.
    """

    reports: Mapping[str, HeldOutReport]
    paired: Mapping[str, PairedReport]


@dataclass(frozen=True, slots=True)
class _Model:
    """What is asked about: weights that travel, or an ensemble of models that the sites have seen."""

    name: str
    weights: FlatArray | None = None
    members: tuple[str, ...] = ()


class Examination:
    """Held-out evaluation.

    Args:
        roster: the sites that take part.
        run: the folder that keeps the model.
    """

    def __init__(self, roster: Roster, run: RunFolder) -> None:
        self._roster, self._run = roster, run

    def evaluate(
        self, best: Best, *, initial: FlatArray, others: Mapping[str, FlatArray] | None = None
    ) -> dict[str, Any]:
        """Write the model, open each held-out set once a model, and add up the answers.

        Args:
            best: the global model to evaluate.
            initial: the first weights, from which each site's own model starts.
            others: further models to compare it with, by name, such as a simulation's centralised one.

        Returns:
            The evaluation, as `evaluation.json` has it.
        """
        plan = self._roster.plan
        backbone = next(iter(self._roster.descriptions.values())).backbone_digest
        self._roster.observer.stage("held-out evaluation of the federated model")
        edges = self._edges(_Model("federated", best.weights))
        model_digest = self._run.write_model(
            best.weights,
            plan,
            backbone_digest=backbone,
            best_round=best.round,
            histogram_edges=edges,
            phantom=self._roster.phantom,
        )
        federated = self._judge(_Model("federated", best.weights), edges=edges)
        local: dict[str, Judged] = {}
        extra: dict[str, Judged] = {}
        if plan.local_only and plan.evaluates is None:
            own = self._train_local(initial)
            for site, weights in own.items():
                self._roster.observer.stage(f"held-out evaluation of {site}'s own model")
                local[site] = self._judge(_Model(site, weights), against=model_digest)
            if len(own) > 1:
                self._roster.observer.stage("held-out evaluation of the ensemble of the sites' own models")
                members = tuple(digest(weights, plan.tensors) for weights in own.values())
                extra["ensemble"] = self._judge(_Model("ensemble", members=members), against=model_digest)
        for name, weights in (others or {}).items():
            self._roster.observer.stage(f"held-out evaluation of the {name} model")
            extra[name] = self._judge(_Model(name, weights), against=model_digest)
        return evaluation_document(
            model_digest=model_digest,
            task=plan.task.name,
            classes=plan.task.classes,
            phantom=self._roster.phantom,
            federated=federated.reports,
            local_only={site: judged.reports for site, judged in local.items()},
            extra={name: judged.reports for name, judged in extra.items()},
            paired={name: judged.paired for name, judged in (local | extra).items()},
        )

    def _judge(
        self,
        model: _Model,
        *,
        edges: dict[str, tuple[float, ...]] | None = None,
        against: str | None = None,
    ) -> Judged:
        """Ask every site; a model whose weights the sites have seen does not travel again."""
        edges = self._edges(model) if edges is None else edges
        plan = self._roster.plan
        weights_digest = None if model.weights is None else digest(model.weights, plan.tensors)
        questions = {
            site: EvaluateHeldOut(
                run_id=self._roster.run_id,
                plan_digest=plan.digest,
                weights_digest=weights_digest,
                members=model.members,
                against=against,
                model=model.name,
                edges=edges,
                test_fingerprint=description.test_fingerprint,
            )
            for site, description in self._roster.descriptions.items()
        }
        exchange = self._roster.put(questions, weights=model.weights)
        found = answers_of(exchange, HeldOutAnswer, observer=self._roster.observer)
        return Judged(
            {site: answer.report for site, (answer, _) in found.items()},
            {site: answer.paired for site, (answer, _) in found.items() if answer.paired is not None},
        )

    def _edges(self, model: _Model) -> dict[str, tuple[float, ...]]:
        """Inner bin edges of each class, from where the validation scores lie."""
        plan = self._roster.plan
        question = HistogramRequest(
            run_id=self._roster.run_id,
            plan_digest=plan.digest,
            weights_digest=None if model.weights is None else digest(model.weights, plan.tensors),
            members=model.members,
        )
        found = answers_of(
            self._roster.ask(question, weights=model.weights), HistogramReport, observer=self._roster.observer
        )
        reports = {site: report.validation for site, (report, _) in found.items()}
        return score_edges(reports, classes=plan.task.classes)

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
                continue
            try:
                check(site, Contribution(weights, 1), size=len(initial))
            except SiteReportError as error:
                self._roster.observer.note(f"{error} Its own model is left out.")
            else:
                out[site] = weights
        return out
