"""The ports that a configuration asks for, open while a program serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from prometheus_client import CollectorRegistry

from stic_core.config import MonitoringConfig
from stic_core.errors import UsageError


@contextmanager
def monitoring_ports(
    config: MonitoringConfig, *, serving: Callable[[], bool], registry: CollectorRegistry
) -> Iterator[None]:
    """Answer health and metrics; without a port in the configuration nothing is opened.

    Args:
        serving: whether the program serves.
        registry: its metrics.

    Raises:
        ListenError: an address cannot be had.
    """
    with ExitStack() as stack:
        if config.health_port is not None:
            from stic_core.monitoring.health import HealthServer

            stack.enter_context(HealthServer(config.host, config.health_port, serving=serving))
        if config.metrics_port is not None:
            from stic_core.monitoring.exposition import serve_metrics

            stack.enter_context(serve_metrics(config.host, config.metrics_port, registry=registry))
        yield


def health(config: MonitoringConfig) -> str:
    """What the program of this configuration answers on this machine; see `health.ask`.

    Raises:
        UsageError: it has no health port.
    """
    if config.health_port is None:
        raise UsageError(
            "no health port is configured",
            expected="monitoring.health_port",
            advice="Add it, such as `monitoring: {health_port: 8081}`, and start the program again.",
        )
    from stic_core.monitoring.health import ask

    return ask(config.host, config.health_port)
