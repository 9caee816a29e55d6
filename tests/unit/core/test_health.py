"""gRPC health: what is answered while a program serves, hangs, cannot say, and is gone."""

from __future__ import annotations

import socket
from collections.abc import Callable

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from stic_core.config import MonitoringConfig
from stic_core.errors import ListenError, UsageError
from stic_core.monitoring import health as health_module
from stic_core.monitoring.addresses import reachable, shown
from stic_core.monitoring.health import HealthServer, ask
from stic_core.monitoring.ports import health
from support.federation_kit import free_port
from support.waiting import until


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "LOOK_S", 0.02)


def _becomes(port: int, answer: str) -> Callable[[], bool]:
    return lambda: ask("127.0.0.1", port) == answer


def test_it_serves_while_the_program_says_so() -> None:
    """Serving, not serving once the program says no, serving again; no answer before and after."""
    port, serves = free_port(), [True]
    assert ask("127.0.0.1", port, timeout_s=0.5) == "no answer"
    with HealthServer("127.0.0.1", port, serving=lambda: serves[0]):
        assert ask("127.0.0.1", port) == "serving"
        serves[0] = False
        until(_becomes(port, "not serving"), what="the program no longer serves")
        serves[0] = True
        until(_becomes(port, "serving"), what="the program serves again")
    assert ask("127.0.0.1", port, timeout_s=0.5) == "no answer"


def test_who_cannot_say_does_not_serve(caplog: pytest.LogCaptureFixture) -> None:
    """An error while looking is a no, and is logged."""

    def broken() -> bool:
        raise RuntimeError("no idea")

    port = free_port()
    with HealthServer("127.0.0.1", port, serving=broken):
        assert ask("127.0.0.1", port) == "not serving"
    assert "health cannot be determined" in caplog.text


def test_only_health_of_the_whole_program_is_known() -> None:
    """Another service's name is not found: the port says nothing else."""
    port = free_port()
    with (
        HealthServer("127.0.0.1", port, serving=lambda: True),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        with pytest.raises(grpc.RpcError) as raised:
            HealthStub(channel).Check(HealthCheckRequest(service="patients"), timeout=5)
        assert isinstance(raised.value, grpc.Call)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_port_that_is_taken_is_said_in_our_words() -> None:
    """By another program, and by another one of ours: two never share a health port."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ListenError, match=r"monitoring\.health_port"):
            HealthServer("127.0.0.1", other.getsockname()[1], serving=lambda: True).__enter__()
    port = free_port()
    with HealthServer("127.0.0.1", port, serving=lambda: True), pytest.raises(ListenError):
        HealthServer("127.0.0.1", port, serving=lambda: False).__enter__()


def test_asking_without_a_port_says_what_to_configure() -> None:
    """The command needs the key, and names it."""
    with pytest.raises(UsageError, match=r"monitoring\.health_port"):
        health(MonitoringConfig())


def test_addresses() -> None:
    """IPv6 has brackets; what is bound to every interface is asked on loopback."""
    assert (shown("::1", 8081), shown("127.0.0.1", 8081)) == ("[::1]:8081", "127.0.0.1:8081")
    assert [reachable(host) for host in ("0.0.0.0", "::", "10.0.0.7")] == ["127.0.0.1", "::1", "10.0.0.7"]
