"""When each side's health says that it serves: the port answers, and work shows signs of life."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stic_client.cli import joining
from stic_core.monitoring import health
from stic_core.system.service_manager import ServiceManager
from stic_core.system.terminal import Terminal
from stic_server.cli import running
from stic_server.cli.console import ConsoleObserver
from support.federation_kit import free_port
from support.waiting import until


@pytest.fixture
def manager() -> ServiceManager:
    """None that anybody listens to."""
    return ServiceManager("")


@pytest.fixture
def terminal(manager: ServiceManager) -> Terminal:
    """One that shows nothing."""
    return Terminal(quiet=True, manager=manager)


def _silent(manager: ServiceManager, seconds: float) -> None:
    manager._alive_at -= seconds


def test_a_server_whose_run_hangs_or_whose_port_is_gone_does_not_serve(
    manager: ServiceManager, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over gRPC: not serving after 15 minutes without a sign of life, or once the port no longer answers."""
    monkeypatch.setattr(health, "LOOK_S", 0.02)
    answers, port = [True], free_port()
    server: Any = SimpleNamespace(answers=lambda: answers[0])

    def says(answer: str) -> None:
        until(lambda: health.ask("127.0.0.1", port) == answer, what=answer)

    with health.HealthServer("127.0.0.1", port, serving=lambda: running._serves(server, terminal)):
        says("serving")
        _silent(manager, 901)
        says("not serving")
        ConsoleObserver(terminal).waiting([], 0.0)  # the run goes on
        says("serving")
        answers[0] = False
        says("not serving")


def test_a_client_serves_through_a_long_round(manager: ServiceManager, terminal: Terminal) -> None:
    """Hours of training are one silence; after 4 hours it hangs, until the next sign of life."""
    _silent(manager, 14_000)
    assert joining._serves(terminal)
    _silent(manager, 401)
    assert not joining._serves(terminal)
    terminal.alive()
    assert joining._serves(terminal)
