"""What the files in `deploy/containers` say: who runs what, with which rights, and from which files."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import stic_core
from stic_client.cli import app as client_app
from stic_server.cli.options import app as server_app
from support.containers import FILES, container_options, read_unit

TREE = Path(__file__).parents[2]
SIDES = ("server", "client")
APPS = {"server": server_app, "client": client_app}
QUADLETS = {"server": "stic-server.container", "client": "stic-client@.container"}
USER = "10001"


def _instructions(side: str) -> list[tuple[str, str]]:
    """A Containerfile's instructions in their order."""
    text = (FILES / f"{side}.Containerfile").read_text()
    whole = re.sub(r"\s*\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [tuple(line.split(maxsplit=1)) for line in whole.splitlines() if line]  # type: ignore[misc]


def _only(side: str, name: str) -> str:
    (value,) = (value for instruction, value in _instructions(side) if instruction == name)
    return value


def _service(side: str) -> dict[str, Any]:
    return yaml.safe_load((FILES / "compose.yaml").read_text())["services"][side]


@pytest.mark.parametrize("side", SIDES)
def test_an_image_is_made_of_a_bundle_on_a_base_that_the_builder_names(side: str) -> None:
    """Two stages on the same base, of which the last takes what was installed, and of no other registry."""
    made = _instructions(side)
    assert made[0] == ("ARG", "BASE=docker.io/library/python:3.11-slim-bookworm")
    assert [value for name, value in made if name == "FROM"] == ["${BASE} AS install", "${BASE}"]
    assert ("COPY", "--from=install /opt/stic /opt/stic") in made
    assert not any(name == "ADD" or "http" in value for name, value in made)


@pytest.mark.parametrize("side", SIDES)
def test_an_image_runs_as_a_user_without_rights(side: str) -> None:
    """A number, no name that a base may give to somebody else; nothing is made after that as another."""
    made = _instructions(side)
    assert _only(side, "USER") == f"{USER}:{USER}"
    after = made[made.index(("USER", f"{USER}:{USER}")) :]
    assert {name for name, _ in after}.isdisjoint({"RUN", "COPY", "ADD"})
    assert _only(side, "VOLUME") == "/var/lib/stic"
    assert "STIC_HOME=/var/lib/stic " in _only(side, "ENV")


@pytest.mark.parametrize("side", SIDES)
def test_an_image_is_labelled(side: str) -> None:
    """With OCI's names: title, version, revision, base and licence."""
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', _only(side, "LABEL")))
    assert labels.pop("title") == f"STIC-Federated {side}"
    assert labels.pop("description")
    assert labels == {
        "version": "${VERSION}",
        "revision": "${REVISION}",
        "base.name": "${BASE}",
        "licenses": "Apache-2.0",
    }


@pytest.mark.parametrize("side", SIDES)
def test_the_command_lines_are_the_programs_own(side: str) -> None:
    """Entry point, command, Compose's and the Quadlet's: each is one that the program knows."""
    assert json.loads(_only(side, "ENTRYPOINT")) == [f"/opt/stic/bin/stic-{side}"]
    assert "$target/bin/stic-$SIDE" in (TREE / "deploy" / "offline" / "install.sh").read_text()
    lines = [json.loads(_only(side, "CMD"))]
    if side == "client":
        lines += [
            _service(side)["command"],
            read_unit(FILES / "quadlet" / QUADLETS[side])["Container"]["Exec"].split(),
        ]
    for line in lines:
        done = CliRunner().invoke(APPS[side], [*line, "--help"])
        assert done.exit_code == 0, done.output


def test_both_images_are_built_alike() -> None:
    """What is done before the user is named differs in the words of the labels alone."""
    parts = [[one for one in _instructions(side) if one[0] != "LABEL"][:10] for side in SIDES]
    assert parts[0] == parts[1]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("code", "well"), [(0, True), (1, False), (2, True)])
