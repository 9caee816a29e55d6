"""Simulations on Ray: the same figures to the last bit, on several workers; Ctrl-C leaves no process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.federation_kit import write_site_dataset, write_tiny_weights
from support.ray_room import ray_room
from support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.deploy

SITES = ("center1", "center2")


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What Ray leaves is removed."""
    with ray_room() as room:
        for name, value in room.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a simulation of two sites and two seeds, but for its folder."""
    home = tmp_path_factory.mktemp("study")
    for number, site in enumerate(SITES):
        write_site_dataset(home / site / "prepared", seed=number)
    (home / "federation.yaml").write_text(
        yaml.safe_dump(
            {
                "rounds": 2,
                "model": {"backbone": "tiny"},
                "training": {"views": 1, "batch_size": 4},
                "backbone_weights": {"tiny": str(write_tiny_weights(home / "tiny.safetensors"))},
            }
        )
    )
    prepared = [word for site in SITES for word in ("--prepared", str(home / site / "prepared"))]
    program = str(Path(sys.executable).with_name("stic-server"))
    return [program, "simulate", "--config", str(home / "federation.yaml"), "--seeds", "0,1", *prepared]


def simulation(command: list[str], out: Path, *options: str) -> dict:
    """`simulation.json` of a finished command."""
    done = subprocess.run(
        [*command, "--out", str(out), *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads((out / "simulation.json").read_text())


def test_ray_computes_the_same_figures(study: list[str], tmp_path: Path) -> None:
    """Digests, scores and cautions of each seed; seconds differ, and the bytes of the text that says how many."""
    here = simulation(study, tmp_path / "process")
    there = simulation(study, tmp_path / "ray", "--engine", "ray")
    for found in (here, there):
        for result in found["results"].values():
            assert result["model_digest"]
            del result["wall_seconds"], result["bytes_a_round"], result["run"]
    assert there["results"] == here["results"]
    assert there["summary"] == here["summary"]


def test_ctrl_c_ends_all_of_it(study: list[str], tmp_path: Path) -> None:
    """Exit code 130, no traceback, and none of Ray's processes is left."""
    mark = f"STIC_TEST_MARK={tmp_path}"
    name, _, value = mark.partition("=")
    command = [*study, "--out", str(tmp_path / "out"), "--engine", "ray"]
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(command, stderr=err, env=os.environ | {name: value}, text=True)
    until(
        lambda: "rounds of the federation" in (tmp_path / "err").read_text(),
        what="a first round",
        alive=process,
    )
    assert _processes(mark)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    assert "Traceback" not in (tmp_path / "err").read_text()
    until(lambda: not _processes(mark), what="the end of Ray's processes")


def _processes(mark: str) -> list[str]:
    """Processes with a variable in their environment, which all that a command starts inherit."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found
