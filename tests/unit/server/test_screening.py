"""Screening: what is refused before it enters an average, and what must not be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stic_core.errors import SiteReportError
from stic_server.strategies.algorithm import Contribution
from stic_server.strategies.screening import Screened, check, check_norm, norm_of, screen, update_norm


def _weights(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def _screen(start: np.ndarray, **weights: np.ndarray) -> Screened:
    contributions = {site: Contribution(values, 1) for site, values in weights.items()}
    return screen(contributions, start=start, max_update_ratio=100)


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (_weights(1, np.nan), "1 NaN or infinite values"),
        (_weights(np.inf, np.inf), "2 NaN or infinite values"),
        (_weights(1), "float32 (1,)"),
        (np.zeros(2), "float64 (2,)"),
    ],
)
def test_what_must_not_enter_the_average_names_the_site(bad: np.ndarray, got: str) -> None:
    """NaN, infinity, another length or type."""
    with pytest.raises(SiteReportError) as caught:
        check("center2", Contribution(bad, 1), size=2)
    assert (caught.value.site, caught.value.got) == ("center2", got)
    screened = _screen(_weights(0, 0), center1=_weights(1, 1), center2=bad)
    assert list(screened.usable) == list(screened.norms) == ["center1"]
    assert screened.refused["center2"].got == got


def test_the_norm_of_an_update_is_that_of_the_difference() -> None:
    """From (1, 1) to (4, 5) is 5 far, whatever the precision: float32's largest values do not overflow."""
    assert update_norm(_weights(4, 5), _weights(1, 1)) == 5.0
    assert norm_of(_weights(3, 4)) == 5.0
    huge = float(np.finfo(np.float32).max)
    assert norm_of(_weights(huge, huge)) == pytest.approx(2**0.5 * huge)
    assert update_norm(_weights(huge, -huge), _weights(-huge, huge)) == pytest.approx(8**0.5 * huge)


@pytest.mark.parametrize("honest", [1, 2, 5])
def test_an_update_far_outside_the_others_is_refused(honest: int) -> None:
    """With one honest site or five, from the first round: the site, its norm and the bound are named."""
    weights = {f"center{number}": _weights(1.5 + number / 10) for number in range(honest)}
    screened = _screen(_weights(1), **weights, evil=_weights(1e4))
    assert list(screened.refused) == ["evil"]
    assert list(screened.usable) == list(weights)
    usual = 0.5 + (honest - 1) // 2 / 10  # the lower median
    assert screened.refused["evil"].got == "a norm of 9999"
    assert str(screened.refused["evil"].expected).startswith(f"at most {100 * usual:.4g},")
    assert screened.norms["evil"] == 9999


def test_nobody_is_compared_where_no_ratio_is_set() -> None:
    """max_update_ratio: null takes any finite update, and still measures it."""
    contributions = {"a": Contribution(_weights(1), 1), "b": Contribution(_weights(1e9), 1)}
    screened = screen(contributions, start=_weights(1))
    assert not screened.refused
    assert screened.norms == {"a": 0.0, "b": 999999999.0}


def test_a_site_without_patients_has_no_norm() -> None:
    """Its weights are those that it was sent: it is usable, and no measure for the others."""
    contributions = {"idle": Contribution(_weights(1), 0), "b": Contribution(_weights(1e9), 1)}
    screened = screen(contributions, start=_weights(1), max_update_ratio=100)
    assert list(screened.usable) == ["b", "idle"]
    assert list(screened.norms) == ["b"]


def test_sites_of_very_different_sizes_are_taken() -> None:
    """One step of Adam beside 150: 44 times as far, and both are taken; so is a site of nearly no change."""
    start = np.linspace(-1, 1, 50, dtype=np.float32)
    screened = _screen(
        start, one=start + np.float32(0.001), many=start + np.float32(0.044), idle=start.copy()
    )
    assert not screened.refused


def test_a_site_that_sends_almost_nothing_cannot_have_another_refused() -> None:
    """An update smaller than the model itself is taken, however small the others' are."""
    start = _weights(3, 4)
    assert not _screen(start, evil=start + np.float32(1e-6), honest=_weights(6, 8)).refused


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20))
def test_a_site_cannot_raise_its_own_bound(own: list[float]) -> None:
    """Whatever a site sent in earlier rounds, its bound is made of the others' norms alone."""
    past = [{"evil": norm} for norm in own] * 2 + [{"honest": 1.0}]
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
