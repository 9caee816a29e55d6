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
from stic_server.federation.masking import MeanChange
from stic_server.strategies.algorithm import WEIGHTS, Algorithm, Arrays, Contribution
from stic_server.strategies.screening import screen

ATTEMPTS = 3
"""How often a round is tried before the run fails; it can be resumed."""


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
        arrays: what the algorithm keeps after them, the global model among them.
        best: the best model of those that were validated.
        seconds: wall time of the rounds so far.
        pending: the last round's row, which waits for the scores of the model that it made.
    """

    completed: int
    arrays: Arrays
    best: BestModel | None = None
    seconds: float = 0.0
    pending: Mapping[str, Any] | None = None

    @property
    def weights(self) -> FlatArray:
        """The global model."""
        return self.arrays[WEIGHTS]


@dataclass(frozen=True, slots=True)
class Validation:
    """Scores of the model after `round` rounds, by site; pooled where a site releases them."""

    round: int
    sites: Mapping[str, ValidationReport]
    pooled: Mapping[str, float | int] | None


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What a round showed.

    Args:
        validation: of the model that the round began with.
        train_loss: by site, None where a site has no training patients.
        refused: why a site's weights were not taken, by site.
        update_norm: how far each site that trained went, the refused ones' too where it could be had.
        figures: the algorithm's own.
    """

    validation: Validation
    train_loss: Mapping[str, float | None]
    refused: Mapping[str, SiteReportError]
    update_norm: Mapping[str, float]
    figures: Mapping[str, float]


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
    algorithm: Algorithm,
    min_sites: int,
    past_norms: Sequence[Mapping[str, float]] = (),
    max_update_ratio: float | None = None,
) -> tuple[FederationState, Diagnostics]:
    """One round: score the model that was sent, screen what came back, and aggregate it.

    Args:
        reports: by site, those that answered in time.
        algorithm: of the plan.
        min_sites: fewer usable reports than this, and nothing is aggregated.
        past_norms, max_update_ratio: see `screen`.

    Raises:
        FederationError: too few usable reports, or no training patient anywhere.
    """
    state, validation = record_validation(state, reports)
    contributions, without = _contributions(reports, start=state.weights)
    screened = screen(
        contributions, start=state.weights, past_norms=past_norms, max_update_ratio=max_update_ratio
    )
    refused = {**without, **screened.refused}
    require_quorum(screened.usable, refused, min_sites=min_sites, number=state.completed + 1)
    arrays, figures = algorithm.aggregate(state.arrays, screened.usable)
    losses = {site: reports[site].report.train_loss for site in screened.usable}
    return (
        replace(state, completed=state.completed + 1, arrays=arrays),
        Diagnostics(validation, losses, refused, screened.norms, figures),
    )


def finish_masked_round(
    state: FederationState, reports: Mapping[str, RoundReport], *, mean: MeanChange, algorithm: Algorithm
) -> tuple[FederationState, Diagnostics]:
    """The same of a round whose updates are known as a sum alone.

    Args:
        reports: of the sites that are in the sum.
        algorithm: of the plan; it can work on a mean.
    """
    assert algorithm.from_mean is not None  # else the plan could not be made
    state, validation = record_validation(
        state, {site: SiteRound(one, None) for site, one in reports.items()}
    )
    arrays, figures = algorithm.from_mean(state.arrays, mean.change)
    masking = {"clipped_values": float(mean.clipped), "scaled_down_updates": float(mean.scaled_down)}
    losses = {site: report.train_loss for site, report in reports.items()}
    return (
        replace(state, completed=state.completed + 1, arrays=arrays),
        Diagnostics(validation, losses, refused={}, update_norm={}, figures={**figures, **masking}),
    )


def _contributions(
    reports: Mapping[str, SiteRound], *, start: FlatArray
) -> tuple[dict[str, Contribution], dict[str, SiteReportError]]:
    """Contributions by site; and why a site has none. A site without training patients changes nothing."""
    contributions: dict[str, Contribution] = {}
    without: dict[str, SiteReportError] = {}
    for site in sorted(reports):
        report, weights = reports[site].report, reports[site].weights
        if weights is None and report.examples == 0:
            weights = start
        if weights is None:
            without[site] = SiteReportError("the report came without weights", site=site)
        else:
            contributions[site] = Contribution(weights, report.examples)
    return contributions, without


def require_quorum(
    usable: Mapping[str, Contribution], refused: Mapping[str, SiteReportError], *, min_sites: int, number: int
) -> None:
    """Refuse to aggregate a round that too few sites would decide.

    Args:
        usable: by site.
        refused: why, by site.
        number: of the round.

    Raises:
        FederationError: too few usable contributions, or none with a training patient.
    """
    if len(usable) < min_sites:
        raise FederationError(
            f"round {number} cannot be averaged",
            got=f"usable reports from {len(usable)} sites ({', '.join(usable) or 'none'})",
            expected=f"at least {min_sites} (min_sites)",
            advice=" ".join(map(str, refused.values())) or "Find out why the others did not answer.",
        )
    if not any(contribution.examples for contribution in usable.values()):
        raise FederationError("no site has training patients", got=f"sites {', '.join(usable)}")
