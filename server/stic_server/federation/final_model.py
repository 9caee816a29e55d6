"""The end of a run at its sites: each gets the final model, and one that lacks it is sent it again later."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from stic_core.errors import DataError, UsageError
from stic_core.evaluation import evaluation_of
from stic_core.evaluation.reliability import Reliability, reliability_of
from stic_core.models.saved import read_model
from stic_core.protocol.messages import Acknowledged, Finish, SiteDescription
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import Exchange, RunObserver, Sites

FINISH_TIMEOUT_S = 20.0
_LOOK_S = 0.2


def finish_of(run: RunFolder) -> Finish:
    """What tells a site that a run is complete."""
    record = run.read_record()
    return Finish(
        run_id=run.run_id,
        status="complete",
        weights_digest=record["model_digest"],
        best_round=record["best_round"],
        held_out=_reliability(run),
    )


def _reliability(run: RunFolder) -> Reliability | None:
    """What the scores were worth; an evaluation that another version wrote keeps no site from its model."""
    try:
        return reliability_of(evaluation_of(run.read_evaluation()))
    except (OSError, ValueError, UsageError):
        return None


def record_kept(run: RunFolder, exchange: Exchange) -> set[str]:
    """Write down which sites have the final model; those of one exchange."""
    record = run.read_record()
    kept = {
        site
        for site, answer in exchange.answers.items()
        if isinstance(answer.report, Acknowledged) and answer.report.kept_model == record["model_digest"]
    }
    run.update_record(model_at=sorted(kept | set(record.get("model_at", ()))))
    return kept


def note_missing(
    run: RunFolder, sites: Collection[str], *, full: Collection[str], observer: RunObserver
) -> None:
    """Say which sites lack the final model.

    Args:
        full: those whose disk is.
    """
    for site in sorted(sites):
        why = " (its disk is full)" if site in full else ""
        observer.note(
            f"{site} has not stored the final model of run {run.run_id}{why}; "
            "it is sent again when the site next takes part in a run, or by stic-server send-model"
        )


def send_model(
    run: RunFolder,
    to: Collection[str],
    *,
    sites: Sites,
    observer: RunObserver,
    patience_s: float,
    ask_again_s: float,
) -> None:
    """Send the final model of a run that is over to sites of it, to each when it comes online.

    Args:
        patience_s: seconds for all of them to come.
        ask_again_s: between questions to one that has not stored it.
    """
    weights, began = read_model(run.path / "model").weights, time.monotonic()
    missing, full, next_at = set(to), set[str](), dict.fromkeys(to, began)
    while missing:
        waited = time.monotonic() - began
        here = [site for site in sorted(missing & set(sites.present())) if next_at[site] <= time.monotonic()]
        if here:
            exchange = sites.ask(
                dict.fromkeys(here, finish_of(run)), weights=weights, timeout=FINISH_TIMEOUT_S
            )
            missing -= record_kept(run, exchange)
            full = {site for site, answer in exchange.answers.items() if answer.waits_for_room} | (
                full - {*here}
            )
            next_at |= dict.fromkeys(here, time.monotonic() + ask_again_s)
        if not missing or waited > patience_s:
            break
        observer.waiting(sorted(missing), waited)
        time.sleep(_LOOK_S)
    note_missing(run, missing, full=full, observer=observer)


def send_missing(
    descriptions: Mapping[str, SiteDescription], *, run: RunFolder, sites: Sites, observer: RunObserver
) -> None:
    """Send sites the final models that they lack: of the runs that they took part in, and of no other.

    Args:
        descriptions: say what they lack.
        run: the one that they are in now; the others' folders lie beside its own.
    """
    for site, description in descriptions.items():
        for run_id in description.lacks_models:
            earlier = RunFolder(run.path.parent / run_id)
            try:
                if site not in finished(earlier)["sites"]:
                    continue
                weights = read_model(earlier.path / "model").weights
            except (DataError, UsageError):  # given up, moved away, or another server's
                continue
            exchange = sites.ask({site: finish_of(earlier)}, weights=weights, timeout=FINISH_TIMEOUT_S)
            if site not in record_kept(earlier, exchange):
                break  # it does not wait with the others' run for each of them
            observer.note(f"{site} now has the final model of run {run_id}")


def finished(run: RunFolder) -> dict[str, Any]:
    """The record of a run that is complete.

    Raises:
        DataError: it is no run.
        UsageError: it is not complete.
    """
    record = run.read_record()
    if record["status"] != "complete":
        raise UsageError(
            f"{run.path} has no final model yet",
            got=f"status: {record['status']}",
            advice="Start the server again: it resumes the run.",
        )
    return record
