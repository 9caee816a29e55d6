"""Server and two sites each on a host of its own: network namespaces, firewalls, a bad line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from federation_kit import Home, make_home

pytestmark = pytest.mark.processes

SERVER = "stic-server"
SITES = ("center1", "center2")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _inside(host: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", host, *command]


def _possible() -> bool:
    if sys.platform != "linux" or not (
        shutil.which("ip") and shutil.which("tc") and shutil.which("iptables")
    ):
        return False
    made = (
        subprocess.run(["ip", "netns", "add", "stic-probe"], capture_output=True, check=False).returncode == 0
    )
    subprocess.run(["ip", "netns", "del", "stic-probe"], capture_output=True, check=False)
    return made


needs_hosts = pytest.mark.skipif(
    not _possible(), reason="network namespaces need root, ip, tc and iptables (Debian: iproute2, iptables)"
)


@contextmanager
def _hosts() -> Iterator[dict[str, str]]:
    """A host for the server, and one a site on a line of its own; a site drops everything inbound."""
    addresses: dict[str, str] = {}
    names = [SERVER, *SITES]
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        for number, site in enumerate(SITES, start=1):
            _ip(
                "link",
                "add",
                f"s{number}",
                "netns",
                SERVER,
                "type",
                "veth",
                "peer",
                "name",
                "up0",
                "netns",
                site,
            )
            for host, device, last in ((SERVER, f"s{number}", 1), (site, "up0", 2)):
                _ip("-n", host, "addr", "add", f"10.77.{number}.{last}/24", "dev", device)
                _ip("-n", host, "link", "set", device, "up")
            for rule in (
                ("-P", "INPUT", "DROP"),
                ("-A", "INPUT", "-i", "lo", "-j", "ACCEPT"),
                ("-A", "INPUT", "-m", "state", "--state", "ESTABLISHED", "-j", "ACCEPT"),
            ):
                subprocess.run(_inside(site, "iptables", *rule), check=True, capture_output=True)
            addresses[site] = f"10.77.{number}.1"
        yield addresses
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def _running(home: Home, host: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A command on one of the hosts; its output goes to a file that is returned beside it."""
    process = subprocess.Popen(
        _inside(host, *home.command(*command)),
        env=home.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _home(path: Path, addresses: dict[str, str], *, rounds: int) -> Home:
    home = make_home(path, sites=SITES, rounds=rounds, names=tuple(addresses.values()))
    home.edit(home.federation, listen__host="0.0.0.0")
    for site, address in addresses.items():
        home.edit(home.site(site) / "site.yaml", server__address=f"{address}:{home.port}")
    return home


def _rounds(home: Home) -> list[int]:
    found = list((home.path / "runs").glob("*/rounds.jsonl"))
    return [json.loads(line)["round"] for path in found for line in path.read_text().splitlines()]


def _spoil(device: str) -> None:
    """100 ms delay and 2 % loss; loss alone where the kernel has no netem."""
    netem = ("tc", "qdisc", "add", "dev", device, "root", "netem", "delay", "100ms", "loss", "2%")
    if subprocess.run(_inside(SERVER, *netem), capture_output=True, check=False).returncode == 0:
        return
    drop = ("-i", device, "-m", "statistic", "--mode", "random", "--probability", "0.02", "-j", "DROP")
    subprocess.run(_inside(SERVER, "iptables", "-A", "INPUT", *drop), check=True, capture_output=True)


@needs_hosts
def test_a_run_over_a_bad_line(tmp_path: Path) -> None:
    """Loss, delay, and both lines cut for 15 s in mid-run: every round completes once."""
    with _hosts() as addresses, ExitStack() as stack:
        home = _home(tmp_path, addresses, rounds=12)
        for number in (1, 2):
            _spoil(f"s{number}")
        for site in SITES:
            stack.enter_context(_running(home, site, "stic-client", "--site", site, "--once"))
        server = stack.enter_context(_running(home, SERVER, "stic-server", "start"))
        deadline = time.monotonic() + 120
        while 3 not in _rounds(home):
            assert time.monotonic() < deadline, "three rounds did not complete"
            assert server.poll() is None
            time.sleep(0.2)
        for number in (1, 2):
            _ip("-n", SERVER, "link", "set", f"s{number}", "down")
        time.sleep(15)
        for number in (1, 2):
            _ip("-n", SERVER, "link", "set", f"s{number}", "up")
        output, _ = server.communicate(timeout=180)
        assert server.returncode == 0, output
        assert _rounds(home) == list(range(1, 13))


@needs_hosts
def test_nothing_reaches_a_site(tmp_path: Path) -> None:
    """The site's host drops what comes in, and its client listens on no port at all."""
    with _hosts() as addresses, ExitStack() as stack:
        home = _home(tmp_path, addresses, rounds=1)
        client = stack.enter_context(_running(home, "center1", "stic-client", "--site", "center1"))
        assert client.stdout is not None
        while "next try" not in client.stdout.readline():
            pass
        listening = subprocess.run(
            _inside("center1", "cat", "/proc/net/tcp", "/proc/net/tcp6"),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        states = [line.split()[3] for line in listening.splitlines() if ":" in line.split()[0]]
        assert "0A" not in states  # TCP_LISTEN
        probe = ("timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/10.77.1.2/22")
        reached = subprocess.run(_inside(SERVER, *probe), capture_output=True, check=False).returncode
        assert reached != 0
