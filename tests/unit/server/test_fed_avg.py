"""FedAvg and the round's logic, by hand and by property."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stic_core.errors import FederationError, SiteReportError
from stic_core.evaluation import ValidationReport
from stic_core.protocol.messages import RoundReport
from stic_core.statistics import Suppressed
from stic_server.federation.round import FederationState, SiteRound, finish_round, record_validation
from stic_server.strategies.fed_avg import Contribution, average, check, check_norm, norm_of, update_norm


def _weights(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


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


def test_the_average_is_weighted_by_training_patients() -> None:
    """Three patients at 0 and one at 4 make 1."""
    got = average({"a": Contribution(_weights(0, 2), 3), "b": Contribution(_weights(4, 2), 1)})
    np.testing.assert_array_equal(got, _weights(1, 2))


@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(1, 500)), min_size=2, max_size=4))
def test_the_average_does_not_depend_on_the_order_of_reports(sites: list[tuple[float, int]]) -> None:
    """Bit for bit, whatever the order in which reports arrived."""
    reports = {
        f"site{number}": Contribution(_weights(value, -value / 3), examples)
        for number, (value, examples) in enumerate(sites)
    }
    results = {
        average(dict(order)).tobytes()  # pyright: ignore[reportOptionalMemberAccess]
        for order in itertools.permutations(reports.items())
    }
    assert len(results) == 1


def test_sites_without_patients_do_not_count() -> None:
    """No patient, no weight; and no patient anywhere gives None instead of a division by zero."""
    none = Contribution(_weights(99), 0)
    np.testing.assert_array_equal(average({"a": none, "b": Contribution(_weights(2), 5)}), _weights(2))
    assert average({"a": none}) is None


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (_weights(1, np.nan), "1 NaN or infinite"),
        (_weights(np.inf, np.inf), "2 NaN or infinite"),
        (_weights(1), "another form"),
        (np.zeros(2), "another form"),
    ],
)
def test_what_must_not_enter_the_average_names_the_site(bad: np.ndarray, what: str) -> None:
    """NaN, infinity, another length or type."""
    with pytest.raises(SiteReportError, match=f"center2: .*{what}") as caught:
        check("center2", Contribution(bad, 1), size=2)
    assert caught.value.site == "center2"


def test_a_round_averages_and_counts() -> None:
    """A round of two sites; the state that went in is unchanged."""
    state = FederationState(0, _weights(0))
    reports = {"b": _round(_weights(4)), "a": _round(_weights(2))}
    after, diagnostics = finish_round(state, reports, min_sites=2)
    assert (after.completed, after.weights.tolist(), state.completed) == (1, [3.0], 0)
    assert list(diagnostics.train_loss) == ["a", "b"]
    assert after.best is None  # nobody's model is no candidate


def test_quorum_holds_at_aggregation() -> None:
    """Two answered but one is unusable: the error says whom and why."""
    reports = {"a": _round(_weights(1)), "b": _round(_weights(np.nan))}
    with pytest.raises(FederationError, match=r"usable reports of 1 sites \(a\).*at least 2.*b: weights"):
        finish_round(FederationState(0, _weights(0)), reports, min_sites=2)


def test_a_site_with_patients_and_no_weights_is_refused() -> None:
    """Claiming patients without sending weights is no report."""
    reports = {"a": _round(_weights(1)), "b": _round(None)}
    _, diagnostics = finish_round(FederationState(0, _weights(0)), reports, min_sites=1)
    assert "no weights came" in diagnostics.refused["b"]


def test_the_best_model_is_the_one_with_the_lowest_pooled_loss() -> None:
    """Losses add up over patients: 10 at 1.0 and 30 at 0.2 are 0.4."""
    state = FederationState(1, _weights(1))
    state, validation = record_validation(
        state, {"a": _round(None, loss=1.0), "b": _round(None, loss=0.2, n=30)}
    )
    assert validation.pooled is not None
    assert validation.pooled["loss"] == pytest.approx(0.4)
    assert state.best is not None
    worse, _ = record_validation(FederationState(2, _weights(2), state.best), {"a": _round(None, loss=0.5)})
    assert worse.best is state.best
    better, _ = record_validation(FederationState(3, _weights(3), state.best), {"a": _round(None, loss=0.3)})
    assert better.best is not None
    assert better.best.round == 3


def test_without_validation_the_last_model_is_kept() -> None:
    """No site releases a validation loss: each model replaces the one before."""
    state, _ = record_validation(FederationState(1, _weights(1)), {"a": _round(None, loss=None)})
    state, _ = record_validation(FederationState(2, _weights(2), state.best), {"a": _round(None, loss=None)})
    assert state.best is not None
    assert (state.best.round, state.best.loss) == (2, None)


def test_the_norm_of_an_update_is_that_of_the_difference() -> None:
    """From (1, 1) to (4, 5) is 5 far, whatever the precision: float32's largest values do not overflow."""
    assert update_norm(_weights(4, 5), _weights(1, 1)) == 5.0
    assert norm_of(_weights(3, 4)) == 5.0
    huge = float(np.finfo(np.float32).max)
    assert update_norm(_weights(huge, -huge), _weights(-huge, huge)) == pytest.approx(8**0.5 * huge)


