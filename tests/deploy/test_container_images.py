"""The container images: built from the bundle, and a federation of them that makes the model that processes make."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import yaml

import stic_core
from stic_core.models.saved import read_model
from stic_core.phantom import write_cohort
from support.containers import (
    FILES,
    ContainerHost,
    bootstrap,
    container_host,
    container_options,
    needs_containers,
    read_unit,
)
from support.federation_kit import free_port
from support.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.deploy, needs_containers, pytest.mark.timeout(7200)]

TREE = Path(__file__).parents[2]
SITES = ("center1", "center2")
USER = 10001
HEALTH_PORTS = {"server": 8081, "center1": 8082, "center2": 8083}
"""Each another, because the test's containers share one network."""
Image = Callable[[str], str]
UNITS = {"server": "stic-server.container", "client": "stic-client@.container"}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerHost]:
    """A machine with a base image of its own and no network."""
    folder = tmp_path_factory.mktemp("containers")
    with container_host(folder / "host") as made:
        bootstrap("bookworm", "python3", "python3-venv", into=made.folder / "base.tar")
        made.must("podman", "import", str(made.folder / "base.tar"), "localhost/base:test")
        (made.folder / "base.tar").unlink()
        yield made


@pytest.fixture(scope="module")
def image(host: ContainerHost) -> Image:
    """The name of a side's image, built once, as docs/deploy/containers.md says; of its bundle nothing stays."""

    @cache
    def build(side: str) -> str:
        bundles = host.folder / "bundles"
        script = str(TREE / "scripts" / "make_bundle.py")
        subprocess.run(
            [sys.executable, script, "--side", side, "--out", str(bundles)], check=True, capture_output=True
        )
        (archive,) = bundles.glob("*.tar")
        with tarfile.open(archive) as tar:
            tar.extractall(bundles, filter="data")
        archive.unlink()
        (folder,) = (path for path in bundles.iterdir() if path.is_dir())
        output = host.must(str(folder / "build-image.sh"), "localhost/base:test", ISOLATION="chroot")
        shutil.rmtree(bundles)
        return output.splitlines()[-1].removeprefix("done: ")

    return build


class Place(ABC):
    """Where the parties of a federation run, each with a `STIC_HOME` of its own.

    Args:
        folder: of their homes.
        data: of the sites' images.
        port: of the server.
    """

    def __init__(self, folder: Path, *, data: Path, port: int) -> None:
        self.folder, self.data, self.port = folder, data, port
        for party in ("server", *SITES):
            self.home(party).mkdir(parents=True)

    def home(self, party: str) -> Path:
        """Of `server` or a site, as the test sees it."""
        return self.folder / party

    @abstractmethod
    def names(self, party: str) -> tuple[Path, Path]:
        """The party's home and data, as it names them itself."""

    @abstractmethod
    def start(self, party: str, *arguments: str) -> subprocess.Popen[str]:
        """Start the party's program."""

    def run(self, party: str, *arguments: str) -> str:
        """The same, to its end."""
        output, _ = (process := self.start(party, *arguments)).communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
        return output

    def send(self, file: Path, *, to: str) -> str:
        """A file reaches another party, as its own; how the party names it."""
        copy = Path(shutil.copy(file, self.home(to)))
        owner = self.home(to).stat()
        os.chown(copy, owner.st_uid, owner.st_gid)
        return str(self.names(to)[0] / copy.name)

    def edit(self, path: Path, **changes: object) -> None:
        """Keys of a YAML file, which keeps its owner."""
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    @abstractmethod
    def enrolled(self, site: str) -> None:
        """What is done with the site's key, once there is one."""

    @abstractmethod
    def await_health(self, party: str) -> None:
        """Wait until the party serves, if anything can tell."""


