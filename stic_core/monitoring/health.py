"""Whether a program serves, by gRPC's health protocol (`grpc.health.v1`), on a port of its own and without TLS.

Kubernetes asks it by itself; containers and people ask it with the `health` command of either side.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server

from stic_core.monitoring.addresses import check_free, reachable, shown

LOG = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between looks at whether the program serves, seconds."""

_AT_ONCE = 16
_END_S = 1.0


class HealthServer:
    """Answers whether this program serves; everything else that gRPC could ask is unknown to it.

    Args:
        host, port: where.
        serving: whether it does; asked every second in a thread of its own, and what it raises is a no.
    """

    def __init__(self, host: str, port: int, *, serving: Callable[[], bool]) -> None:
        self._host, self._port, self._serving = host, port, serving
        self._stop = threading.Event()
        self._servicer = HealthServicer()
        self._server: grpc.Server | None = None

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            ListenError: the address cannot be had.
        """
        check_free(self._host, self._port, key="monitoring.health_port")
        server = grpc.server(
            ThreadPoolExecutor(2, thread_name_prefix="health"),
            maximum_concurrent_rpcs=_AT_ONCE,
            options=[("grpc.so_reuseport", 0)],  # else two programs share a port, and either answers
        )
        add_HealthServicer_to_server(self._servicer, server)
        server.add_insecure_port(shown(self._host, self._port))
        self._look()
        server.start()
        self._server = server
        threading.Thread(target=self._keep_looking, daemon=True, name="health").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._server is not None:
            self._server.stop(_END_S).wait()

    def _keep_looking(self) -> None:
        while not self._stop.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        try:
            serves = self._serving()
        except Exception:
            LOG.exception("health cannot be determined; answering that the program does not serve")
            serves = False
        kinds = HealthCheckResponse.ServingStatus
        self._servicer.set("", kinds.SERVING if serves else kinds.NOT_SERVING)


def ask(host: str, port: int, *, timeout_s: float = 5.0) -> str:
    """What a program on this machine answers.

    Returns:
        `serving`, `not serving`, or `no answer`.
    """
    options = [("grpc.enable_http_proxy", 0)]  # it is asked on this machine, or not at all
    with grpc.insecure_channel(shown(reachable(host), port), options=options) as channel:
        try:
            check: Any = HealthStub(channel)  # its methods are made when it is
            answer = check.Check(HealthCheckRequest(service=""), timeout=timeout_s)
        except grpc.RpcError:
            return "no answer"
    return "serving" if answer.status == HealthCheckResponse.ServingStatus.SERVING else "not serving"
