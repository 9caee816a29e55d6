"""Real containers on a machine that may have neither systemd nor its cgroups: Podman in namespaces of its own."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

FILES = Path(__file__).parents[2] / "deploy" / "containers"

TOOLS = ("podman", "crun", "mmdebstrap", "nsenter", "unshare", "ip")

needs_containers = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, TOOLS)),
    reason=f"needs root and {', '.join(TOOLS)} (Debian: apt-get install podman crun mmdebstrap iproute2)",
)

# A machine without systemd, where not even root may raise a limit: containers without cgroups, and limits given.
_CONFIGURATION = """\
[containers]
cgroups = "disabled"
netns = "host"
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "crun"
"""


@dataclass(frozen=True)
class ContainerHost:
    """A machine in the machine: its own mounts, its own network that leads nowhere, its own images.

    Args:
        folder: of its images and containers.
        process: that its namespaces live as long as.
    """

    folder: Path
    process: int

    def command(self, *words: str) -> list[str]:
        """A command on it."""
        return ["nsenter", f"--target={self.process}", "--mount", "--net", *words]

    def environment(self, **more: str) -> dict[str, str]:
        """Where Podman keeps everything, and no variable of the tests."""
        own = {
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder)} | own | more

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself, whatever it ends with."""
        return subprocess.run(
            self.command(*words),
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def must(self, *words: str, **environment: str) -> str:
        """The same of one that has to succeed; what it says on stdout."""
        done = self.run(*words, **environment)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout


@contextmanager
def container_host(folder: Path) -> Iterator[ContainerHost]:
    """Make the host; at the end it is gone with its containers and images."""
    folder.mkdir()
    (folder / "containers.conf").write_text(_CONFIGURATION)
    driver = os.environ.get("STORAGE_DRIVER", "overlay")
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{folder / "images"}"\nrunroot = "{folder / "run"}"\n'
    )
    # crun does not start where both versions of cgroups are mounted, not even without using them.
    script = "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && ip link set lo up && echo && exec cat"
    holder = subprocess.Popen(
        ["unshare", "--mount", "--net", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n", "the namespaces cannot be made"
        host = ContainerHost(folder, holder.pid)
        yield host
        host.run("podman", "rm", "--all", "--force")
    finally:
        holder.communicate(b"")
        shutil.rmtree(folder)


def bootstrap(suite: str, *packages: str, into: Path) -> None:
    """A Debian, as small as it gets, from this machine's mirror.

    Args:
        into: a tar archive, or a folder.
    """
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", suite, str(into)],
        check=True,
        stdin=subprocess.DEVNULL,
    )


def container_options(unit: Path, *, instance: str = "") -> Sequence[str]:
    """What a Quadlet asks for, as options of `podman run`: all but network, volumes, name and the limits of cgroups.

    Raises:
        KeyError: it has a key that this does not know.
    """
    takes = {
        "ReadOnly": lambda value: [f"--read-only={value}"],
        "NoNewPrivileges": lambda value: ["--security-opt=no-new-privileges"] if value == "true" else [],
        "DropCapability": lambda value: [f"--cap-drop={value}"],
        "Tmpfs": lambda value: [f"--tmpfs={value}"],
        "ShmSize": lambda value: [f"--shm-size={value}"],
        "Secret": lambda value: [f"--secret={value}"],
        "Pull": lambda value: [f"--pull={value}"],
        "Environment": lambda value: [f"--env={value}"],
        "PodmanArgs": lambda value: value.split(),
    }
    elsewhere = {"Image", "ContainerName", "Exec", "PidsLimit", "Volume", "PublishPort", "HealthOnFailure"}
    text = unit.read_text().partition("[Container]")[2].partition("\n[")[0]
    lines = [line.partition("=") for line in text.splitlines() if line and not line.startswith("#")]
    users = {key: value for key, _, value in lines if key in {"User", "Group"}}
    options = [f"--user={users['User']}:{users['Group']}"]
    for key, _, value in lines:
        if key not in elsewhere | users.keys():
            options += takes[key](value.replace("%i", instance))
    return options


def read_unit(path: Path) -> configparser.ConfigParser:
    """A systemd unit, or a Quadlet."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    assert unit.read(path), path
    return unit
