"""A round's logic: `(state, reports) -> (state, diagnostics)`, pure.

The message of round t carries the model after t - 1 rounds; a site validates it, which is
the score of round t - 1, and then trains it. One exchange a round, and the model goes down
once. The exchange after the last round validates only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stic_core.errors import FederationError, SiteReportError
from stic_core.evaluation import ValidationReport, pooled_validation
from stic_core.protocol.messages import RoundReport
from stic_core.tensors.flat import FlatArray
from stic_server.strategies.fed_avg import Contribution, average, check, check_norm, norm_of, update_norm


@dataclass(frozen=True, slots=True)
class BestModel:
    """The best global model so far.

    Args:
        round: after how many rounds it was had.
        loss: its pooled validation loss, None where no site has validation patients.
    """

    round: int
    loss: float | None
    weights: FlatArray


@dataclass(frozen=True, slots=True)
class FederationState:
    """All that must survive a round.

    Args:
        completed: rounds that were averaged.
        weights: the global model after them.
        best: the best model of those that were validated.
        seconds: wall time of the rounds so far.
        pending: the last round's row, which waits for the scores of the model that it made.
    """

    completed: int
    weights: FlatArray
    best: BestModel | None = None
    seconds: float = 0.0
    pending: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Validation:
    """Scores of the model after `round` rounds, a site each; pooled where a site releases them."""

    round: int
    sites: Mapping[str, ValidationReport]
    pooled: Mapping[str, float | int] | None


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What a round showed.

    Args:
        validation: of the model that the round began with.
        train_loss: by site, None where a site has no training patients.
        refused: sites whose weights were not taken, with the reason.
        update_norm: how far each site that trained went, the refused ones' too where it could be had.
    """

    validation: Validation
    train_loss: Mapping[str, float | None]
    refused: Mapping[str, str]
    update_norm: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SiteRound:
    """A site's report of a round with the weights that came along."""

    report: RoundReport
    weights: FlatArray | None


def record_validation(
    state: FederationState, reports: Mapping[str, SiteRound]
) -> tuple[FederationState, Validation]:
    """Take in the validation of `state.weights`, and keep them if none was better."""
    by_site = {site: reports[site].report.validation for site in sorted(reports)}
    pooled = pooled_validation(by_site)
    validation = Validation(state.completed, by_site, pooled)
    if state.completed == 0:  # the first weights are nobody's model
        return state, validation
    loss = pooled["loss"] if pooled else None
    better = state.best is None or loss is None or state.best.loss is None or loss < state.best.loss
    if better:
        return replace(state, best=BestModel(state.completed, loss, state.weights)), validation
    return state, validation


def finish_round(
    state: FederationState,
    reports: Mapping[str, SiteRound],
    *,
    min_sites: int,
    past_norms: Sequence[Mapping[str, float]] = (),
    max_update_ratio: float | None = None,
) -> tuple[FederationState, Diagnostics]:
    """One round: score the model that was sent, average what came back.

    Args:
        reports: by site, those that answered in time.
        min_sites: fewer usable reports than this, and there is no average.
        past_norms: of the updates in earlier rounds, by site.
        max_update_ratio: how many times the others' norm a site's may be; None does not look.

    Raises:
        FederationError: too few usable reports, or no training patient anywhere.
    """
    state, validation = record_validation(state, reports)
    usable: dict[str, Contribution] = {}
    refused: dict[str, str] = {}
    for site in sorted(reports):
        answer = reports[site]
        weights = state.weights if answer.weights is None and answer.report.examples == 0 else answer.weights
        try:
            if weights is None:
                raise SiteReportError("no weights came with the report", site=site)
            contribution = Contribution(weights, answer.report.examples)
            check(site, contribution, size=len(state.weights))
        except SiteReportError as error:
            refused[site] = str(error)
        else:
            usable[site] = contribution
    norms = {
        site: update_norm(contribution.weights, state.weights)
        for site, contribution in usable.items()
        if contribution.examples
    }
    if max_update_ratio is not None:
        start = norm_of(state.weights)
        for site in norms:
            try:
                check_norm(site, norms, past=past_norms, start=start, ratio=max_update_ratio)
            except SiteReportError as error:
                refused[site] = str(error)
                del usable[site]
    if len(usable) < min_sites:
        raise FederationError(
            f"round {state.completed + 1} cannot be averaged",
            got=f"usable reports of {len(usable)} sites ({', '.join(usable) or 'none'})",
            expected=f"at least {min_sites} (min_sites)",
            advice=" ".join(refused.values()) or "See why the others did not answer.",
        )
    weights = average(usable)
    if weights is None:
        raise FederationError("no site has a training patient", got=f"sites {', '.join(usable)}")
    losses = {site: reports[site].report.train_loss for site in usable}
    return (
        replace(state, completed=state.completed + 1, weights=weights),
        Diagnostics(validation, losses, refused, norms),
    )
