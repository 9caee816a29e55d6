"""A round's logic: scored, screened, a quorum required, aggregated."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from stic_core.errors import FederationError
from stic_core.evaluation import ValidationReport
from stic_core.protocol.messages import RoundReport
from stic_core.statistics import Suppressed
from stic_server.federation.round import FederationState, SiteRound, finish_round, record_validation
from stic_server.strategies.algorithm import WEIGHTS, Algorithm, Arrays, Contribution
from stic_server.strategies.fed_avg import FED_AVG, average


def _weights(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def _state(completed: int, *values: float, best: object = None) -> FederationState:
    return FederationState(completed, {WEIGHTS: _weights(*values)}, best)  # pyright: ignore[reportArgumentType]


def _round(
    weights: np.ndarray | None, *, examples: int = 1, loss: float | None = 1.0, n: int = 10, number: int = 1
) -> SiteRound:
    validation = (
        ValidationReport(n=n, loss_sum=Suppressed("few"), correct=Suppressed("few"))
        if loss is None
        else ValidationReport(n=n, loss_sum=loss * n, correct=n // 2)
    )
    report = RoundReport(
        round=number,
        validation=validation,
        examples=examples,
        train_loss=0.5 if examples else None,
        steps=1,
        compute_seconds=0.1,
        weights_digest=None if weights is None else "0" * 64,
    )
    return SiteRound(report, weights)


def test_a_round_averages_and_counts() -> None:
    """A round of two sites; the state that went in is unchanged."""
    state = _state(0, 0)
    reports = {"b": _round(_weights(4)), "a": _round(_weights(2))}
    after, diagnostics = finish_round(state, reports, algorithm=FED_AVG, min_sites=2)
    assert (after.completed, after.weights.tolist(), state.completed) == (1, [3.0], 0)
    assert list(diagnostics.train_loss) == list(diagnostics.validation.sites) == ["a", "b"]
    assert diagnostics.figures == {"step_norm": 3.0}
    assert after.best is None  # nobody's model is no candidate


def test_a_federation_begins_with_nothing() -> None:
    """No best model, no time spent, no row that waits for scores."""
    state = _state(0, 0)
    assert (state.best, state.seconds, state.pending) == (None, 0.0, None)


def test_what_an_algorithm_keeps_goes_from_round_to_round() -> None:
    """A heavy ball: half of the last step is added to the next one, and the state carries it by name."""

    def init(weights: np.ndarray) -> Arrays:
        return {WEIGHTS: weights, "momentum": np.zeros_like(weights)}

    def aggregate(arrays: Arrays, found: Mapping[str, Contribution]) -> tuple[Arrays, Mapping[str, float]]:
        momentum = arrays["momentum"] / 2 + average(found) - arrays[WEIGHTS]
        return {WEIGHTS: arrays[WEIGHTS] + momentum, "momentum": momentum}, {}

    heavy_ball = Algorithm(init, aggregate)
    state = FederationState(0, init(_weights(0)))
    for _ in range(2):
        reports = {"a": _round(state.weights + 1)}
        state, _ = finish_round(state, reports, algorithm=heavy_ball, min_sites=1)
    assert state.weights.tolist() == [2.5]
    assert state.arrays["momentum"].tolist() == [1.5]


def test_quorum_holds_at_aggregation() -> None:
    """Two answered but one is unusable: the error says whom and why."""
    reports = {"a": _round(_weights(1)), "b": _round(_weights(np.nan))}
    with pytest.raises(FederationError) as caught:
        finish_round(_state(0, 0), reports, algorithm=FED_AVG, min_sites=2)
    assert caught.value.got == "usable reports from 1 sites (a)"
    assert str(caught.value.expected).startswith("at least 2")
    assert str(caught.value.advice).startswith("b: ")


def test_a_failed_round_is_named_and_says_what_to_do() -> None:
    """The round after the three that were averaged; nobody was refused, so the advice is another one."""
    with pytest.raises(FederationError) as caught:
        finish_round(_state(3, 0), {}, algorithm=FED_AVG, min_sites=1)
    assert caught.value.what.startswith("round 4 ")
    assert caught.value.got == "usable reports from 0 sites (none)"
    assert caught.value.advice


def test_a_round_without_training_patients_is_no_round() -> None:
    """Everybody answers and nobody has patients: an error instead of a division by zero."""
    with pytest.raises(FederationError) as caught:
        finish_round(_state(0, 0), {"a": _round(None, examples=0)}, algorithm=FED_AVG, min_sites=1)
    assert caught.value.got == "sites a"


def test_a_site_with_patients_and_no_weights_is_refused() -> None:
    """Claiming patients without sending weights is no report."""
    reports = {"c": _round(None), "a": _round(_weights(1)), "b": _round(None)}
    _, diagnostics = finish_round(_state(0, 0), reports, algorithm=FED_AVG, min_sites=1)
    assert [(site, error.site) for site, error in diagnostics.refused.items()] == [("b", "b"), ("c", "c")]
    assert list(diagnostics.train_loss) == ["a"]


def test_a_site_without_patients_is_screened_if_it_sends_weights() -> None:
    """It need not send any; what it sends is not taken unseen."""
    reports = {"a": _round(_weights(1)), "b": _round(_weights(np.nan), examples=0)}
    _, diagnostics = finish_round(_state(0, 0), reports, algorithm=FED_AVG, min_sites=1)
    assert list(diagnostics.refused) == ["b"]


def test_a_site_without_patients_and_weights_counts_for_the_quorum_alone() -> None:
    """It validated the model; the average is the other's."""
    reports = {"a": _round(_weights(1)), "b": _round(None, examples=0)}
    after, diagnostics = finish_round(_state(0, 0), reports, algorithm=FED_AVG, min_sites=2)
    assert after.weights.tolist() == [1.0]
    assert not diagnostics.refused


