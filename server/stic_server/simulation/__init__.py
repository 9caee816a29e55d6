"""A whole federation in one process, over several seeds, beside what it is compared with.

Data may be pooled here, as no federation of hospitals may: a model trained on all patients in
one place is the yardstick. The federated model is the real thing (`run.execute` with its
coordinator and checkpoints); only the way over the network is missing.
"""

from stic_server.simulation.settings import SimulationConfig
from stic_server.simulation.study import Registered, simulate

__all__ = ["Registered", "SimulationConfig", "simulate"]