class Processes(Place):
    """On this machine, from the tests' environment."""

    def names(self, party: str) -> tuple[Path, Path]:
        """See `Place`."""
        return self.home(party), self.data / party

    def start(self, party: str, *arguments: str) -> subprocess.Popen[str]:
        """See `Place`."""
        program = "stic-server" if party == "server" else "stic-client"
        return subprocess.Popen(
            [str(Path(sys.executable).with_name(program)), *arguments],
            env={
                "STIC_HOME": str(self.home(party)),
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": ":".join(sys.path),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def enrolled(self, site: str) -> None:
        """It stays where it is."""

    def await_health(self, party: str) -> None:
        """The clients try again until the server does."""


class Containers(Place):
    """One container per party, with the options of the Quadlets."""

    def __init__(self, folder: Path, *, data: Path, port: int, host: ContainerHost, image: Image) -> None:
        super().__init__(folder, data=data, port=port)
        self._host, self._image = host, image
        for party in ("server", *SITES):
            shutil.chown(self.home(party), USER, USER)

    def names(self, party: str) -> tuple[Path, Path]:
        """See `Place`."""
        return Path("/var/lib/stic"), Path("/data")

    def start(self, party: str, *arguments: str) -> subprocess.Popen[str]:
        """See `Place`."""
        side = "server" if party == "server" else "client"
        options = [
            option
            for option in container_options(FILES / "quadlet" / UNITS[side], instance=party)
            # Until the key is a secret, `enroll` has to make it.
            if not option.startswith("--secret") or self._is_secret(party)
        ]
        if side == "client":
            options.append(f"--volume={self.data / party}:/data:ro")
        return subprocess.Popen(
            self._host.command(
                *("podman", "run", "--rm", "--replace", f"--name=stic-{party}", "--env=OMP_NUM_THREADS=1"),
                # Nobody's clock runs here: the health check is called by the test.
                *("--health-interval=disable", f"--volume={self.home(party)}:/var/lib/stic"),
                *(*options, self._image(side), *arguments),
            ),
            env=self._host.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _is_secret(self, party: str) -> bool:
        return self._host.run("podman", "secret", "inspect", f"stic-{party}-key").returncode == 0

    def enrolled(self, site: str) -> None:
        """The key becomes a secret, and leaves the volume."""
        folder = self.home(site) / "sites" / site
        self._host.must("podman", "secret", "create", f"stic-{site}-key", str(folder / "site.key"))
        (folder / "site.key").unlink()
        self.edit(folder / "site.yaml", key="/run/secrets/site.key")

    def await_health(self, party: str) -> None:
        """The image's health check comes to say so."""
        check = ("podman", "healthcheck", "run", f"stic-{party}")
        until(lambda: self._host.run(*check).returncode == 0, what="the health check")


def federate(place: Place) -> str:
    """A federation of two rounds, each file sent as people would send it; the digest of its model."""
    server = place.home("server") / "server"
    place.run("server", "init", "--port", str(place.port), "--backbone", "tiny")
    federation = yaml.safe_load((server / "federation.yaml").read_text())
    place.edit(
        server / "federation.yaml",
        rounds=2,
        monitoring={"health_port": HEALTH_PORTS["server"]},
        training=federation["training"] | {"views": 1, "local_epochs": 1},
    )
    for site in SITES:
        folder = place.home(site) / "sites" / site
        address = ("--server", f"127.0.0.1:{place.port}", "--ca", place.send(server / "ca.crt", to=site))
        place.run(site, "--site", site, "enroll", *address, "--data", str(place.names(site)[1]))
        place.edit(folder / "site.yaml", device="cpu", monitoring={"health_port": HEALTH_PORTS[site]})
        place.enrolled(site)
        place.run("server", "admit", site, place.send(folder / "site.pub", to="server"))
        place.run(site, "--site", site, "prepare")
    place.run("server", "plan", "--out", str(place.names("server")[0] / "plan.json"))
    for site in SITES:
        plan = place.send(place.home("server") / "plan.json", to=site)
        place.run(site, "--site", site, "approve", plan, "--yes")
    with ExitStack() as stack:
        programs = [stack.enter_context(place.start("server", "start", "--log", "json"))]
        place.await_health("server")
        for site in SITES:
            programs.append(stack.enter_context(place.start(site, "--site", site, "--once", "--log", "json")))
            if site == SITES[0]:  # which waits for the other
                place.await_health(site)
        for program in programs:
            output, _ = program.communicate(timeout=PATIENCE_S)
            assert program.returncode == 0, output
    (run,) = (server / "runs").iterdir()
    assert (run / "report.html").exists()
    return read_model(run / "model").description.digest


@pytest.fixture(scope="module")
def tools(host: ContainerHost) -> str:
    """An image with a Podman that knows Quadlets, and with Docker's Compose."""
    archive = host.folder / "tools.tar"
    bootstrap("trixie", "podman", "docker-compose", into=archive)
    host.must("podman", "import", str(archive), "localhost/tools:test")
    archive.unlink()
    return "localhost/tools:test"


def test_podman_and_compose_take_the_files(host: ContainerHost, tools: str) -> None:
    """Podman makes a unit of each Quadlet, with the GPU where its drop-in is; Compose finds every key in its schema."""
    run = ("podman", "run", "--rm", f"--volume={FILES}/quadlet:/etc/containers/systemd:ro", tools)
    units = host.must(*run, "/usr/libexec/podman/quadlet", "-dryrun")
    starts = [line for line in units.splitlines() if line.startswith("ExecStart=/usr/bin/podman run ")]
    assert len(starts) == len(UNITS)
    for line in starts:
        assert {"--read-only", "--cap-drop", "--security-opt=no-new-privileges"} <= set(line.split())
        assert ("nvidia.com/gpu=all" in line) is ("stic-client" in line)
    compose = (
        "podman",
        "run",
        "--rm",
        f"--volume={FILES}:/files:ro",
        "--workdir=/files",
        "--env=SITE=center2",
        tools,
    )
    both = (
        "docker-compose",
        "--file=compose.yaml",
        "--file=compose.gpu.yaml",
        "--profile=client",
        "--profile=server",
    )
    host.must(*compose, *both, "config", "--quiet")


@pytest.mark.parametrize("side", UNITS)
def test_an_image_says_what_it_is_and_can_change_nothing(
    side: str, host: ContainerHost, image: Image
) -> None:
    """Version, revision, user, health check and bill of materials; nothing that its user could write to."""
    name = image(side)
    assert name == f"localhost/stic-{side}:{stic_core.__version__}-cu13"
    assert read_unit(FILES / "quadlet" / UNITS[side])["Container"]["Image"] == name
    (about,) = json.loads(host.must("podman", "image", "inspect", name))
    labels = about["Labels"]
    assert labels["org.opencontainers.image.version"] == stic_core.__version__
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=TREE, capture_output=True, text=True, check=True
    )
    assert labels["org.opencontainers.image.revision"].removesuffix("-dirty") == commit.stdout.strip()
    assert about["User"] == f"{USER}:{USER}"
    assert about["Healthcheck"]["Test"][0] == "CMD-SHELL"
    options = [one for one in container_options(FILES / "quadlet" / UNITS[side]) if "secret" not in one]
    disabled = ("--health-interval=disable", "--entrypoint=sh")
    run = ("podman", "run", "--rm", *disabled, *options, name, "-c")
    writable = host.must(*run, "find / -xdev -writable ! -type l 2>/dev/null || true").split()
    assert sorted(writable) == ["/tmp", "/var/lib/stic"]
    bill = json.loads(host.must(*run, "cat /usr/share/doc/stic/sbom.cdx.json"))
    assert bill["bomFormat"] == "CycloneDX"


def test_containers_make_the_model_that_processes_make(
    host: ContainerHost, image: Image, tmp_path: Path
) -> None:
    """One server and two clients, read-only, without root, privileges or a network: bit for bit the same model."""
    data = tmp_path / "exports"
    for site in SITES:
        counts = {"train": 8, "val": 4, "test": 6}
        write_cohort(data / site, centre=site, seed=0, counts=counts, workers=2)
    inside = Containers(tmp_path / "containers", data=data, port=8443, host=host, image=image)
    outside = Processes(tmp_path / "processes", data=data, port=free_port())
    assert federate(inside) == federate(outside)
