"""The rounds of a run: send the model, take in the scores, average what came back, save."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from stic_core.errors import FederationError, ProtocolError, SiteReportError
from stic_core.evaluation import ValidationReport, as_json
from stic_core.protocol.compression import WireArray, decode_update, downlink, pack, rounded
from stic_core.protocol.messages import RoundReport, TrainRound
from stic_core.tensors.flat import FlatArray, digest
from stic_core.training.schedules import rate_of_round, should_stop
from stic_server.federation.checkpoints import load_state, save_state
from stic_server.federation.masked_rounds import MaskedRounds
from stic_server.federation.participants import Participants
from stic_server.federation.round import (
    ATTEMPTS,
    Diagnostics,
    FederationState,
    SiteRound,
    Validation,
    finish_masked_round,
    finish_round,
    record_validation,
)
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.screen_reports import check_round
from stic_server.federation.sites import Exchange, answers_of, leave_out
from stic_server.strategies import algorithm_of
from stic_server.strategies.algorithm import WEIGHTS

_NORMS_OF_ROUNDS = 20
"""How far back the norms of updates are compared."""


class Rounds:
    """Training.

    Args:
        participants: the sites that take part.
        run: the folder that keeps rows and checkpoints.
    """

    def __init__(self, participants: Participants, run: RunFolder) -> None:
        self._participants, self._run = participants, run
        self._algorithm = algorithm_of(participants.plan.algorithm)
        masks = participants.plan.secure_aggregation is not None
        self._masked = MaskedRounds(participants, run) if masks else None

    def train(self, initial: FlatArray) -> FederationState:
        """All rounds that are still to do.

        Args:
            initial: the first weights, where there is no checkpoint.

        Raises:
            FederationError: a round had too few usable reports.
        """
        state, passed_over = load_state(self._run.checkpoints, plan_digest=self._participants.plan.digest)
        for word in passed_over:
            self._participants.observer.note(word)
        if state is None:
            state = FederationState(0, self._algorithm.init(initial))
        else:
            self._participants.observer.note(
                f"resuming run {self._participants.run_id} after round {state.completed}"
            )
        # The last round's row waits for its scores in the checkpoint: the next exchange brings them.
        self._run.keep_rounds(state.completed - 1)
        self._participants.observer.stage("training")
        mark = time.monotonic()
        while state.completed < self._participants.plan.rounds and not self._stops(state):
            number = state.completed + 1
            self._participants.observer.round_begins(number, rounds=self._participants.plan.rounds)
            before = state.pending
            state, diagnostics, exchange, reports = self._averaged(state, number)
            for reason in diagnostics.refused.values():
                leave_out(reason, observer=self._participants.observer, kind="update")
            self._write_row(before, diagnostics.validation)
            # A round lasts until the next one begins: the checkpoint of the one before is in it.
            seconds, mark = time.monotonic() - mark, time.monotonic()
            row = self._row(number, seconds, exchange, reports, diagnostics)
            state = replace(state, pending=row, seconds=state.seconds + seconds)
            save_state(state, self._run.checkpoints, plan_digest=self._participants.plan.digest)
            self._run.mark_time()
        state, validation = record_validation(state, self._last_look(state))
        self._write_row(state.pending, validation)
        return state

    def _averaged(
        self, state: FederationState, number: int
    ) -> tuple[FederationState, Diagnostics, Exchange, Mapping[str, RoundReport]]:
        """One round, tried again when too few reports are usable: sites may be back by then."""
        for attempt in range(1, ATTEMPTS + 1):
            self._admit_late_sites()
            try:
                after, diagnostics, exchange, reports = self._attempted(state, number)
            except FederationError as error:
                if attempt == ATTEMPTS:
                    raise
                self._participants.observer.note(f"{error} Trying again ({attempt + 1} of {ATTEMPTS}).")
            else:
                after = replace(after, arrays={**after.arrays, WEIGHTS: self._travelled(after.weights)})
                return after, diagnostics, exchange, reports
        raise AssertionError("the loop returns or raises")

    def _attempted(
        self, state: FederationState, number: int
    ) -> tuple[FederationState, Diagnostics, Exchange, Mapping[str, RoundReport]]:
        """One attempt at a round.

        Raises:
            FederationError: too few usable reports.
        """
        if self._masked is not None:
            question, wire = self._question(state, number, train=True)
            found = self._masked.run_round(question, wire=wire, start=state.weights)
            after, diagnostics = finish_masked_round(
                state, found.reports, mean=found.mean, algorithm=self._algorithm
            )
            return after, diagnostics, found.exchange, found.reports
        exchange, reports = self._round(state, number, train=True)
        after, diagnostics = finish_round(
            state,
            reports,
            algorithm=self._algorithm,
            min_sites=self._participants.limits.min_sites,
            past_norms=self._past_norms(state),
            max_update_ratio=self._participants.limits.max_update_ratio,
        )
        return after, diagnostics, exchange, {site: one.report for site, one in reports.items()}

    def _admit_late_sites(self) -> None:
        """Who takes part in a round is in the record before it begins."""
        self._participants.admit_late_sites()
        self._run.keep_descriptions(self._participants.descriptions)

    def _last_look(self, state: FederationState) -> dict[str, SiteRound]:
        """Validation of the last model, by as many sites as a round needs: which model is best hangs on it."""
        reports: dict[str, SiteRound] = {}
        for _ in range(ATTEMPTS):
            self._admit_late_sites()
            _, reports = self._round(state, state.completed + 1, train=False)
            if len(reports) >= self._participants.limits.min_sites:
                return reports
        raise FederationError(
            "the last model cannot be scored",
            got=f"reports from {len(reports)} sites ({', '.join(reports) or 'none'}), {ATTEMPTS} times",
            expected=f"at least {self._participants.limits.min_sites} (min_sites)",
            advice="Start the server again when the sites are back: the run resumes here.",
        )

    def _round(
        self, state: FederationState, number: int, *, train: bool
    ) -> tuple[Exchange, dict[str, SiteRound]]:
        question, wire = self._question(state, number, train=train)
        exchange, plan = self._participants.ask(question, weights=wire), self._participants.plan
        found = answers_of(exchange, RoundReport, observer=self._participants.observer)
        reports = {}
        for site, (report, answered) in found.items():
            try:
                check_round(site, report, number=number, described=self._participants.descriptions[site])
                weights = self._restored(site, answered, base=state.weights)
                if weights is not None and report.weights_digest != digest(weights, plan.tensors):
                    raise SiteReportError("its weights do not match the digest that it stated", site=site)
            except SiteReportError as error:
                leave_out(error, observer=self._participants.observer)
            else:
                reports[site] = SiteRound(report, weights)
        return exchange, reports

    def _question(self, state: FederationState, number: int, *, train: bool) -> tuple[TrainRound, WireArray]:
        """A round's question, and the global model as it travels with it."""
        plan = self._participants.plan
        question = TrainRound(
            run_id=self._participants.run_id,
            plan_digest=plan.digest,
            round=number,
            weights_digest=digest(state.weights, plan.tensors),
            learning_rate=self._rate(number) if train else None,
            train=train,
        )
        return question, pack(state.weights, plan.tensors, transport=downlink(plan.transport))

    def _past_norms(self, state: FederationState) -> list[dict[str, float]]:
        """How far each site went in the last rounds, of those whose updates were taken."""
        rows = [*self._run.read_rounds()[-_NORMS_OF_ROUNDS:], *([state.pending] if state.pending else [])]
        return [
            {site: norm for site, norm in row.get("update_norm", {}).items() if site in row["sites"]}
            for row in rows
        ]

    def _travelled(self, weights: FlatArray) -> FlatArray:
        """A global model as the sites will have it, so that what is scored is what is kept."""
        plan = self._participants.plan
        return rounded(weights, plan.tensors, transport=downlink(plan.transport))

    def _restored(self, site: str, wire: WireArray | None, *, base: FlatArray) -> FlatArray | None:
        if wire is None:
            return None
        plan = self._participants.plan
        try:
            weights = decode_update(wire, plan.tensors, transport=plan.transport, base=base)
        except ProtocolError as error:
            raise SiteReportError(
                "weights have the wrong dtype or shape", site=site, got=error.got, expected=error.expected
            ) from None
        if np.isfinite(weights).all():  # else screening says so
            self._check_can_travel(site, weights)
        return weights

    def _check_can_travel(self, site: str, weights: FlatArray) -> None:
        """An average of weights that the transport holds can be sent on; one site's must not prevent it."""
        plan = self._participants.plan
        try:
            pack(weights, plan.tensors, transport=downlink(plan.transport))
        except ProtocolError as error:
            raise SiteReportError(
                "its weights are larger than the transport holds",
                site=site,
                got=error.got,
                expected=error.expected,
                advice="Its training diverged: lower training.learning_rate, or use transport: float32.",
            ) from None

    def _losses(self) -> list[float | None]:
        """Pooled validation loss of the models so far that were scored, which lags a round behind."""
        return [row["val"].get("pooled", {}).get("loss") for row in self._run.read_rounds()]

    def _rate(self, number: int) -> float:
        plan = self._participants.plan
        return rate_of_round(plan.training, number=number, rounds=plan.rounds, losses=self._losses())

    def _stops(self, state: FederationState) -> bool:
        stops = should_stop(self._participants.plan.training, self._losses())
        if stops:
            self._participants.observer.note(
                f"stopped early after round {state.completed}: no better validation loss for "
                f"{self._participants.plan.training.early_stopping} rounds"
            )
        return stops

    def _row(
        self,
        number: int,
        seconds: float,
        exchange: Exchange,
        reports: Mapping[str, RoundReport],
        diagnostics: Diagnostics,
    ) -> dict[str, Any]:
        # Nobody computed for longer than the round took, whatever it says.
        slowest = min(seconds, max((report.compute_seconds for report in reports.values()), default=0.0))
        return {
            "round": number,
            "sites": sorted(diagnostics.train_loss),
            "seconds": round(seconds, 4),
            "overhead_seconds": round(seconds - slowest, 4),
            "bytes_down": exchange.bytes_down,
            "bytes_up": exchange.bytes_up,
            "bytes_by_site": {
                site: {"down": one.down, "up": one.up} for site, one in sorted(exchange.traffic.items())
            },
            "train_loss": dict(diagnostics.train_loss),
            "update_norm": {site: float(f"{norm:.6g}") for site, norm in diagnostics.update_norm.items()},
            "algorithm": {name: float(f"{value:.6g}") for name, value in diagnostics.figures.items()},
        }

    def _write_row(self, row: Mapping[str, Any] | None, validation: Validation) -> None:
        """Complete a round's row with the scores of the model that it made."""
        if row is None:  # the first weights are nobody's model
            return
        scores = {site: _figures(report) for site, report in validation.sites.items()}
        if validation.pooled:
            scores["pooled"] = dict(validation.pooled)
        complete = {**row, "val": scores}
        self._run.add_round(complete)
        self._participants.observer.round_done(complete, rounds=self._participants.plan.rounds)


def _figures(report: ValidationReport) -> dict[str, Any]:
    """One site's scores of a round; what it keeps back is said, not left out."""
    if not isinstance(report.loss_sum, float):
        return {"n": report.n} | as_json(report.loss_sum)
    right = report.correct
    accuracy = {"accuracy": right / report.n} if isinstance(right, int) else as_json(right)
    return {"loss": report.loss_sum / report.n, "n": report.n} | accuracy