@pytest.mark.parametrize("honest", [1, 2, 5])
def test_an_update_far_outside_the_others_is_refused_and_the_round_goes_on(honest: int) -> None:
    """With one honest site or five, from the first round: the site, its norm and the bound are named."""
    reports = {f"center{number}": _round(_weights(1.5 + number / 10)) for number in range(honest)}
    reports["evil"] = _round(_weights(1e4))
    after, diagnostics = finish_round(
        FederationState(0, _weights(1)), reports, min_sites=1, max_update_ratio=100
    )
    assert list(diagnostics.refused) == ["evil"]
    usual = 0.5 + (honest - 1) // 2 / 10  # the lower median
    assert (
        f"evil: its update is far outside the other sites'; got a norm of 9999; expected at most {100 * usual:.4g}"
        in (diagnostics.refused["evil"])
    )
    assert after.weights[0] < 3
    assert diagnostics.update_norm["evil"] == 9999


def test_without_a_quorum_of_plausible_updates_the_round_fails() -> None:
    """One of two is far outside: the error names it, as it does for NaN."""
    reports = {"a": _round(_weights(1.5)), "evil": _round(_weights(-1e6))}
    with pytest.raises(
        FederationError, match=r"usable reports of 1 sites \(a\).*evil: its update is far outside"
    ):
        finish_round(FederationState(0, _weights(1)), reports, min_sites=2, max_update_ratio=100)


def test_sites_of_very_different_sizes_are_taken() -> None:
    """One step of Adam beside 150: 44 times as far, and both are taken; so is a site of nearly no change."""
    start = np.linspace(-1, 1, 50, dtype=np.float32)
    reports = {
        "one-step": _round(start + np.float32(0.001)),
        "many-steps": _round(start + np.float32(0.044), examples=5000),
        "idle": _round(start.copy()),
    }
    _, diagnostics = finish_round(FederationState(0, start), reports, min_sites=3, max_update_ratio=100)
    assert not diagnostics.refused


def test_a_site_that_sends_almost_nothing_cannot_have_another_refused() -> None:
    """An update smaller than the model itself is taken, however small the others' are."""
    start = _weights(3, 4)
    reports = {"evil": _round(start + np.float32(1e-6)), "honest": _round(_weights(6, 8))}
    _, diagnostics = finish_round(FederationState(0, start), reports, min_sites=2, max_update_ratio=100)
    assert not diagnostics.refused


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20))
def test_a_site_cannot_raise_its_own_bound(own: list[float]) -> None:
    """Whatever a site sent in earlier rounds, its bound is made of the others' norms alone."""
    past = [{"evil": norm, "honest": 1.0} for norm in own]
    norms = {"evil": 100.5, "honest": 1.0}
    with pytest.raises(SiteReportError, match="at most 100,"):
        check_norm("evil", norms, past=past, start=1.0, ratio=100)
    check_norm("evil", norms | {"evil": 99.5}, past=past, start=1.0, ratio=100)


def test_the_rounds_before_count_where_a_site_is_alone_or_the_others_rest() -> None:
    """Alone in a round, a site is held against the others' earlier updates; with no past, against nobody."""
    past = [{"honest": 1.0}, {"honest": 3.0}, {"honest": 2.0}]
    with pytest.raises(SiteReportError, match="at most 200,"):
        check_norm("evil", {"evil": 201.0}, past=past, start=1.0, ratio=100)
    check_norm("evil", {"evil": 199.0, "honest": 1e-9}, past=past, start=1.0, ratio=100)
    check_norm("evil", {"evil": 1e30}, past=[], start=1.0, ratio=100)
