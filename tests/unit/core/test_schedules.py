"""Learning rate and stopping by round, from the losses alone."""

from __future__ import annotations

import pytest

from stic_core.config import TrainingConfig
from stic_core.training.schedules import rate_of_round, should_stop


def _rates(config: TrainingConfig, losses: list[float | None], rounds: int) -> list[float]:
    return [
        rate_of_round(config, number=number, rounds=rounds, losses=losses[: number - 1])
        for number in range(1, rounds + 1)
    ]


def test_constant_is_constant() -> None:
    """Whatever the losses."""
    assert _rates(TrainingConfig(), [1.0, 2.0, 3.0], 3) == [1e-3] * 3


def test_warm_up_rises_to_the_rate() -> None:
    """In equal steps, and then stays."""
    config = TrainingConfig(warmup_rounds=3, learning_rate=0.4)
    assert _rates(config, [], 5) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_cosine_falls_from_the_rate_towards_nothing() -> None:
    """Half way it is half; the last round still trains."""
    rates = _rates(TrainingConfig(schedule="cosine", learning_rate=1.0), [], 4)
    assert rates == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_a_plateau_divides_by_ten_each_time() -> None:
    """Two rounds without a better loss, and again two; an unknown loss says nothing."""
    config = TrainingConfig(schedule="plateau", plateau_rounds=2, learning_rate=1.0)
    losses = [0.9, 0.8, 0.85, None, 0.8, 0.81, 0.82, 0.5]
    assert _rates(config, losses, 9) == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_stopping_waits_for_its_rounds() -> None:
    """With null never; else after so many losses that were no better."""
    config = TrainingConfig(early_stopping=2)
    assert not should_stop(TrainingConfig(early_stopping=None), [1.0] * 50)
    assert not should_stop(config, [1.0, 0.9, 0.95])
    assert should_stop(config, [1.0, 0.9, 0.95, 0.9])
    assert not should_stop(config, [1.0, None, None, None])
