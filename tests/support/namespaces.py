"""Hosts of their own on one machine: network namespaces, firewalls, lines that can be spoiled and cut."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

LOSS = 0.02
DELAY_S = 0.1


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _possible() -> bool:
    if sys.platform != "linux" or not all(map(shutil.which, ("ip", "tc", "iptables"))):
        return False
    name = f"stic-{secrets.token_hex(4)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made


needs_hosts = pytest.mark.skipif(
    not _possible(), reason="network namespaces need root, ip, tc and iptables (Debian: iproute2, iptables)"
)


@dataclass(frozen=True)
class Network:
    """The server, the sites, and a host in the middle that every line leads to.

    Nothing is forwarded there: what a site sends reaches the server only through a program on
    the middle host. A site drops everything inbound.

    Args:
        name: begins the namespaces' names; another in each test that runs.
        sites: in the order of their lines.
    """

    name: str
    sites: Sequence[str]

    server = "10.77.0.2"
    """The server's address, as the middle host sees it."""

    def gateway(self, site: str) -> str:
        """The middle host's address on a site's line."""
        return f"10.77.{self.sites.index(site) + 1}.1"

    def address(self, site: str) -> str:
        """A site's own address."""
        return f"10.77.{self.sites.index(site) + 1}.2"

    def namespace(self, host: str) -> str:
        """The name of a host's network namespace: of `server`, `middle`, or a site."""
        return f"{self.name}-{host}"

    def on(self, host: str, *command: str) -> list[str]:
        """A command on one of the hosts."""
        return ["ip", "netns", "exec", self.namespace(host), *command]

    def run(self, host: str, *command: str) -> None:
        """Run a command that must succeed."""
        subprocess.run(self.on(host, *command), check=True, capture_output=True)

    def reaches(self, host: str, address: str, port: int) -> bool:
        """Whether a TCP connection comes about within 2 s."""
        attempt = ("timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}")
        return subprocess.run(self.on(host, *attempt), capture_output=True, check=False).returncode == 0

    def listens(self, host: str) -> bool:
        """Whether any TCP port is open on a host."""
        tables = subprocess.run(
            self.on(host, "cat", "/proc/net/tcp", "/proc/net/tcp6"),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return "0A" in [line.split()[3] for line in tables.splitlines() if ":" in line.split()[0]]

    def spoil(self) -> float:
        """100 ms delay and 2 % loss on the sites' lines.

        Returns:
            The delay that a relay has to make: 0 where the kernel has netem, which makes both;
            elsewhere iptables drops packets at random, and delays none.
        """
        missing = 0.0
        for number in range(1, len(self.sites) + 1):
            netem = ("netem", "delay", f"{DELAY_S * 1000:g}ms", "loss", f"{LOSS * 100:g}%")
            command = self.on("middle", "tc", "qdisc", "add", "dev", f"line{number}", "root", *netem)
            if subprocess.run(command, capture_output=True, check=False).returncode:
                drop = ("-m", "statistic", "--mode", "random", "--probability", str(LOSS), "-j", "DROP")
                self.run("middle", "iptables", "-A", "INPUT", "-i", f"line{number}", *drop)
                missing = DELAY_S
        return missing

    def cut(self) -> None:
        """Every line goes silent; nobody is told."""
        self._silence("-I")

    def mend(self) -> None:
        """Every line is as it was."""
        self._silence("-D")

    def _silence(self, action: str) -> None:
        self.run("middle", "iptables", action, "INPUT", "!", "-i", "lo", "-j", "DROP")
        self.run("middle", "iptables", action, "OUTPUT", "!", "-o", "lo", "-j", "DROP")


@contextmanager
def network(*sites: str) -> Iterator[Network]:
    """Make the hosts; away again at the end, with what runs on them."""
    made = Network(f"stic-{secrets.token_hex(3)}", sites)
    hosts = ["server", "middle", *sites]
    try:
        for host in hosts:
            _ip("netns", "add", f"{made.name}-{host}")
            _ip("-n", f"{made.name}-{host}", "link", "set", "lo", "up")
        for number, host in enumerate(["server", *sites]):
            line, ends = f"line{number}", (f"{made.name}-middle", f"{made.name}-{host}")
            _ip(
                "link", "add", line, "netns", ends[0], "type", "veth", "peer", "name", "up0", "netns", ends[1]
            )
            for last, (end, device) in enumerate(zip(ends, (line, "up0"), strict=True), start=1):
                _ip("-n", end, "addr", "add", f"10.77.{number}.{last}/24", "dev", device)
                _ip("-n", end, "link", "set", device, "up")
            _ip("-n", ends[1], "route", "add", "default", "via", f"10.77.{number}.1")
        for site in sites:
            for rule in (
                ("-P", "INPUT", "DROP"),
                ("-A", "INPUT", "-i", "lo", "-j", "ACCEPT"),
                ("-A", "INPUT", "-m", "state", "--state", "ESTABLISHED", "-j", "ACCEPT"),
            ):
                made.run(site, "iptables", *rule)
        yield made
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", f"{made.name}-{host}"], capture_output=True, check=False)


@contextmanager
def middle_host(*options: str, prefix: Sequence[str] = (), log: Path) -> Iterator[Path]:
    """`middle_host.py` as a process, ready to take connections; its events go to a file."""
    command = [*prefix, sys.executable, str(Path(__file__).with_name("middle_host.py")), *options]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file)
    try:
        while "listening" not in log.read_text():
            assert process.poll() is None, "the middle host did not start"
            time.sleep(0.02)
        yield log
    finally:
        process.kill()
        process.wait()
