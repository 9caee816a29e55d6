"""Prometheus metrics over plain HTTP (`GET /metrics`), on a port of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from stic_core.errors import ListenError
from stic_core.monitoring.addresses import check_free, shown


@contextmanager
def serve_metrics(host: str, port: int, *, registry: CollectorRegistry) -> Iterator[None]:
    """Answer what a registry holds; anything of the process or of Python is not in it.

    Raises:
        ListenError: the address cannot be had.
    """
    check_free(host, port, key="monitoring.metrics_port")
    try:
        server, thread = start_http_server(port, host, registry=registry)
    except OSError as error:
        raise ListenError(f"cannot listen on {shown(host, port)}", got=error.strerror) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