def test_the_best_model_is_the_one_with_the_lowest_pooled_loss() -> None:
    """Losses add up over patients: 10 at 1.0 and 30 at 0.2 are 0.4."""
    reports = {"a": _round(None, loss=1.0), "b": _round(None, loss=0.2, n=30)}
    state, validation = record_validation(_state(1, 1), reports)
    assert validation.pooled is not None
    assert validation.pooled["loss"] == pytest.approx(0.4)
    assert state.best is not None
    worse, _ = record_validation(_state(2, 2, best=state.best), {"a": _round(None, loss=0.5)})
    assert worse.best is state.best
    equal, _ = record_validation(_state(2, 2, best=state.best), reports)
    assert equal.best is state.best  # the earlier one
    better, _ = record_validation(_state(3, 3, best=state.best), {"a": _round(None, loss=0.3)})
    assert better.best is not None
    assert better.best.round == 3


def test_without_validation_the_last_model_is_kept() -> None:
    """No site releases a validation loss: each model replaces the one before."""
    state, _ = record_validation(_state(1, 1), {"a": _round(None, loss=None)})
    state, _ = record_validation(_state(2, 2, best=state.best), {"a": _round(None, loss=None)})
    assert state.best is not None
    assert (state.best.round, state.best.loss) == (2, None)


@pytest.mark.parametrize(("before", "now"), [(0.4, None), (None, 0.9)])
def test_a_loss_is_not_compared_with_none(before: float | None, now: float | None) -> None:
    """Where sites begin or cease to release their losses, the later model is kept."""
    state, _ = record_validation(_state(1, 1), {"a": _round(None, loss=before)})
    later, _ = record_validation(_state(2, 2, best=state.best), {"a": _round(None, loss=now)})
    assert later.best is not None
    assert (later.best.round, later.best.loss) == (2, now)


def test_the_norms_of_earlier_rounds_are_held_against_an_update() -> None:
    """A site that is alone in its round is compared with what the others sent before."""
    alone = {"evil": _round(_weights(1e6))}
    rules = {"algorithm": FED_AVG, "min_sites": 1, "max_update_ratio": 100.0}
    after, _ = finish_round(_state(1, 1), alone, **rules)
    assert after.completed == 2
    with pytest.raises(FederationError):
        finish_round(_state(1, 1), alone, past_norms=[{"honest": 1.0}], **rules)


def test_an_implausible_update_is_refused_and_the_round_goes_on() -> None:
    """The others' average is taken; without a quorum of plausible updates the round fails."""
    reports = {"a": _round(_weights(1.5)), "evil": _round(_weights(-1e6))}
    after, diagnostics = finish_round(
        _state(0, 1), reports, algorithm=FED_AVG, min_sites=1, max_update_ratio=100
    )
    assert list(diagnostics.refused) == ["evil"]
    assert after.weights.tolist() == [1.5]
    with pytest.raises(FederationError) as caught:
        finish_round(_state(0, 1), reports, algorithm=FED_AVG, min_sites=2, max_update_ratio=100)
    assert caught.value.got == "usable reports from 1 sites (a)"
