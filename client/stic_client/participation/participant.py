"""A site's part in a run: instructions in, reports out. No transport, no Flower.

It decides what the site takes part in, and logs every message. What goes wrong is answered
with a code; the detail stays in the site's own log. While the site's disk is full the answer is
`NoRoomError`, for which room in the log is set aside.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack

import torch

from stic_client.participation.approvals import PlanStore
from stic_client.participation.disk import SiteDisk
from stic_client.participation.final_models import Expected, FinalModels
from stic_client.participation.masked_rounds import MaskedRounds, check_can_mask
from stic_client.participation.opened_rounds import OpenedRounds
from stic_client.participation.policy import check_plan
from stic_client.participation.preparing import Preparation, Progress
from stic_client.participation.shown_models import ShownModels
from stic_core.config import SiteConfig
from stic_core.data.dataset import load_dataset
from stic_core.errors import (
    DataError,
    NoRoomError,
    PlanPendingError,
    PlanRefusedError,
    ProtocolError,
    SticError,
)
from stic_core.models.devices import pick_device
from stic_core.privacy.looks import HeldOutLooks
from stic_core.protocol.audit_log import AuditLog, Direction, Entry, entry_of
from stic_core.protocol.compression import WireArray
from stic_core.protocol.mask_messages import (
    HELD_OUT_ROUND,
    MaskKeys,
    MaskQuestion,
    MaskShares,
    Survivors,
    Unmask,
    masks_of,
)
from stic_core.protocol.messages import (
    Acknowledged,
    Describe,
    EvaluateHeldOut,
    Failure,
    Finish,
    Instruction,
    LocalReport,
    Preparing,
    Refusal,
    Report,
    RunPlan,
    SiteDescription,
    TrainLocal,
    TrainRound,
    Unprepared,
    own_model_statement,
)
from stic_core.site_run import LocalRun, Work
from stic_core.system.keys import load_private, sign
from stic_core.system.observer import Observer
from stic_core.system.os_errors import explained
from stic_core.system.room import is_full
from stic_core.training.private_training import site_privacy
from stic_core.training.setup import ComputeConfig, assemble
from stic_core.training.site_arrays import arrays_of_run
from stic_core.training.site_training import check_training

LOG = logging.getLogger(__name__)

_STOP_S = 10.0
"""For which a client that ends waits for a computation to stop at its next step."""


class Participant:
    """One site.

    Args:
        config: of the site.
        observer: receives progress events.
        plans: which plans the site's operator approved.
        one_message: this process answers one message, as a stock SuperNode's do: it waits until the run
            is loaded, and takes up the run of a process before it from the disk.
    """

    prompt_s: float | None = 3.0
    """After which a site that is still getting ready says so, seconds: the server asks the others only then."""

    def __init__(
        self,
        config: SiteConfig,
        observer: Observer | None = None,
        *,
        plans: PlanStore | None = None,
        one_message: bool = False,
    ) -> None:
        self.config, self.observer = config, observer or Observer()
        self.device = pick_device(config.device)
        self.finished: str | None = None
        """Status of the last run that the server ended."""
        self._plans = plans or PlanStore(config.plans)
        self._run: LocalRun | None = None
        self._preparation: Preparation | None = None
        self._shown: ShownModels | None = None
        self._masked: tuple[TrainRound | EvaluateHeldOut, Report, WireArray | None] | None = None
        """The masked round or evaluation that was answered last: the same question gets the same bytes."""
        self._models = FinalModels(config.models)
        self.disk = SiteDisk(config, self.observer)
        self._audit = AuditLog(config.audit, reserve=self.disk.log_reserve)
        self._one_message = one_message
        if one_message:
            self.prompt_s = None
        self._announced = ""
        """The run that the operator was told of last."""

    def answer(self, instruction: Instruction, weights: WireArray | None) -> tuple[Report, WireArray | None]:
        """Do what is asked, or say why not; never raises what a user could cause.

        Both the question and the answer are in the audit log before the answer is given.

        Raises:
            NoRoomError: the disk is full to the last byte that was set aside for the log. Nothing may
                leave; the same question can be asked again.
        """
        report, trained = self._attempt(instruction, weights)
        decision = {"refusal": "refused", "failure": "failed"}.get(report.kind, "answered")
        try:
            self._audit.append(
                self._entry("in", instruction, weights, instruction=instruction, decision=decision),
                self._entry("out", report, trained, instruction=instruction, decision="sent"),
            )
        except (OSError, DataError) as error:
            if isinstance(error, OSError) and is_full(error):
                self.disk.full()
                raise self.disk.no_room() from None
            # Else something would leave that nobody could look up afterwards.
            why = error if isinstance(error, DataError) else error.strerror
            self.observer.note(f"no request is answered: the audit log cannot be written ({why})")
            raise
        self.disk.answered(report)
        pending = isinstance(report, Refusal) and report.pending
        self.observer.answered(instruction.kind, "pending" if pending else decision)
        return report, trained

    def _entry(
        self,
        direction: Direction,
        message: Instruction | Report,
        weights: WireArray | None,
        *,
        instruction: Instruction,
        decision: str,
    ) -> Entry:
        specs = self._run.plan.tensors if self._run is not None and weights is not None else ()
        return entry_of(
            direction,
            "server",
            message,
            weights,
            run=instruction.run_id,
            round_number=getattr(instruction, "round", 0),
            tensors=tuple(spec.name for spec in specs),
            decision=decision,
        )

    def _attempt(
        self, instruction: Instruction, weights: WireArray | None
    ) -> tuple[Report, WireArray | None]:
        self.observer.doing(self._doing(instruction))
        try:
            return self._answer(instruction, weights)
        except NoRoomError as error:
            return self.disk.full(error), None
        except PlanPendingError as error:
            return Refusal(reason=str(error)[:1000], pending=True), None
        except PlanRefusedError as error:
            self.observer.note(f"refused: {error}")
            return Refusal(reason=str(error)[:1000]), None
        except SticError as error:
            self.observer.note(f"failed: {error}")
            return Failure(code=error.code), None
        except Exception as error:
            if isinstance(error, OSError) and is_full(error):
                return self.disk.full(), None
            if isinstance(error, OSError) and (known := explained(error)) is not None:
                self.observer.note(f"failed: {known}")
                return Failure(code=type(error).__name__), None
            # Whatever it says may quote data, so only its kind travels.
            LOG.exception("%s failed", instruction.kind)
            self.observer.note(f"{instruction.kind} failed with {type(error).__name__}; see the log")
            return Failure(code=type(error).__name__), None

    def _doing(self, instruction: Instruction) -> str:
        match instruction:
            case Describe():
                return "preparing for the run"
            case TrainRound():
                of = f" of {self._run.plan.rounds}" if self._run is not None else ""
                return f"training in round {instruction.round}{of}"
            case MaskKeys() | MaskShares() | Survivors() | Unmask():
                return f"exchanging keys for the masks of {masks_of(instruction.round)}"
            case TrainLocal():
                return "training this site's own model, for comparison"
            case EvaluateHeldOut():
                return "evaluating on held-out patients"
            case Finish():
                return "storing the final model"

    def _answer(self, instruction: Instruction, weights: WireArray | None) -> tuple[Report, WireArray | None]:
        match instruction:
            case Describe():
                return self._describe(instruction), None
            case Finish():
                return self._finish(instruction, weights), None
            case _:
                run = self._run
                if (run is None or run.run_id != instruction.run_id) and self._one_message:
                    run = self._take_up(instruction.run_id)
                if run is None or run.run_id != instruction.run_id:
                    return Unprepared(), None
                if isinstance(instruction, MaskKeys | MaskShares | Survivors | Unmask):
                    return self._mask(run, instruction), None
                return self._work(run, instruction, weights)

    def _mask(self, run: LocalRun, question: MaskQuestion) -> Report:
        if not isinstance(run.masker, MaskedRounds):
            raise PlanRefusedError(
                "keys for masks", expected="no such request in a plan without secure aggregation"
            )
        evaluates = question.round == HELD_OUT_ROUND
        patients = len(run.held_out_patients) if evaluates else run.training_patients
        return run.masker.answer(question, patients=patients)

    def _work(
        self, run: LocalRun, question: Work, weights: WireArray | None
    ) -> tuple[Report, WireArray | None]:
        shown = self._shown
        assert shown is not None  # made together with the run
        if self._masked is not None and self._masked[0] == question:
            return self._masked[1:]
        run.check(question)
        shown.check(question)
        if isinstance(question, EvaluateHeldOut):
            with run.looks.alone():
                if run.look_of(question) is None:
                    run.looks.check_room(
                        run.held_out_patients,
                        plan=run.plan.digest,
                        of_plan=run.plan.held_out_models,
                        in_all=self.config.policy.held_out_models,
                    )
                report, sent = run.answer(question, weights)
            if question.masking is not None:
                self._masked = question, report, sent
            return report, sent
        report, trained = run.answer(question, weights)
        if isinstance(question, TrainRound) and question.masking is not None:
            self._masked = question, report, trained
        if isinstance(report, LocalReport):
            shown.trained(report.weights_digest)
            statement = own_model_statement(
                run_id=run.run_id, plan_digest=run.plan.digest, weights_digest=report.weights_digest
            )
            key = load_private(self.config.key)
            report = report.model_copy(update={"signature": sign(key, statement)})
        return report, trained

    def _describe(self, question: Describe) -> SiteDescription | Preparing:
        plan = question.plan
        check_plan(plan, self.config.policy)
        if plan.secure_aggregation is not None and plan.evaluates is None:
            check_can_mask(plan, site=self.config.site, key=load_private(self.config.key))
        self._check_approved(plan)
        if self._announced != question.run_id:  # a question may come again
            self._announced = question.run_id
            work = "evaluates one model" if plan.evaluates else f"at most {plan.rounds} rounds"
            self.observer.note(
                f"run {question.run_id}: task {plan.task.name}, {plan.model.architecture} on {plan.model.backbone}, "
                f"{work}, plan {plan.digest[:12]}"
            )
        preparation = self._preparation
        if preparation is None or not preparation.is_of(question):
            if preparation is not None:
                preparation.give_up()
                if not preparation.wait(self.prompt_s):
                    return Preparing()  # two runs at once need not fit into memory
            self._preparation = preparation = self._begin(question)
        if not preparation.wait(self.prompt_s):
            return preparation.report
        self._preparation = None
        self._run = run = preparation.result()
        digest, phantom = run.setup.backbone_digest, run.dataset.phantom
        report = run.describe()
        expected = Expected(
            plan=plan, backbone_digest=digest, phantom=phantom, fingerprint=report.fingerprint
        )
        self._models.expect(question.run_id, expected)
        lacking = [old for old in self._models.lacking() if old != question.run_id]
        return report.model_copy(update={"lacks_models": tuple(lacking)})

    def _take_up(self, run_id: str) -> LocalRun | None:
        """The run of a process before this one, if the site still has the data that it began with.

        The plan is checked as if the server had sent it: the policy or an approval may have changed.
        """
        noted = self._models.expected(run_id)
        if noted is None or noted.fingerprint is None:
            return None
        self._describe(Describe(run_id=run_id, plan=noted.plan))
        run = self._run
        if run is None or run.describe().fingerprint != noted.fingerprint:
            return None  # the server sends the plan again, and sees what changed
        return run

    def _begin(self, question: Describe) -> Preparation:
        """Load a run beside the answering."""
        plan = question.plan
        self.finished = None
        self._run = self._masked = None  # two runs' features need not fit into memory together
        self._shown = ShownModels(
            self.config.held_out / "plans", run_id=question.run_id, plan=plan, note=self.observer.note
        )
        self._models.reserve(plan)
        with ExitStack() as stack:
            stack.enter_context(self.disk.room_for_run(question))
            room = stack.pop_all()

        def load(progress: Progress) -> LocalRun:
            with room:
                return self._load(question.run_id, plan, progress=progress)

        return Preparation(question, load)

    def close(self) -> None:
        """The program ends: a computation stops at its next step, and what it finished is on the disk."""
        if self._preparation is not None:
            self._preparation.give_up()
            self._preparation.wait(_STOP_S)

    def _check_approved(self, plan: RunPlan) -> None:
        policy = self.config.policy
        if policy.plans == "any" or plan.digest in policy.approved or self._plans.is_approved(plan):
            return
        differences = self._plans.differences(plan)
        if self._plans.hold(plan):  # the server asks again every few seconds: said once
            self.observer.note(
                f"plan {plan.digest[:12]} is waiting for approval: stic-client --site {self.config.site} approve"
            )
            for line in differences:
                self.observer.note(f"  {line}")
            self.observer.event(
                "approval-waiting",
                f"plan {plan.digest[:12]} is waiting for approval at {self.config.site}",
                plan=plan.digest,
            )
        changed = f" It differs from the plan approved last: {'; '.join(differences)}." if differences else ""
        raise PlanPendingError(
            f"plan {plan.digest[:12]} is not approved at this site yet",
            advice=f"The site's operator can review it with `stic-client --site {self.config.site} approve`.{changed}",
        )

    def _load(self, run_id: str, plan: RunPlan, *, progress: Progress) -> LocalRun:
        def step(done: int, total: int) -> None:
            progress(done, total)
            self.observer.progress("backbone features", done, total)

        dataset = load_dataset(self.config.dataset.prepared)
        dataset.require(plan.task)
        if left_out := dataset.left_out(plan.task):
            self.observer.note(
                f"{left_out} patients of other classes than task {plan.task.name} has are left out"
            )
        privacy = site_privacy(self.config.privacy, plan)
        check_training(
            plan, dataset, policy=self.config.policy, ledger=privacy.ledger
        )  # before hours of features
        if plan.determinism:
            torch.use_deterministic_algorithms(True)
        setup = assemble(
            dataset,
            model=plan.model,
            training=plan.training,
            task=plan.task,
            seed=plan.seed,
            compute=ComputeConfig(
                device=self.device,
                precision=self.config.precision,
                weights=self.config.backbone_weights.get(plan.model.backbone),
                cache_limit_bytes=int(self.config.cache_limit_gb * 1e9),
                progress=step,
                announce=lambda size: self.observer.note(
                    f"backbone features take {size / 1e6:.0f} MB on disk, computed once"
                ),
            ),
        )
        return LocalRun(
            self.config.site,
            run_id,
            plan,
            dataset,
            setup,
            policy=self.config.policy,
            observer=self.observer,
            kept=arrays_of_run(self.config.between_rounds, run_id),
            looks=HeldOutLooks(self.config.held_out),
            privacy=privacy,
            masker=None if plan.secure_aggregation is None else self._masks(run_id, plan),
        )

    def _masks(self, run_id: str, plan: RunPlan) -> MaskedRounds:
        return MaskedRounds(
            site=self.config.site,
            run_id=run_id,
            plan=plan,
            key=lambda: load_private(self.config.key),
            folder=self.config.between_rounds / run_id,
            opened=OpenedRounds(self.config.held_out / "opened", plan=plan.digest),
            max_update_norm=self.config.policy.max_update_norm,
        )

    def _finish(self, question: Finish, weights: WireArray | None) -> Acknowledged:
        if question.status == "complete":  # before the model, which may need the room
            shutil.rmtree(self.config.between_rounds / question.run_id, ignore_errors=True)
        kept = None
        try:
            if weights is not None:
                kept = self._models.keep(question, weights)
        except ProtocolError as error:
            self.observer.note(f"the final model of run {question.run_id} was not kept: {error}")
        if kept is not None:
            self.observer.note(f"the final model is in {self._models.path(question.run_id)}")
        self.observer.note(f"run {question.run_id} is {question.status}")
        present = self._preparation or self._run
        if present is None or present.run_id == question.run_id:  # else it is an earlier one's model
            what = "run-over" if question.status == "complete" else "run-failed"
            self.observer.event(what, f"run {question.run_id} is {question.status}", run=question.run_id)
            self.finished = question.status
            self._models.release()
        return Acknowledged(kept_model=kept)
