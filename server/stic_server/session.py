"""One run from its first question to its evaluation, over sites that are only asked and answered."""

from __future__ import annotations

import time
from typing import Any

from stic_core.protocol import Finish, RunPlan
from stic_core.tensors import FlatArray, digest
from stic_server.asking import Limits, Observer, Sites
from stic_server.examination import Examination
from stic_server.roster import Roster
from stic_server.rounds import Rounds
from stic_server.run_folder import RunFolder, now

_FINISH_TIMEOUT_S = 20.0


def execute(
    plan: RunPlan, initial: FlatArray, *, run: RunFolder, sites: Sites, limits: Limits, observer: Observer
) -> dict[str, Any]:
    """Gather the sites, train, evaluate.

    Args:
        plan: what is computed.
        initial: the first weights.
        run: the folder that it fills, new or of a run that was interrupted.
        sites: how sites are reached.
        limits: how few sites, and how long.
        observer: is told what goes on.

    Returns:
        The evaluation, as `evaluation.json` has it.

    Raises:
        FederationError: too few sites, or too long a wait.
    """
    began = time.monotonic()
    roster = Roster(plan, run_id=run.run_id, sites=sites, limits=limits, observer=observer)
    roster.gather()
    described = {
        site: description.model_dump(mode="json", exclude={"version", "kind"})
        for site, description in roster.descriptions.items()
    }
    run.update_record(sites=described, phantom=roster.phantom)
    state = Rounds(roster, run).train(initial)
    assert state.best is not None  # at least one round was validated
    run.update_record(
        best_round=state.best.round,
        model_digest=digest(state.best.weights, plan.tensors),
        rounds=state.completed,
    )
    document = Examination(roster, run).evaluate(state.best, initial=initial)
    run.write_evaluation(document)
    run.update_record(
        status="complete",
        finished=now(),
        wall_seconds=round(time.monotonic() - began, 3),
        participation={str(row["round"]): row["sites"] for row in run.read_rounds()},
    )
    roster.ask(Finish(run_id=run.run_id, status="complete"), timeout=_FINISH_TIMEOUT_S)
    return document
