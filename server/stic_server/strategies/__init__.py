"""How the server turns the sites' updates into the next global model: one file per algorithm, and screening."""

from __future__ import annotations

from stic_core.config import AlgorithmConfig
from stic_server.strategies.algorithm import Algorithm
from stic_server.strategies.fed_avg import FED_AVG


def algorithm_of(config: AlgorithmConfig) -> Algorithm:
    """The algorithm that a plan names."""
    match config.name:
        case "fedavg":
            return FED_AVG
