"""What a service manager hears of a program: a real datagram socket stands for systemd's."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stic_core.errors import UsageError
from stic_core.system.keys import read_private
from stic_core.system.service_manager import ServiceManager
from stic_core.system.terminal import Terminal

Hear = Callable[[], list[str]]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[str, Hear]]:
    """The address of a socket, and what came to it since the last look."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(address := str(tmp_path / "notify"))
        one.setblocking(False)

        def hear() -> list[str]:
            heard: list[str] = []
            while True:
                try:
                    heard += one.recv(4096).decode().split("\n")
                except BlockingIOError:
                    return heard

        yield address, hear


def test_a_service_says_that_it_is_ready_lives_and_ends(manager: tuple[str, Hear]) -> None:
    """Stages and progress are signs of life with a status; a repeated one is not sent again at once."""
    address, hear = manager
    with Terminal(quiet=True, manager=ServiceManager(address)) as terminal:
        terminal.ready()
        terminal.stage("training")
        assert hear() == ["READY=1", "WATCHDOG=1", "STATUS=training"]
        for _ in range(100):
            terminal.alive()
            terminal.detail("waiting")
        assert hear() == []
        terminal.progress("backbone features", 3, 10)
        assert hear()[-2:] == ["WATCHDOG=1", "STATUS=backbone features: 3 of 10"]
    assert hear() == ["STOPPING=1"]


def test_a_status_is_one_short_line(manager: tuple[str, Hear]) -> None:
    """A text with line breaks cannot say anything else in the protocol."""
    address, hear = manager
    ServiceManager(address).alive("a\nREADY=1\n" + "b" * 1000)
    watchdog, status = hear()
    assert watchdog == "WATCHDOG=1"
    assert status.startswith("STATUS=a READY=1 bbb")
    assert len(status) < 250


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a manager, or with one that is gone, nothing happens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    ServiceManager().ready()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    ServiceManager().ready()


def test_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systemd in a container gives a name that begins with @."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(f"\0stic-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@stic-{os.getpid()}")
        ServiceManager().ready()
        assert one.recv(100) == b"READY=1"


def test_a_key_as_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd's ACL looks like mode 0440: taken in the credentials' folder, and nowhere else."""
    inside, outside = tmp_path / "credentials" / "site.key", tmp_path / "site.key"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_bytes(b"secret")
        path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(inside.parent))
    assert read_private(inside, missing="") == b"secret"
    with pytest.raises(UsageError, match="can be read by others"):
        read_private(outside, missing="")


@pytest.mark.parametrize(
    ("patience", "signs"), [("2000000", 1), ("1200000000", 0), ("", 0), ("0", 0), ("soon", 0), ("-3", 0)]
)
def test_an_impatient_manager_hears_more_often(
    manager: tuple[str, Hear], monkeypatch: pytest.MonkeyPatch, patience: str, signs: int
) -> None:
    """Of `WATCHDOG_USEC` at most half passes between two signs of life, and five seconds."""
    address, hear = manager
    monkeypatch.setenv("WATCHDOG_USEC", patience)
    clock = 100.0
    monkeypatch.setattr("stic_core.system.service_manager.time.monotonic", lambda: clock)
    told = ServiceManager(address)
    told.alive()
    hear()
    clock += 1.1
    told.alive()
    assert len(hear()) == signs
