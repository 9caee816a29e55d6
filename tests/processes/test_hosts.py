"""Server and two sites each on a host of its own: firewalls, a bad line, a hospital's proxy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.federation_kit import Home, make_home
from support.namespaces import Network, middle_host, needs_hosts, network

pytestmark = [pytest.mark.processes, needs_hosts]

SITES = ("center1", "center2")
PROXY_PORT = 3128


def _home(path: Path, hosts: Network, *, rounds: int, relayed: bool) -> Home:
    """A federation whose sites know the server by a relay's address, or by its own."""
    names = [hosts.gateway(site) for site in SITES] if relayed else [hosts.server]
    home = make_home(path, sites=SITES, rounds=rounds, names=names)
    home.edit(home.federation, listen__host="0.0.0.0", join_timeout_s=120)
    for site in SITES:
        host = hosts.gateway(site) if relayed else hosts.server
        home.edit(home.site(site) / "site.yaml", server__address=f"{host}:{home.port}")
    return home


def _rows(home: Home) -> list[dict]:
    found = list((home.path / "runs").glob("*/rounds.jsonl"))
    return [json.loads(line) for path in found for line in path.read_text().splitlines()]


def _await(what: Callable[[], bool], *, seconds: float, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it took too long"
        assert server.poll() is None, "the server left"
        time.sleep(0.2)


def _kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(5)


@pytest.mark.timeout(900)
def test_twenty_rounds_over_a_bad_line(tmp_path: Path) -> None:
    """Delay, loss, 60 s of silence, each site killed and restarted once: every round counts both sites, once.

    Server, relay and the two sites are processes on four hosts (network namespaces); the sites
    drop everything inbound. 100 ms delay and 2 % loss are tc netem's on the sites' lines where
    the kernel has it; else iptables drops 2 % at random and the relay delays what comes back.
    One site is killed in a round, the other while the lines are silent.
    """
    with network(*SITES) as hosts, ExitStack() as stack:
        home = _home(tmp_path, hosts, rounds=20, relayed=True)
        delay = hosts.spoil()
        stack.enter_context(
            middle_host(
                *("--port", str(home.port), "--to", f"{hosts.server}:{home.port}", "--delay", str(delay)),
                prefix=hosts.on("middle"),
                log=tmp_path / "relay.log",
            )
        )

        def start(program: str, host: str, *words: str) -> subprocess.Popen[str]:
            output = tmp_path / f"{host}.log"
            return stack.enter_context(home.running(program, *words, prefix=hosts.on(host), output=output))

        def completed() -> int:
            return max((row["round"] for row in _rows(home)), default=0)

        clients = {site: start("stic-client", site, "--site", site, "--once") for site in SITES}
        server = start("stic-server", "server", "start")

        def restart(site: str) -> None:
            _kill(clients[site])
            clients[site] = start("stic-client", site, "--site", site, "--once")

        _await(lambda: completed() >= 2, seconds=200, server=server)
        restart("center1")
        _await(lambda: completed() >= 6, seconds=200, server=server)
        hosts.cut()
        before = completed()
        restart("center2")  # it comes back to a server that it cannot reach
        time.sleep(60)
        assert completed() <= before + 1  # what was under way may have arrived
        hosts.mend()
        assert server.wait(300) == 0, (tmp_path / "server.log").read_text()
        assert [client.wait(20) for client in clients.values()] == [0, 0]
        assert [(row["round"], row["sites"]) for row in _rows(home)] == [
            (number, list(SITES)) for number in range(1, 21)
        ]
        assert "last seen" in (tmp_path / "server.log").read_text()
        for host in ("server", *SITES):
            assert "Traceback" not in (tmp_path / f"{host}.log").read_text()
        for words in (
            ("stic-server", "audit"),
            *(("stic-client", "--site", site, "audit") for site in SITES),
        ):
            audit = home.run(*words)
            assert "the chain of hashes is whole" in audit.stdout, audit.stderr


@pytest.mark.timeout(600)
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

        def start(program: str, host: str, *words: str, password: str = word) -> subprocess.Popen[str]:
            way = {}
            if host in SITES:
                way = {"HTTPS_PROXY": f"http://clerk:{password}@{hosts.gateway(host)}:{PROXY_PORT}"}
            return stack.enter_context(
                home.running(
                    *(program, *words),
                    prefix=hosts.on(host),
                    environment=way,
                    output=tmp_path / f"{host}.log",
                )
            )

        def said(host: str) -> str:
            return (tmp_path / f"{host}.log").read_text()

        client = ("stic-client", "--verbose", "--site")
        server = start("stic-server", "server", "start")
        refused = start(client[0], "center1", *client[1:], "center1", password=wrong)
        _await(lambda: "next try in 1 s" in said("center1"), seconds=120, server=server)
        assert refused.poll() is None  # it goes on trying
        _kill(refused)
        assert f"the proxy {hosts.gateway('center1')}:{PROXY_PORT} answers 407" in said("center1")
        assert not hosts.reaches("center1", hosts.server, home.port)
        clients = [start(client[0], site, *client[1:], site, "--once") for site in SITES]
        assert server.wait(240) == 0, said("server")
        assert [one.wait(20) for one in clients] == [0, 0]
        assert [row["sites"] for row in _rows(home)] == [list(SITES)] * 2
        events = [json.loads(line) for line in log.read_text().splitlines()]
        tunnels = [event["opened"] for event in events if "opened" in event]
        assert len(tunnels) >= len(SITES)
        assert set(tunnels) == {f"{hosts.server}:{home.port}"}
        for text in (*map(said, ("server", *SITES)), *_texts(home.path)):
            assert word not in text
            assert wrong not in text


def _texts(folder: Path) -> list[str]:
    return [path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()]


def test_nothing_reaches_a_site(tmp_path: Path) -> None:
    """The site's host drops what comes in, and its client listens on no port at all."""
    with network(*SITES) as hosts:
        home = _home(tmp_path, hosts, rounds=1, relayed=True)
        with home.running("stic-client", "--site", "center1", prefix=hosts.on("center1")) as client:
            assert client.stdout is not None
            while "next try" not in client.stdout.readline():
                assert client.poll() is None
            assert not hosts.listens("center1")
        assert not hosts.reaches("middle", hosts.address("center1"), 22)
