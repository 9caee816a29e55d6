"""One run from its first question to its evaluation, over sites that are only asked and answered.

Nothing here knows how a question travels: `Sites` is the seam. The Flower link implements
it for hospitals, and a test can implement it with participants in its own process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from stic_core.errors import FederationError, SiteReportError
from stic_core.evaluation import HeldOutReport, ValidationReport, evaluation_document, score_edges
from stic_core.evaluation.pooling import as_json
from stic_core.protocol import (
    Describe,
    EvaluateHeldOut,
    Failure,
    Finish,
    HeldOutAnswer,
    HistogramReport,
    HistogramRequest,
    Instruction,
    LocalReport,
    Refusal,
    Report,
    RoundReport,
    RunPlan,
    SiteDescription,
    TrainLocal,
    TrainRound,
    Unprepared,
)
from stic_core.tensors import FlatArray, digest
from stic_server.coordinator import (
    Diagnostics,
    FederationState,
    SiteRound,
    Validation,
    advance,
    score,
)
from stic_server.run_folder import RunFolder, now
from stic_server.state import load_state, save_state


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from one site."""

    report: Report
    weights: FlatArray | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question to several sites.

    Args:
        answers: by site, of those that answered in time.
        bytes_down, bytes_up: what the messages held, all sites together.
    """

    answers: Mapping[str, Answer]
    bytes_down: int
    bytes_up: int


class Sites(Protocol):
    """The sites of a federation, however they are reached."""

    def wait_for(self, *, at_least: int, timeout: float) -> list[str]:
        """Wait until enough sites are online, for all admitted ones if they come in time.

        Raises:
            FederationError: too few came.
        """
        ...

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: FlatArray | None, timeout: float
    ) -> Exchange:
        """Ask each site its question, the same weights with each, and wait until the timeout.

        Raises:
            ProtocolError: an answer that is none of the protocol's.
        """
        ...


class Observer(Protocol):
    """Is told what goes on; shows it or not."""

    def note(self, text: str) -> None:
        """Something that is worth a line."""
        ...

    def stage(self, text: str) -> None:
        """What is being done from now on."""
        ...

    def waiting(self, sites: Sequence[str], seconds: float) -> None:
        """Whom we wait for, and how long so far."""
        ...

    def round_done(self, row: Mapping[str, Any], *, rounds: int) -> None:
        """A round with its scores, as `rounds.jsonl` has it."""
        ...


class Silent:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def waiting(self, sites: Sequence[str], seconds: float) -> None:
        """Nothing."""

    def round_done(self, row: Mapping[str, Any], *, rounds: int) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How few sites, and how long.

    Args:
        min_sites: fewer usable answers than this and the run cannot go on.
        join_timeout_s, round_timeout_s: seconds.
    """

    min_sites: int
    join_timeout_s: float
    round_timeout_s: float


ReportT = TypeVar("ReportT")


def answers_of(
    exchange: Exchange, kind: type[ReportT], *, observer: Observer
) -> dict[str, tuple[ReportT, FlatArray | None]]:
    """The answers of one kind; a refusal, a failure or another kind is noted and left out."""
    out: dict[str, tuple[ReportT, FlatArray | None]] = {}
    for site, answer in sorted(exchange.answers.items()):
        report = answer.report
        if isinstance(report, kind):
            out[site] = (report, answer.weights)
        elif isinstance(report, Refusal):
            observer.note(f"{site} refused: {report.reason}")
        elif isinstance(report, Failure):
            observer.note(f"{site} failed with {report.code}; its own log says more")
        else:
            observer.note(f"{site} answered with {type(report).__name__} instead of {kind.__name__}")
    return out


