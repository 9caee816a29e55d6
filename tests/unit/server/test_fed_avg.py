"""FedAvg by hand and by property."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stic_core.config import FedAvgConfig
from stic_server.strategies import algorithm_of
from stic_server.strategies.algorithm import WEIGHTS, Contribution
from stic_server.strategies.fed_avg import FED_AVG, average


def _weights(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


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
    results = {average(dict(order)).tobytes() for order in itertools.permutations(reports.items())}
    assert len(results) == 1


def test_sums_run_in_the_order_of_names() -> None:
    """Two values that cancel and a small one: added in another order, the small one would be lost."""
    reports = [
        (site, Contribution(_weights(value), 1)) for site, value in (("a", 1e30), ("b", -1e30), ("c", 3))
    ]
    for order in itertools.permutations(reports):
        assert average(dict(order)).tolist() == [1.0]


def test_sites_without_patients_do_not_count() -> None:
    """No patient, no weight in the average, whatever the site sends."""
    none = Contribution(_weights(np.nan), 0)
    np.testing.assert_array_equal(average({"a": none, "b": Contribution(_weights(2), 5)}), _weights(2))


def test_a_round_keeps_the_average_and_says_how_far_it_went() -> None:
    """From (0, 0) to the average (3, 4) is a step of 5; nothing but the weights is kept."""
    algorithm = algorithm_of(FedAvgConfig())
    assert algorithm is FED_AVG
    before = algorithm.init(_weights(0, 0))
    after, figures = algorithm.aggregate(before, {"a": Contribution(_weights(3, 4), 7)})
    assert list(after) == [WEIGHTS]
    np.testing.assert_array_equal(after[WEIGHTS], _weights(3, 4))
    np.testing.assert_array_equal(before[WEIGHTS], _weights(0, 0))
    assert figures == {"step_norm": 5.0}


def test_the_step_of_a_diverging_run_is_a_number() -> None:
    """From one end of float32 to the other is farther than float32 reaches."""
    huge = float(np.finfo(np.float32).max)
    _, figures = FED_AVG.aggregate({WEIGHTS: _weights(-huge)}, {"a": Contribution(_weights(huge), 1)})
    assert figures == {"step_norm": 2 * huge}


@given(seed=st.integers(0, 2**32), sites=st.integers(1, 8))
def test_the_mean_change_gives_what_the_updates_give(seed: int, sites: int) -> None:
    """Secure aggregation leaves the mean change alone: FedAvg makes the same weights of it, to float32."""
    rng = np.random.default_rng(seed)
    start = rng.normal(0, 1, 20).astype(np.float32)
    updates = {
        str(n): Contribution((start + rng.normal(0, 0.1, 20)).astype(np.float32), n + 1) for n in range(sites)
    }
    changes = [one.weights.astype(np.float64) - start for one in updates.values()]
    mean = np.average(changes, axis=0, weights=[one.examples for one in updates.values()])
    assert FED_AVG.from_mean is not None
    after, figures = FED_AVG.from_mean({WEIGHTS: start}, mean)
    expected, by_sites = FED_AVG.aggregate({WEIGHTS: start}, updates)
    np.testing.assert_allclose(after[WEIGHTS], expected[WEIGHTS], rtol=0, atol=3e-7)
    assert after[WEIGHTS].dtype == np.float32
    assert abs(figures["step_norm"] - by_sites["step_norm"]) < 1e-5