def test_only_a_program_that_does_not_serve_is_ill(side: str, code: int, well: bool, tmp_path: Path) -> None:
    """The health check asks the program's own `health`; that no port is configured is no reason to kill it."""
    command = re.search(r"CMD (/opt/stic/bin/.*)", _only(side, "HEALTHCHECK"))
    assert command is not None
    asked = tmp_path / f"stic-{side}"
    asked.write_text(f'#!/bin/sh\necho "$@"\nexit {code}\n')
    asked.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", command[1].replace("/opt/stic/bin", str(tmp_path))],
        env={"PATH": "/usr/bin:/bin", "STIC_SITE": "center2"},
        capture_output=True,
        text=True,
        check=False,
    )
    words = done.stdout.split()
    assert words == (["--site", "center2", "health"] if side == "client" else ["health"])
    assert CliRunner().invoke(APPS[side], [*words, "--help"]).exit_code == 0
    assert (done.returncode == 0) is well


def test_the_site_to_ask_is_the_one_that_runs() -> None:
    """Compose and Quadlet name it to the health check as to the program."""
    assert _service("client")["environment"]["STIC_SITE"] == "${SITE:-}"
    options = container_options(FILES / "quadlet" / QUADLETS["client"], instance="center2")
    assert "--env=STIC_SITE=center2" in options


@pytest.mark.parametrize("side", SIDES)
def test_compose_hardens_a_service(side: str) -> None:
    """Read-only, no capability, no new privileges, and nothing to write to but its volume and /tmp."""
    service = _service(side)
    assert (
        service["image"]
        == f"localhost/stic-{side}:${{STIC_VERSION:-{stic_core.__version__}}}-${{STIC_ACCELERATOR:-cu13}}"
    )
    assert (service["read_only"], service["user"]) == (True, f"{USER}:{USER}")
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert [one.partition(":")[0] for one in service["tmpfs"]] == ["/tmp"]
    writable = [one for one in service["volumes"] if not (isinstance(one, dict) and one["read_only"])]
    assert writable == [f"{side}:/var/lib/stic"]
    assert ("ports" in service) is (side == "server")


def test_compose_mounts_the_key_as_a_secret_of_the_user() -> None:
    """For the client's user alone, as the program demands of a private key."""
    (secret,) = _service("client")["secrets"]
    assert (secret["uid"], secret["gid"], secret["mode"]) == (USER, USER, 0o400)


@pytest.mark.parametrize("side", SIDES)
def test_a_quadlet_hardens_its_container(side: str) -> None:
    """The same in Podman's words."""
    path = FILES / "quadlet" / QUADLETS[side]
    options = container_options(path, instance="center2")
    assert {
        f"--user={USER}:{USER}",
        "--read-only=true",
        "--read-only-tmpfs=false",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--pull=never",
    } <= set(options)
    unit = read_unit(path)
    assert unit["Container"]["Image"] == f"localhost/stic-{side}:{stic_core.__version__}-cu13"
    volumes = re.findall(r"^Volume=(.*)$", path.read_text(), flags=re.MULTILINE)
    assert [one for one in volumes if not one.endswith(":ro")] == [f"stic-{side}.volume:/var/lib/stic"]
    assert (FILES / "quadlet" / f"stic-{side}.volume").exists()
    assert unit["Service"]["Restart"] == "on-failure"
    assert unit["Service"]["RestartPreventExitStatus"] == "2 3"


def test_a_quadlet_hands_the_key_to_its_user() -> None:
    """Of the site that the unit's instance names."""
    options = container_options(FILES / "quadlet" / QUADLETS["client"], instance="center2")
    assert f"--secret=stic-center2-key,type=mount,target=site.key,uid={USER},gid={USER},mode=0400" in options


def test_gpus_come_by_the_device_interface_everywhere() -> None:
    """CDI, which names the device nodes: a daemon-reload then leaves them to the container."""
    compose = yaml.safe_load((FILES / "compose.gpu.yaml").read_text())
    assert compose["services"]["client"]["devices"] == ["nvidia.com/gpu=all"]
    drop_in = read_unit(FILES / "quadlet" / "stic-client@.container.d" / "gpu.conf")
    assert drop_in["Container"]["AddDevice"] == "nvidia.com/gpu=all"


