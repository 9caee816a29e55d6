from .simulation import SimulationConfig, simulate

__all__ = ["SimulationConfig", "simulate"]
