"""A masked round from the server's side: keys, one exchange of weights, who is left, shares, the sum."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from stic_core.config import POOLED_SITES
from stic_core.errors import FederationError, SiteReportError
from stic_core.privacy.secure_aggregation.exchange import MaskedExchange
from stic_core.privacy.secure_aggregation.masks import RingVector, ring_sum
from stic_core.protocol.compression import WireArray
from stic_core.protocol.mask_messages import (
    HELD_OUT_ROUND,
    MASKED_COUNTS,
    Masking,
    MaskKeys,
    MaskKeysReport,
    MaskShares,
    MaskSharesReport,
    SiteKeys,
    Survivors,
    SurvivorsReport,
    Unmask,
    UnmaskReport,
    masks_of,
)
from stic_core.protocol.messages import (
    EvaluateHeldOut,
    Instruction,
    PooledAnswer,
    RoundReport,
    TrainRound,
    question_digest,
)
from stic_core.system.files import write_atomically
from stic_core.tensors.flat import FlatArray
from stic_server.federation.masked_sum_file import SUM_FILE, load_masked_sum, save_masked_sum
from stic_server.federation.masking import (
    MaskedSum,
    MeanChange,
    SharedKeys,
    check_keys,
    check_reveal,
    check_shares,
    following_exchange,
    masked_values,
    mean_change,
    unmask,
    valid_signature,
)
from stic_server.federation.participants import Participants
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.screen_reports import check_round
from stic_server.federation.sites import Exchange, answers_of, leave_out

_LIGHT_S = 60.0
"""For which an answer without weights is waited for."""

ReportT = TypeVar("ReportT")


@dataclass(frozen=True, slots=True)
class MaskedCounts:
    """Held-out counts whose sum was opened.

    Args:
        total: one for each number that a site sends.
        sites: that are in the sum.
        patients: held out, that these sites announced.
    """

    total: RingVector
    sites: tuple[str, ...]
    patients: int


@dataclass(frozen=True, slots=True)
class MaskedRound:
    """A round whose sum was opened.

    Args:
        reports: of the sites that are in it.
        exchange: what all its messages held.
    """

    mean: MeanChange
    reports: Mapping[str, RoundReport]
    exchange: Exchange


class MaskedRounds:
    """The masked rounds of one run.

    Args:
        participants: the sites that take part; the plan has secure aggregation.
        run: the folder that keeps what must survive a kill.
    """

    def __init__(self, participants: Participants, run: RunFolder) -> None:
        plan = participants.plan
        assert plan.secure_aggregation is not None
        self._participants, self._run, self._plan = participants, run, plan
        self._config = plan.secure_aggregation
        self._sum_file = run.path / SUM_FILE
        self._serial_file = run.path / "mask-exchanges.json"
        self._serial = self._read_serial()
        self._shared: SharedKeys | None = None
        """Keys that came with the round before."""
        self._reveals: dict[str, UnmaskReport] = {}
        """Of the sum that is being opened, by site."""
        self._traffic = Exchange({})
        """Of the round so far, repeats too."""

    def run_round(self, question: TrainRound, *, wire: WireArray, start: FlatArray) -> MaskedRound:
        """One attempt at a round; one that waits to be opened is opened.

        Args:
            question: without masking.
            wire: the global model as it travels.
            start: the global model.

        Raises:
            FederationError: too few sites are left, or too few shares came. It may be tried again.
        """
        masked = self._begun(question.round, question) or self._collect(question, wire=wire)
        mean = mean_change(self._open(masked), masked, config=self._config, start=start)
        traffic, self._traffic = self._traffic, Exchange({})
        reports = {site: one for site, one in masked.reports.items() if isinstance(one, RoundReport)}
        return MaskedRound(mean, reports, traffic)

    def sum_counts(
        self, questions: Mapping[str, EvaluateHeldOut], *, weights: FlatArray, size: int
    ) -> MaskedCounts:
        """One attempt at summing held-out counts; one that waits to be opened is opened.

        Args:
            questions: by site, without masking, about one model.
            weights: of the model.
            size: numbers that a site sends.

        Raises:
            FederationError: too few sites are left, or too few shares came. It may be tried again.
        """
        masked = self._begun(HELD_OUT_ROUND, next(iter(questions.values()))) or self._collect_counts(
            questions, weights=weights, size=size
        )
        total = self._open(masked)
        patients = {member.site: member.patients for member in masked.members}
        return MaskedCounts(total, masked.survivors, sum(patients[site] for site in masked.survivors))

    def _begun(self, number: int, question: TrainRound | EvaluateHeldOut) -> MaskedSum | None:
        """The sum that waits to be opened, None where a new one is to be collected."""
        masked = load_masked_sum(
            self._sum_file, run_id=self._run.run_id, number=number, question=question_digest(question)
        )
        if masked is None:
            self._reveals = {}
        else:
            self._participants.observer.note(
                f"{masks_of(number)}: opening the sum of {', '.join(masked.survivors)} that was begun before"
            )
        return masked

    # ---- keys ----------------------------------------------------------------------------

    def _keys_for(self, number: int) -> SharedKeys:
        """Keys that came with the round before, where they are those of all sites that are here; else new ones."""
        shared, self._shared = self._shared, None
        here = self._participants.online
        if shared is not None and shared.exchange.round == number and set(here) <= shared.sealed.keys():
            return shared
        exchange = MaskedExchange(self._run.run_id, self._plan.digest, number, self._next_serial())
        names = {
            "run_id": exchange.run_id,
            "plan_digest": exchange.plan,
            "round": number,
            "serial": exchange.serial,
        }
        found = self._ask(
            dict.fromkeys(here, MaskKeys(**names)),
            MaskKeysReport,
            check=lambda site, report: self._check_keys(site, report.keys, exchange),
        )
        members = tuple(report.keys for _, report in sorted(found.items()))
        self._require(found, number=number, what="keys for masks")
        question = MaskShares(**names, members=members)
        answered = self._ask(
            dict.fromkeys(found, question),
            MaskSharesReport,
            check=lambda site, report: check_shares(report.shares, site=site, members=members),
        )
        self._require(answered, number=number, what="shares of masks")
        return SharedKeys(exchange, members, {site: report.shares for site, report in answered.items()})

    def _check_keys(self, site: str, keys: SiteKeys, exchange: MaskedExchange) -> None:
        split = "test" if exchange.round == HELD_OUT_ROUND else "train"
        patients = self._participants.descriptions[site].patients[split].n
        check_keys(keys, site=site, plan=self._plan, exchange=exchange, patients=patients)

    def _next_serial(self) -> int:
        self._keep_serial(self._serial + 1)
        return self._serial

    def _keep_serial(self, serial: int) -> None:
        """Before it is used: a site takes part in no exchange twice."""
        if serial > self._serial:
            write_atomically(self._serial_file, json.dumps({"serial": serial}) + "\n")
            self._serial = serial

    def _read_serial(self) -> int:
        return json.loads(self._serial_file.read_text())["serial"] if self._serial_file.exists() else 0

    # ---- masked updates ------------------------------------------------------------------

    def _collect(self, question: TrainRound, *, wire: WireArray) -> MaskedSum:
        shared = self._keys_for(question.round)
        serial = shared.exchange.serial
        self._keep_serial(serial + 1)  # of the keys that come with the updates
        questions = {
            site: question.model_copy(
                update={"masking": Masking(serial=serial, shares=shared.for_site(site))}
            )
            for site in sorted(shared.sealed)
        }
        exchange = self._participants.ask_each(questions, weights=wire)
        self._traffic = self._traffic.followed_by(replace(exchange, answers={}))
        size = sum(spec.size for spec in self._plan.tensors) + MASKED_COUNTS
        values, reports = dict[str, RingVector](), {}
        for site, (report, answered) in answers_of(
            exchange, RoundReport, observer=self._participants.observer
        ).items():
            try:
                described = self._participants.descriptions[site]
                check_round(site, report, number=question.round, described=described)
                values[site] = masked_values(report, answered, site=site, size=size)
                reports[site] = report
            except SiteReportError as error:
                leave_out(error, observer=self._participants.observer)
        return self._summed(shared, reports, values, question=question_digest(question))

    def _collect_counts(
        self, questions: Mapping[str, EvaluateHeldOut], *, weights: FlatArray, size: int
    ) -> MaskedSum:
        shared = self._keys_for(HELD_OUT_ROUND)
        asked = {
            site: questions[site].model_copy(
                update={"masking": Masking(serial=shared.exchange.serial, shares=shared.for_site(site))}
            )
            for site in sorted(shared.sealed)
        }
        exchange = self._participants.ask_each(asked, weights=weights)
        values, reports = dict[str, RingVector](), {}

        def check(site: str, report: PooledAnswer) -> None:
            if report.model != asked[site].model:
                raise SiteReportError("answered for another model", site=site)

        found = answers_of(exchange, PooledAnswer, observer=self._participants.observer, check=check)
        for site, (report, answered) in found.items():
            try:
                values[site] = masked_values(report, answered, site=site, size=size)
                reports[site] = report
            except SiteReportError as error:
                leave_out(error, observer=self._participants.observer)
        return self._summed(shared, reports, values, question=question_digest(next(iter(questions.values()))))

    def _summed(
        self,
        shared: SharedKeys,
        reports: Mapping[str, RoundReport | PooledAnswer],
        values: Mapping[str, RingVector],
        *,
        question: str,
    ) -> MaskedSum:
        """The sum of what came, with the survivors' signatures; it is on the disk when this returns."""
        self._require(reports, number=shared.exchange.round, what="masked values")
        masked = MaskedSum(
            exchange=shared.exchange,
            question=question,
            members=shared.members,
            together=tuple(sorted(shared.sealed)),
            signatures={},
            reports=reports,
            total=ring_sum(values.values()),
        )
        masked = replace(masked, signatures=self._agreed(masked))
        save_masked_sum(masked, self._sum_file)
        return masked

    def _agreed(self, masked: MaskedSum) -> dict[str, str]:
        """The survivors' signatures of who is left; their answers bring the shares for the next round."""
        exchange = following_exchange(masked.exchange)
        following = self._following(masked, exchange)
        question = Survivors(
            run_id=masked.exchange.run_id,
            plan_digest=masked.exchange.plan,
            round=masked.exchange.round,
            serial=masked.exchange.serial,
            survivors=masked.survivors,
            following=following,
        )

        def check(site: str, report: SurvivorsReport) -> None:
            if not valid_signature(report.signature, site=site, plan=self._plan, masked=masked):
                raise SiteReportError("did not sign who is left of the round", site=site)

        found = self._ask(dict.fromkeys(masked.survivors, question), SurvivorsReport, check=check)
        self._require(found, number=masked.exchange.round, what="signatures of who is left")
        sealed = {}
        for site, report in found.items():
            try:
                check_shares(report.shares, site=site, members=following)
                sealed[site] = report.shares
            except SiteReportError as error:
                if following:
                    leave_out(error, observer=self._participants.observer)
        if following and len(sealed) >= self._needed:
            self._shared = SharedKeys(exchange, following, sealed)
        return {site: report.signature for site, report in found.items()}

    def _following(self, masked: MaskedSum, exchange: MaskedExchange) -> tuple[SiteKeys, ...]:
        """Keys for the next round; none where there are too few."""
        found = []
        for site, report in sorted(masked.reports.items()):
            if isinstance(report, RoundReport) and report.following is not None:
                try:
                    self._check_keys(site, report.following, exchange)
                    found.append(report.following)
                except SiteReportError as error:
                    leave_out(error, observer=self._participants.observer)
        return tuple(found) if len(found) >= self._needed else ()

    # ---- the sum -------------------------------------------------------------------------

    def _open(self, masked: MaskedSum) -> RingVector:
        """Ask for shares, of sites that have not given theirs, and take the masks off."""
        question = Unmask(
            run_id=masked.exchange.run_id,
            plan_digest=masked.exchange.plan,
            round=masked.exchange.round,
            serial=masked.exchange.serial,
            signatures=dict(masked.signatures),
        )
        owing = [site for site in masked.survivors if site not in self._reveals]
        self._reveals |= self._ask(
            dict.fromkeys(owing, question),
            UnmaskReport,
            check=lambda site, report: check_reveal(report, site=site, masked=masked),
        )
        return unmask(masked, self._reveals, plan=self._plan)

    # ---- asking --------------------------------------------------------------------------

    @property
    def _needed(self) -> int:
        return max(self._plan.threshold, self._participants.limits.min_sites)

    def _needed_for(self, number: int) -> int:
        return max(self._needed, POOLED_SITES if number == HELD_OUT_ROUND else 0)

    def _require(self, found: Mapping[str, Any], *, number: int, what: str) -> None:
        if len(found) < self._needed_for(number):
            raise FederationError(
                f"{masks_of(number)} cannot be summed; nothing of it was revealed",
                got=f"{what} from {len(found)} sites ({', '.join(sorted(found)) or 'none'})",
                expected=f"at least {self._needed_for(number)} of the plan's {len(self._plan.sites)}",
                advice="Find out why the others did not answer.",
            )

    def _ask(
        self,
        questions: Mapping[str, Instruction],
        kind: type[ReportT],
        *,
        check: Callable[[str, ReportT], None],
    ) -> dict[str, ReportT]:
        """An exchange without weights; what fails the check is noted and left out."""
        if not questions:
            return {}
        timeout = min(_LIGHT_S, self._participants.limits.round_timeout_s)
        exchange = self._participants.ask_each(questions, weights=None, timeout=timeout)
        self._traffic = self._traffic.followed_by(replace(exchange, answers={}))
        found = answers_of(exchange, kind, observer=self._participants.observer, check=check)
        return {site: report for site, (report, _) in found.items()}