@pytest.mark.parametrize("side", SIDES)
def test_a_bundle_is_the_build_s_whole_context(side: str, tmp_path: Path) -> None:
    """The side's own Containerfile, how to build it and how to run it; nothing that the checksums name is ignored."""
    specification = importlib.util.spec_from_file_location("make_bundle", TREE / "scripts" / "make_bundle.py")
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    script._add_container_files(tmp_path, side=side)
    for name in (
        "SHA256SUMS",
        "bundle.env",
        "requirements.lock",
        "sbom.cdx.json",
        "install.sh",
        "wheels/a-1.whl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert (tmp_path / "Containerfile").read_text() == (FILES / f"{side}.Containerfile").read_text()
    allowed = [
        line.removeprefix("!")
        for line in (tmp_path / ".containerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    found = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    ignored = [
        name
        for name in found
        if not any(fnmatch.fnmatch(name, one) or name.startswith(f"{one}/") for one in allowed)
    ]
    assert ignored == []
    assert {"containers/compose.yaml", "containers/quadlet/stic-client@.container.d/gpu.conf"} <= set(found)


class TestBuildImage:
    """`build-image.sh`, which the hospital starts."""

    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        """A bundle of which only the description is there, and an engine that says what it is asked to do."""
        folder = tmp_path / "bundle"
        folder.mkdir()
        shutil.copy2(FILES / "build-image.sh", folder)
        (folder / "bundle.env").write_text("SIDE=client\nVERSION=1.0\nACCELERATOR=cu13\nREVISION=abc\n")
        for name in ("podman", "buildah", "docker"):
            engine = tmp_path / "bin" / name
            engine.parent.mkdir(exist_ok=True)
            engine.write_text('#!/bin/sh\necho "$(basename "$0")" "$@"\n')
            engine.chmod(0o755)
        return folder

    def build(self, bundle: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it."""
        whole = {"PATH": f"{bundle.parent / 'bin'}:/usr/bin:/bin"} | environment
        return subprocess.run(
            [bundle / "build-image.sh", *arguments], env=whole, capture_output=True, text=True, check=False
        )

    @pytest.mark.parametrize("engine", ["podman", "buildah", "docker"])
    def test_it_passes_on_what_the_image_is_labelled_with(self, bundle: Path, engine: str) -> None:
        """Base, version and revision; in a format that has health checks; the name of the image is its last line."""
        base = "docker.io/library/python@sha256:" + "0" * 64
        done = self.build(bundle, base, ENGINE=engine)
        assert done.returncode == 0, done.stderr
        command, last = done.stdout.splitlines()
        assert command.startswith(f"{engine} build ")
        for argument in (f"BASE={base}", "VERSION=1.0", "REVISION=abc"):
            assert f"--build-arg {argument} " in command
        assert ("--format docker" in command) is (engine != "docker")
        assert last == "done: localhost/stic-client:1.0-cu13"

    @pytest.mark.parametrize(
        ("arguments", "environment"),
        [
            ((), {}),
            (("python:3.11-slim",), {}),
            (("localhost/base",), {"ENGINE": "rkt"}),
            (("localhost/base",), {"PATH": ""}),
        ],
    )
    def test_wrong_usage_is_refused(
        self, bundle: Path, arguments: tuple[str, ...], environment: dict[str, str]
    ) -> None:
        """No base, one without its digest, an unknown engine, none at all: one line, and exit code 2."""
        if environment.get("PATH") == "":
            tools = bundle.parent / "tools"
            tools.mkdir()
            for name in ("dirname", "sh"):
                (tools / name).symlink_to(shutil.which(name) or name)
            environment = {"PATH": str(tools)}
        done = self.build(bundle, *arguments, **environment)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("build-image.sh: ")

    @pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not on this machine")
    def test_it_is_a_sound_shell_script(self) -> None:
        """ShellCheck has nothing to say, and it can be started."""
        done = subprocess.run(
            ["shellcheck", str(FILES / "build-image.sh")], capture_output=True, text=True, check=False
        )
        assert done.stdout == ""
        assert os.access(FILES / "build-image.sh", os.X_OK)
