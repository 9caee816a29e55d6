"""Metric families with the values of one moment, as both sides write them."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stic_core import __version__
from stic_core.protocol.messages import VERSION

Labels = tuple[str, ...]


def gauge(name: str, says: str, value: float) -> Metric:
    """What is so now."""
    return GaugeMetricFamily(name, says, value=value)


def gauges(name: str, says: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:
    """What is so now, by labels."""
    family = GaugeMetricFamily(name, says, labels=labels)
    for of, value in sorted(values.items()):
        family.add_metric(of, value)
    return family


def counts(name: str, says: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:
    """What only grows while the program runs, by labels; its samples are called `NAME_total`."""
    family = CounterMetricFamily(name, says, labels=labels)
    for of, value in sorted(values.items()):
        family.add_metric(of, value)
    return family


def build_info(prefix: str) -> Metric:
    """Which versions run."""
    versions = (__version__, str(VERSION), platform.python_version())
    return gauges(
        f"{prefix}_build_info",
        "Versions of the software, the protocol and Python; always 1",
        ("version", "protocol", "python"),
        {versions: 1},
    )


def registry_of(program: Collector) -> CollectorRegistry:
    """A registry of its own with a program's metrics, and none of the process or of Python."""
    registry = CollectorRegistry()
    registry.register(program)
    return registry