class Session:
    """A run of a plan.

    Args:
        plan: what is computed.
        initial: the first weights.
        run: the folder that it fills, new or of a run that was interrupted.
    """

    def __init__(
        self,
        plan: RunPlan,
        initial: FlatArray,
        *,
        run: RunFolder,
        sites: Sites,
        limits: Limits,
        observer: Observer,
    ) -> None:
        self.plan, self.run, self.sites, self.limits, self.observer = plan, run, sites, limits, observer
        self._initial = initial
        self._descriptions: dict[str, SiteDescription] = {}

    def execute(self) -> dict[str, Any]:
        """Describe, train, evaluate.

        Returns:
            The evaluation, as `evaluation.json` has it.

        Raises:
            FederationError: too few sites, or too long a wait.
        """
        began = time.monotonic()
        status = "failed"
        try:
            self._describe()
            state = self._train()
            model_digest = self._keep_best(state)
            document = self._evaluate(state, model_digest)
            self.run.write_evaluation(document)
            status = "complete"
        finally:
            if status == "complete":
                rounds = self.run.read_rounds()
                self.run.update_record(
                    status=status,
                    finished=now(),
                    wall_seconds=round(time.monotonic() - began, 3),
                    participation={str(row["round"]): row["sites"] for row in rounds},
                )
                self._ask(Finish(run_id=self.run.run_id, status="complete"), timeout=20.0)
        return document

    # ---- who takes part -----------------------------------------------------------------

    def _describe(self) -> None:
        limits = self.limits
        self.observer.stage("waiting for the sites")
        present = self.sites.wait_for(at_least=limits.min_sites, timeout=limits.join_timeout_s)
        self.observer.stage("sites load their data and compute the backbone's features")
        question = Describe(run_id=self.run.run_id, plan=self.plan)
        exchange = self.sites.ask(
            dict.fromkeys(present, question), weights=None, timeout=limits.join_timeout_s
        )
        found = answers_of(exchange, SiteDescription, observer=self.observer)
        accepted = {site: description for site, (description, _) in found.items()}
        self._agree(accepted)
        if len(accepted) < limits.min_sites:
            raise FederationError(
                "too few sites take part",
                got=f"{len(accepted)} ({', '.join(accepted) or 'none'})",
                expected=f"at least {limits.min_sites} (min_sites)",
            )
        self._descriptions = accepted
        described = {
            site: description.model_dump(mode="json", exclude={"version", "kind"})
            for site, description in accepted.items()
        }
        phantom = any(description.phantom for description in accepted.values())
        self.run.update_record(sites=described, phantom=phantom)

    def _agree(self, accepted: dict[str, SiteDescription]) -> None:
        """Leave out sites whose backbone or image preparation is not the plan's and the majority's."""
        digests = [description.backbone_digest for description in accepted.values()]
        for site, description in list(accepted.items()):
            common = max(sorted(set(digests)), key=digests.count)
            if description.backbone_digest != common:
                self.observer.note(
                    f"{site} is left out: its backbone weights have digest {description.backbone_digest[:12]}, "
                    f"the others' {common[:12]}; install the same weights file there"
                )
                del accepted[site]
            elif description.image != self.plan.image:
                self.observer.note(
                    f"{site} is left out: its images are prepared with {description.image}, "
                    f"the plan asks for {self.plan.image}; set dataset.image in its site.yaml and prepare again"
                )
                del accepted[site]

    # ---- training -----------------------------------------------------------------------

    def _train(self) -> FederationState:
        state, passed_over = load_state(self.run.checkpoints, plan_digest=self.plan.digest)
        for word in passed_over:
            self.observer.note(word)
        if state is None:
            state = FederationState(0, self._initial)
        else:
            self.observer.note(f"run {self.run.run_id} goes on after round {state.completed}")
        # The last round's row waits for its scores in the checkpoint: the next exchange brings them.
        self.run.keep_rounds(state.completed - 1)
        self.observer.stage("training")
        mark = time.monotonic()
        while state.completed < self.plan.rounds:
            number = state.completed + 1
            exchange, reports = self._round(state, number, train=True)
            before = state.pending
            state, diagnostics = advance(state, reports, min_sites=self.limits.min_sites)
            for reason in diagnostics.refused.values():
                self.observer.note(reason)
            self._write_row(before, diagnostics.validation)
            # A round lasts until the next one begins: the checkpoint of the one before is in it.
            seconds, mark = time.monotonic() - mark, time.monotonic()
            row = self._row(number, seconds, exchange, reports, diagnostics)
            state = replace(state, pending=row, seconds=state.seconds + seconds)
            save_state(state, self.run.checkpoints, plan_digest=self.plan.digest)
        _, reports = self._round(state, self.plan.rounds + 1, train=False)
        state, validation = score(state, reports)
        self._write_row(state.pending, validation)
        return state

    def _round(
        self, state: FederationState, number: int, *, train: bool
    ) -> tuple[Exchange, dict[str, SiteRound]]:
        question = TrainRound(
            run_id=self.run.run_id,
            plan_digest=self.plan.digest,
            round=number,
            weights_digest=digest(state.weights, self.plan.tensors),
            train=train,
        )
        exchange = self._ask(question, weights=state.weights)
        found = answers_of(exchange, RoundReport, observer=self.observer)
        reports = {}
        for site, (report, weights) in found.items():
            try:
                self._check_round(site, report, weights, number=number)
            except SiteReportError as error:
                self.observer.note(str(error))
            else:
                reports[site] = SiteRound(report, weights)
        return exchange, reports

    def _check_round(self, site: str, report: RoundReport, weights: FlatArray | None, *, number: int) -> None:
        if report.round != number:
            raise SiteReportError("answered for another round", site=site, got=report.round, expected=number)
        announced = sum(self._descriptions[site].patients["train"].values())
        if report.examples not in (0, announced):
            raise SiteReportError(
                "claims training patients that it did not announce",
                site=site,
                got=report.examples,
                expected=announced,
            )
        if weights is not None and report.weights_digest != digest(weights, self.plan.tensors):
            raise SiteReportError("its weights do not have the digest that it names", site=site)

    def _row(
        self,
        number: int,
        seconds: float,
        exchange: Exchange,
        reports: Mapping[str, SiteRound],
        diagnostics: Diagnostics,
    ) -> dict[str, Any]:
        slowest = max((answer.report.compute_seconds for answer in reports.values()), default=0.0)
        return {
            "round": number,
            "sites": sorted(diagnostics.train_loss),
            "seconds": round(seconds, 4),
            "overhead_seconds": round(seconds - slowest, 4),
            "bytes_down": exchange.bytes_down,
            "bytes_up": exchange.bytes_up,
            "train_loss": dict(diagnostics.train_loss),
        }

    def _write_row(self, row: Mapping[str, Any] | None, validation: Validation) -> None:
        """Complete a round's row with the scores of the model that it made."""
        if row is None:  # the first weights are nobody's model
            return
        scores = {site: _figures(report) for site, report in validation.sites.items()}
        if validation.pooled:
            scores["pooled"] = dict(validation.pooled)
        complete = {**row, "val": scores}
        self.run.add_round(complete)
        self.observer.round_done(complete, rounds=self.plan.rounds)

    def _keep_best(self, state: FederationState) -> str:
        assert state.best is not None  # at least one round was validated
        model_digest = digest(state.best.weights, self.plan.tensors)
        self.run.update_record(best_round=state.best.round, model_digest=model_digest, rounds=state.completed)
        return model_digest

    # ---- held-out evaluation ------------------------------------------------------------

    def _evaluate(self, state: FederationState, model_digest: str) -> dict[str, Any]:
        assert state.best is not None
        backbone = next(iter(self._descriptions.values())).backbone_digest
        self.observer.stage("held-out evaluation of the federated model")
        edges = self._edges(state.best.weights)
        self.run.write_model(
            state.best.weights,
            self.plan,
            backbone_digest=backbone,
            best_round=state.best.round,
            histogram_edges=edges,
        )
        federated = self._held_out("federated", state.best.weights, edges)
        local: dict[str, dict[str, HeldOutReport]] = {}
        if self.plan.local_only:
            for site, weights in self._train_local().items():
                self.observer.stage(f"held-out evaluation of {site}'s own model")
                local[site] = self._held_out(site, weights, self._edges(weights))
        return evaluation_document(
            model_digest=model_digest,
            task=self.plan.task.name,
            classes=self.plan.task.classes,
            phantom=any(description.phantom for description in self._descriptions.values()),
            federated=federated,
            local_only=local,
        )

    def _edges(self, weights: FlatArray) -> dict[str, tuple[float, ...]]:
        """Inner bin edges of each class, from where the validation scores lie."""
        question = HistogramRequest(
            run_id=self.run.run_id,
            plan_digest=self.plan.digest,
            weights_digest=digest(weights, self.plan.tensors),
        )
        found = answers_of(self._ask(question, weights=weights), HistogramReport, observer=self.observer)
        reports = {site: report.validation for site, (report, _) in found.items()}
        return score_edges(reports, classes=self.plan.task.classes)

    def _held_out(
        self, model: str, weights: FlatArray, edges: dict[str, tuple[float, ...]]
    ) -> dict[str, HeldOutReport]:
        weights_digest = digest(weights, self.plan.tensors)
        questions = {
            site: EvaluateHeldOut(
                run_id=self.run.run_id,
                plan_digest=self.plan.digest,
                weights_digest=weights_digest,
                model=model,
                edges=edges,
                test_fingerprint=description.test_fingerprint,
            )
            for site, description in self._descriptions.items()
        }
        exchange = self._put(questions, weights=weights, timeout=self.limits.round_timeout_s)
        found = answers_of(exchange, HeldOutAnswer, observer=self.observer)
        return {site: answer.report for site, (answer, _) in found.items()}

    def _train_local(self) -> dict[str, FlatArray]:
        self.observer.stage("each site trains its own model, for comparison")
        question = TrainLocal(
            run_id=self.run.run_id,
            plan_digest=self.plan.digest,
            weights_digest=digest(self._initial, self.plan.tensors),
        )
        exchange = self._ask(question, weights=self._initial)
        found = answers_of(exchange, LocalReport, observer=self.observer)
        self.run.update_record(
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
            if weights is None or digest(weights, self.plan.tensors) != report.weights_digest:
                self.observer.note(f"{site}: its own model does not have the digest that it names; left out")
            else:
                out[site] = weights
        return out

    def _ask(
        self, instruction: Instruction, *, weights: FlatArray | None = None, timeout: float | None = None
    ) -> Exchange:
        """The same question to every site that takes part."""
        questions = dict.fromkeys(sorted(self._descriptions), instruction)
        return self._put(questions, weights=weights, timeout=timeout or self.limits.round_timeout_s)

    def _put(
        self, questions: Mapping[str, Instruction], *, weights: FlatArray | None, timeout: float
    ) -> Exchange:
        """Ask, and ask again where a site was restarted and had to be told the plan first."""
        exchange = self.sites.ask(questions, weights=weights, timeout=timeout)
        restarted = [
            site for site, answer in exchange.answers.items() if isinstance(answer.report, Unprepared)
        ]
        again = {site: questions[site] for site in restarted if self._describe_again(site, timeout=timeout)}
        if not again:
            return exchange
        second = self.sites.ask(again, weights=weights, timeout=timeout)
        return Exchange(
            {**exchange.answers, **second.answers},
            exchange.bytes_down + second.bytes_down,
            exchange.bytes_up + second.bytes_up,
        )

    def _describe_again(self, site: str, *, timeout: float) -> bool:
        """Tell a restarted site the plan; it must come back with the data that it began with."""
        self.observer.note(f"{site} was restarted; it is told the plan again")
        question = Describe(run_id=self.run.run_id, plan=self.plan)
        exchange = self.sites.ask({site: question}, weights=None, timeout=timeout)
        found = answers_of(exchange, SiteDescription, observer=self.observer)
        if site not in found:
            return False
        description, _ = found[site]
        if description.model_copy(update={"versions": {}}) != self._descriptions[site].model_copy(
            update={"versions": {}}
        ):
            self.observer.note(
                f"{site} is left out: it came back with other data or weights than it began with"
            )
            return False
        return True


def _figures(report: ValidationReport) -> dict[str, Any]:
    """One site's scores of a round; what it keeps back is said, not left out."""
    if isinstance(report.loss_sum, float) and isinstance(report.correct, int):
        return {"loss": report.loss_sum / report.n, "accuracy": report.correct / report.n, "n": report.n}
    return {"n": report.n} | as_json(report.loss_sum)
