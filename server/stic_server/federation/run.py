"""One run from its first question to its evaluation, over sites that are only asked and answered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from stic_core.models.saved import read_model
from stic_core.protocol.messages import Finish, RunPlan
from stic_core.tensors.flat import FlatArray, digest
from stic_server.federation.evaluation import HeldOutEvaluation
from stic_server.federation.participants import Participants
from stic_server.federation.round import BestModel
from stic_server.federation.run_folder import RunFolder, now
from stic_server.federation.sites import RunLimits, RunObserver, Sites
from stic_server.federation.training import Rounds

_FINISH_TIMEOUT_S = 20.0


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
    began = time.monotonic()
    if run.read_record()["status"] == "complete":
        return _finished_before(plan, run, sites=sites, observer=observer)
    participants = Participants(plan, run_id=run.run_id, sites=sites, limits=limits, observer=observer)
    participants.gather()
    run.update_record(sites=_described(participants), phantom=participants.phantom)
    if plan.evaluates is None:
        state = Rounds(participants, run).train(initial)
        assert state.best is not None  # at least one round was validated
        best, completed = state.best, state.completed
    else:
        best, completed = BestModel(0, None, initial), 0
    model_digest = digest(best.weights, plan.tensors)
    run.update_record(
        sites=_described(participants),  # some may have come later
        phantom=participants.phantom,
        best_round=best.round,
        model_digest=model_digest,
        rounds=completed,
    )
    document = HeldOutEvaluation(participants, run).evaluate(best, initial=initial, others=others)
    run.write_evaluation(document)
    run.update_record(
        status="complete",
        finished=now(),
        wall_seconds=round(time.monotonic() - began, 3),
        participation={str(row["round"]): row["sites"] for row in run.read_rounds()},
    )
    finish = Finish(run_id=run.run_id, status="complete", weights_digest=model_digest, best_round=best.round)
    participants.ask(finish, weights=best.weights, timeout=_FINISH_TIMEOUT_S)
    return document


def _described(participants: Participants) -> dict[str, Any]:
    return {
        site: description.model_dump(mode="json", exclude={"version", "kind"})
        for site, description in participants.descriptions.items()
    }


def _finished_before(plan: RunPlan, run: RunFolder, *, sites: Sites, observer: RunObserver) -> dict[str, Any]:
    """The evaluation of a run whose server was killed after it: the sites may not know that it is over."""
    observer.note(f"run {run.run_id} was already complete; writing its report")
    record = run.read_record()
    deadline = time.monotonic() + _FINISH_TIMEOUT_S
    while (here := set(sites.present()) & set(record["sites"])) < set(record["sites"]):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    weights = read_model(run.path / "model").weights
    finish = Finish(
        run_id=run.run_id,
        status="complete",
        weights_digest=digest(weights, plan.tensors),
        best_round=record["best_round"],
    )
    sites.ask(dict.fromkeys(sorted(here), finish), weights=weights, timeout=_FINISH_TIMEOUT_S)
    return run.read_evaluation()
