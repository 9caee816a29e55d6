"""Server and two sites each on a host of its own: firewalls, a bad line, a hospital's proxy."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.accidents import Accident, said
from support.federation_kit import Home, make_home
from support.namespaces import Network, middle_host, needs_hosts, network
from support.programs import Process
from support.waiting import PATIENCE_S, await_line, until

pytestmark = [pytest.mark.processes, needs_hosts]

SITES = ("center1", "center2")
PROXY_PORT = 3128


def _home(path: Path, hosts: Network, *, rounds: int, relayed: bool) -> Home:
    """A federation whose sites know the server by a relay's address, or by its own."""
    names = [hosts.gateway(site) for site in SITES] if relayed else [hosts.server]
    home = make_home(path, sites=SITES, rounds=rounds, names=names, intervals=0.1)
    home.edit(home.federation, listen__host="0.0.0.0", join_timeout_s=PATIENCE_S)
    for site in SITES:
        host = hosts.gateway(site) if relayed else hosts.server
        home.edit(home.site(site) / "site.yaml", server__address=f"{host}:{home.port}")
    return home


@pytest.mark.long
def test_a_run_over_a_bad_line(tmp_path: Path) -> None:
    """Delay, loss, silence until both are missed, each site killed and restarted once: every round counts both sites, once.

    Server, relay and the two sites are processes on four hosts (network namespaces); the sites
    drop everything inbound. 100 ms delay and 2 % loss are tc netem's on the sites' lines where
    the kernel has it; else iptables drops 2 % at random and the relay delays what comes back.
    One site is killed in a round, the other while the lines are silent.
    """
    with network(*SITES) as hosts, ExitStack() as stack:
        home = _home(tmp_path, hosts, rounds=8, relayed=True)
        delay = hosts.spoil()
        stack.enter_context(
            middle_host(
                *("--port", str(home.port), "--to", f"{hosts.server}:{home.port}", "--delay", str(delay)),
                prefix=hosts.on("middle"),
                log=tmp_path / "relay.log",
            )
        )

        def start(host: str, *words: str, accident: Accident | None = None) -> Process:
            output = tmp_path / f"{host}.log"
            running = home.running(*words, host=hosts.namespace(host), output=output, accident=accident)
            return stack.enter_context(running)

        def join(site: str, *, accident: Accident | None = None) -> Process:
            return start(site, "stic-client", "--site", site, "--once", accident=accident)

        def told(host: str) -> str:
            return (tmp_path / f"{host}.log").read_text()

        def completed() -> int:
            return max((row["round"] for row in home.rounds()), default=0)

        clients = {
            "center1": join("center1", accident=said("round 3 of 8", signal.SIGKILL)),
            "center2": join("center2"),
        }
        server = start("server", "stic-server", "start")
        clients["center1"].wait(PATIENCE_S)
        # It stands still from then on, so that the run is not over before the lines are cut.
        clients["center1"] = join("center1", accident=said("round 5 of 8", signal.SIGSTOP))
        until(lambda: "round 5 of 8" in told("center1"), what=lambda: told("server"))
        hosts.cut()
        before, length = completed(), len(told("server"))
        clients["center2"].kill()
        clients["center2"] = join("center2")  # it comes back to a server that it cannot reach
        os.kill(clients["center1"].pid, signal.SIGCONT)
        for site in SITES:
            missed = f"{site} (last seen"
            until(lambda missed=missed: missed in told("server")[length:], what=lambda: told("server"))
        assert completed() <= before + 1  # what was under way may have arrived
        hosts.mend()
        assert server.wait(PATIENCE_S) == 0, told("server")
        assert [client.wait(PATIENCE_S) for client in clients.values()] == [0, 0]
        assert [(row["round"], row["sites"]) for row in home.rounds()] == [
            (number, list(SITES)) for number in range(1, 9)
        ]
        for host in ("server", *SITES):
            assert "Traceback" not in told(host)
        for words in (
            ("stic-server", "audit"),
            *(("stic-client", "--site", site, "audit") for site in SITES),
        ):
            audit = home.run(*words)
            assert "the chain of hashes is whole" in audit.stdout, audit.stderr


@pytest.mark.long
def test_a_run_through_a_hospitals_proxy(tmp_path: Path) -> None:
    """CONNECT with a password is the only way out: a run completes; a wrong password is said, and not shown."""
    word, wrong = "correct-horse", "battery-staple"
    with network(*SITES) as hosts, ExitStack() as stack:
        home = _home(tmp_path / "home", hosts, rounds=2, relayed=False)
        log = stack.enter_context(
            middle_host(
                *("--port", str(PROXY_PORT), "--credentials", f"clerk:{word}"),
                prefix=hosts.on("middle"),
                log=tmp_path / "proxy.log",
            )
        )

        def start(program: str, host: str, *words: str, password: str = word) -> Process:
            way = {}
            if host in SITES:
                way = {"HTTPS_PROXY": f"http://clerk:{password}@{hosts.gateway(host)}:{PROXY_PORT}"}
            return stack.enter_context(
                home.running(
                    *(program, *words),
                    host=hosts.namespace(host),
                    environment=way,
                    output=tmp_path / f"{host}.log",
                )
            )

        def told(host: str) -> str:
            return (tmp_path / f"{host}.log").read_text()

        client = ("stic-client", "--verbose", "--site")
        server = start("stic-server", "server", "start")
        refused = start(client[0], "center1", *client[1:], "center1", password=wrong)
        until(lambda: told("center1").count("next try in") >= 2, what=lambda: told("center1"))
        assert refused.poll() is None  # it goes on trying
        refused.kill()
        assert f"the proxy {hosts.gateway('center1')}:{PROXY_PORT} answers 407" in told("center1")
        assert not hosts.reaches("center1", hosts.server, home.port)
        clients = [start(client[0], site, *client[1:], site, "--once") for site in SITES]
        assert server.wait(PATIENCE_S) == 0, told("server")
        assert [one.wait(PATIENCE_S) for one in clients] == [0, 0]
        assert [row["sites"] for row in home.rounds()] == [list(SITES)] * 2
        events = [json.loads(line) for line in log.read_text().splitlines()]
        tunnels = [event["opened"] for event in events if "opened" in event]
        assert len(tunnels) >= len(SITES)
        assert set(tunnels) == {f"{hosts.server}:{home.port}"}
        for text in (*map(told, ("server", *SITES)), *_texts(home.path)):
            assert word not in text
            assert wrong not in text


def _texts(folder: Path) -> list[str]:
    return [path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()]


def test_nothing_reaches_a_site(tmp_path: Path) -> None:
    """The site's host drops what comes in, and its client listens on no port at all."""
    with network(*SITES) as hosts:
        home = _home(tmp_path, hosts, rounds=1, relayed=True)
        with home.running("stic-client", "--site", "center1", host=hosts.namespace("center1")) as client:
            await_line(client, "next try")
            assert not hosts.listens("center1")
        assert not hosts.reaches("middle", hosts.address("center1"), 22)
