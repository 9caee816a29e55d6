"""One run from its first question to its evaluation, over sites that are only asked and answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stic_core.evaluation import evaluation_of
from stic_core.evaluation.reliability import reliability_of, write_reliability
from stic_core.protocol.messages import RunPlan
from stic_core.tensors.flat import FlatArray, digest
from stic_server.federation.evaluation import HeldOutEvaluation
from stic_server.federation.final_model import (
    FINISH_TIMEOUT_S,
    finish_of,
    note_missing,
    record_kept,
    send_missing,
    send_model,
)
from stic_server.federation.masked_sum_file import SUM_FILE
from stic_server.federation.participants import Participants
from stic_server.federation.round import BestModel
from stic_server.federation.run_folder import RunFolder, now
from stic_server.federation.sites import RunLimits, RunObserver, Sites
from stic_server.federation.training import Rounds


def execute(
    plan: RunPlan,
    initial: FlatArray,
    *,
    run: RunFolder,
    sites: Sites,
    limits: RunLimits,
    observer: RunObserver,
    others: Mapping[str, FlatArray] | None = None,
) -> dict[str, Any]:
    """Gather the sites, train, evaluate; or only evaluate, where the plan says so.

    Args:
        plan: what is computed.
        initial: the first weights, or the model that is only evaluated.
        run: the folder that it fills, new or of a run that was interrupted.
        sites: how sites are reached.
        limits: how few sites, and how long.
        observer: receives progress events.
        others: further models to evaluate beside it, by name, such as a simulation's centralised one.

    Returns:
        The evaluation, as `evaluation.json` has it.

    Raises:
        FederationError: too few sites, or too long a wait.
    """
    if run.read_record()["status"] == "complete":
        # Its server was killed after the evaluation: the sites may not know that it is over.
        observer.note(f"run {run.run_id} was already complete; writing its report")
        everyone, again = run.read_record()["sites"], limits.ask_again_s
        send_model(
            run, everyone, sites=sites, observer=observer, patience_s=FINISH_TIMEOUT_S, ask_again_s=again
        )
        return run.read_evaluation()
    if plan.secure_aggregation is not None:  # fewer could not open a round's sum
        limits = replace(limits, min_sites=max(limits.min_sites, plan.threshold))
    run.begin_session()
    participants = Participants(
        plan,
        run_id=run.run_id,
        sites=sites,
        limits=limits,
        observer=observer,
        known=run.read_descriptions(),
    )
    participants.gather()
    run.keep_descriptions(participants.descriptions)
    early = dict(participants.descriptions)
    send_missing(early, run=run, sites=sites, observer=observer)
    if plan.evaluates is None:
        state = Rounds(participants, run).train(initial)
        assert state.best is not None  # at least one round was validated
        best, completed = state.best, state.completed
    else:
        best, completed = BestModel(0, None, initial), 0
    model_digest = digest(best.weights, plan.tensors)
    run.update_record(
        best_round=best.round,
        model_digest=model_digest,
        rounds=completed,
    )
    document = HeldOutEvaluation(participants, run).evaluate(best, initial=initial, others=others)
    run.write_evaluation(document)
    if (reliability := reliability_of(evaluation_of(document))) is not None:
        write_reliability(run.path / "model", reliability)
    (run.path / SUM_FILE).unlink(missing_ok=True)
    run.mark_time()
    run.update_record(
        status="complete",
        finished=now(),
        participation={str(row["round"]): row["sites"] for row in run.read_rounds()},
    )
    exchange = participants.ask(
        finish_of(run), weights=best.weights, timeout=FINISH_TIMEOUT_S, room_s=limits.finish_room_s
    )
    kept = record_kept(run, exchange)
    missing = participants.known.keys() - kept - set(run.read_record()["model_at"])
    full = [site for site, answer in exchange.answers.items() if answer.waits_for_room]
    note_missing(run, missing, full=full, observer=observer)
    late = {site: about for site, about in participants.descriptions.items() if site not in early}
    send_missing(late, run=run, sites=sites, observer=observer)
    return document
