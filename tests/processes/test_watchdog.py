"""A server that hangs, under a service manager that does what systemd does with the unit in deploy/systemd."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from stic_client.participation.participant import Participant
from stic_core import config_files
from stic_core.config import FederationConfig, SiteConfig
from stic_core.models.saved import read_model
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from support.accidents import Accident, hung
from support.federation_kit import Home, InProcessSites, Recorder, make_home
from support.waiting import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.long]

WATCHDOG_S = 8.0
"""Of the process that hangs. Those after it have more: a machine that is busy must not end them while they work."""
ROUNDS = 4
SITES = ("center1", "center2")


class Manager:
    """What systemd does for `Type=notify`, `WatchdogSec` and `Restart=on-failure`; its signal is `WatchdogSignal`'s.

    Args:
        home: of the server that it keeps alive.
        log: takes what the server says.
    """

    def __init__(self, home: Home, *, log: Path) -> None:
        self._home, self._log = home, log
        self.endings: list[int] = []
        """Exit codes of the processes, in order."""

    def keep_alive(self, *accidents: Accident) -> None:
        """Start the server, and again as long as it fails.

        Args:
            accidents: what befalls the first process, the second one, and so on.
        """
        coming, deadline = list(accidents), time.monotonic() + PATIENCE_S
        while not self.endings or self.endings[-1] != 0:
            assert time.monotonic() < deadline, self._log.read_text()
            self.endings.append(self._one(coming.pop(0) if coming else None))

    def _one(self, accident: Accident | None) -> int:
        address = self._home.path / f"notify{len(self.endings)}"
        patience = WATCHDOG_S if accident is not None else PATIENCE_S
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
            heard.bind(str(address))
            variables = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": str(int(patience * 1e6))}
            with self._home.running(
                *("stic-server", "start", "--log", "json"),
                environment=variables,
                output=self._log,
                accident=accident,
            ) as server:
                last = None  # nobody is impatient before it is ready
                while server.poll() is None:
                    heard.settimeout(0.5)
                    try:
                        lines = heard.recv(4096).decode().split("\n")
                    except TimeoutError:
                        lines = []
                    if "READY=1" in lines or (last is not None and "WATCHDOG=1" in lines):
                        last = time.monotonic()
                    if last is not None and time.monotonic() - last > patience:
                        server.send_signal(signal.SIGABRT)
                        return server.wait(PATIENCE_S)
                return server.wait()


def test_a_server_that_hangs_is_started_again_and_the_run_goes_on(tmp_path: Path) -> None:
    """Its run stands still while its port goes on answering; it falls silent, is aborted, and ends with the same model.

    The same as the run of an equal federation in this process, which nothing disturbs.
    """
    home = make_home(tmp_path / "home", sites=SITES, rounds=ROUNDS)
    manager = Manager(home, log=tmp_path / "server.log")
    with (
        home.running("stic-client", "--site", SITES[0], "--once", output=tmp_path / "client1.log") as first,
        home.running("stic-client", "--site", SITES[1], "--once", output=tmp_path / "client2.log") as second,
    ):
        manager.keep_alive(hung("round   2 of"))
        assert [first.wait(PATIENCE_S), second.wait(PATIENCE_S)] == [0, 0]
    assert manager.endings == [-signal.SIGABRT, 0]
    assert "resuming run" in (tmp_path / "server.log").read_text()
    assert [row["round"] for row in home.rounds()] == list(range(1, ROUNDS + 1))
    digest = read_model(home.run_folder() / "model").description.digest
    assert digest == _undisturbed(make_home(tmp_path / "whole", sites=SITES, rounds=ROUNDS))


def _undisturbed(home: Home) -> str:
    """The digest of a federation's model; server and sites are in this process."""
    federation = config_files.load(home.federation, FederationConfig)
    sites = InProcessSites(
        {site: Participant(config_files.load(home.site(site) / "site.yaml", SiteConfig)) for site in SITES}
    )
    proposal = training_of(federation, sites=sites.public_keys)
    run = RunFolder.begin(federation, proposal.plan)
    limits = RunLimits(min_sites=len(SITES), join_timeout_s=PATIENCE_S, round_timeout_s=PATIENCE_S)
    execute(proposal.plan, proposal.weights, run=run, sites=sites, limits=limits, observer=Recorder())
    return read_model(run.path / "model").description.digest
