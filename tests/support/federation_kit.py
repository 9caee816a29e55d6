"""Small real parts for tests: prepared sites, in-process participants, a whole federation on disk."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from stic_client.participation.participant import Participant
from stic_core import config_files
from stic_core.config import FederationConfig, ImageConfig, ModelConfig, SiteConfig
from stic_core.data.dataset import Split, write_dataset
from stic_core.models.parameters import get_flat, trainable_specs
from stic_core.models.pretrained import TinyBackbone
from stic_core.models.saved import write_model
from stic_core.models.stic import network_of
from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import Instruction, decode_instruction, encode
from stic_core.system.keys import make_key_pair
from stic_core.tasks import TASKS
from stic_server.admission.registry import admit
from stic_server.federation.sites import Exchange, LeftOut, RunObserver, read_answer
from stic_server.setup import NewFederation, initialise
from support.accidents import Accident
from support.programs import ForkedProgram, Process
from support.waiting import PATIENCE_S

CLASSES = TASKS["malignant"].classes


def write_tiny_weights(path: Path, *, seed: int = 0) -> Path:
    """Random weights of the tiny backbone: enough for a path that is real, not for a diagnosis."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = TinyBackbone()
        for module in backbone.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)  # keeps the signal through seven layers
        save_file(backbone.state_dict(), path)
    return path


def write_site_dataset(
    folder: Path, *, seed: int, counts: Mapping[str, int] = {"train": 6, "val": 6, "test": 12}
) -> None:
    """A prepared dataset of random images with a brightness that depends on the class."""
    rng = np.random.default_rng(seed)
    labels: list[str] = []
    splits: list[Split] = []
    for split in ("train", "val", "test"):
        for number in range(counts.get(split, 0)):
            labels.append(CLASSES[number % len(CLASSES)])
            splits.append(split)
    level = np.array([60 + 60 * CLASSES.index(label) for label in labels])[:, None, None, None]
    images = np.clip(rng.normal(level, 30, (len(labels), 224, 224, 3)), 0, 255).astype(np.uint8)
    clinical = (rng.random((len(labels), 20)) < 0.3).astype(np.float32)
    write_dataset(
        folder,
        images=[images],
        clinical=clinical,
        labels=labels,
        splits=splits,
        subjects=[f"P{seed}-{number}" for number in range(len(labels))],
        image=ImageConfig(),
        phantom=True,
    )


def write_small_model(folder: Path, *, backbone: Path, **facts: object) -> Path:
    """A model's folder as a run leaves it: fresh weights behind the tiny backbone, and other facts of it."""
    model = ModelConfig(backbone="tiny")
    head = network_of(model, classes=len(CLASSES), seed=5, weights=backbone).head
    write_model(
        folder,
        get_flat(head),
        tensors=trainable_specs(head),
        task=TASKS["malignant"],
        model=model,
        image=ImageConfig(),
        **facts,
    )
    return folder


class InProcessSites:
    """`sites.Sites` with participants in this process; every message goes through its JSON text."""

    def __init__(self, participants: Mapping[str, Participant]) -> None:
        self.participants = dict(participants)
        self.asked: list[Instruction] = []

    @property
    def public_keys(self) -> dict[str, str]:
        """The participants' public keys by site, as a plan names them."""
        return {
            site: one.config.key.with_suffix(".pub").read_text().strip()
            for site, one in self.participants.items()
        }

    def present(self) -> list[str]:
        """All are there always."""
        return sorted(self.participants)

    def wait_for(self, *, at_least: int, timeout: float, apart_from: Collection[str] = ()) -> list[str]:
        """All are there at once."""
        return sorted(self.participants)

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: WireArray | None, timeout: float
    ) -> Exchange:
        """One after the other."""
        answers = {}
        for site, question in questions.items():
            self.asked.append(question)
            report, trained = self.participants[site].answer(
                decode_instruction(encode(question)), None if weights is None else weights.copy()
            )
            answers[site] = read_answer(encode(report), trained)
        return Exchange(answers)


@dataclass
class Recorder(RunObserver):
    """An observer that keeps what it is told."""

    notes: list[str] = field(default_factory=list)
    rows: list[Mapping[str, object]] = field(default_factory=list)
    seen_parts: list[Mapping[str, str]] = field(default_factory=list)
    seen_left_out: list[tuple[str, LeftOut]] = field(default_factory=list)

    def left_out(self, site: str, kind: LeftOut) -> None:
        """Keep it."""
        self.seen_left_out.append((site, kind))

    def parts(self, parts: Mapping[str, str]) -> None:
        """Keep it."""
        self.seen_parts.append(parts)

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)

    def round_done(self, row: Mapping[str, object], *, rounds: int) -> None:
        """Keep it."""
        self.rows.append(row)


def site_config(folder: Path, *, site: str, address: str = "127.0.0.1:1") -> SiteConfig:
    """A site's configuration for its prepared dataset in `folder/prepared`."""
    return SiteConfig.model_validate(
        {
            "site": site,
            "server": {"address": address},
            "dataset": {"root": folder, "prepared": folder / "prepared"},
            "device": "cpu",
            "audit": folder / "audit.jsonl",
            "models": folder / "models",
            "plans": folder / "plans",
            "between_rounds": folder / "between-rounds",
            "held_out": folder / "held-out",
            "privacy": folder / "privacy",
            "key": folder / "site.key",
            "policy": {"plans": "any"},
            "backbone_weights": {"tiny": write_tiny_weights(folder / "tiny.safetensors")},
        }
    )


def participant(
    folder: Path, *, site: str, seed: int, counts: Mapping[str, int] | None = None
) -> Participant:
    """A participant with a prepared dataset of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    write_site_dataset(folder / "prepared", seed=seed, **({"counts": counts} if counts else {}))
    make_key_pair(folder / "site.key")
    return Participant(site_config(folder, site=site))


@dataclass(frozen=True)
class Home:
    """A `STIC_HOME` with a server and enrolled sites, ready for real processes.

    Args:
        intervals: of `STIC_INTERVALS`. At a half a site is missed after 20 s of silence, which no load
            makes of a site that is alive; a test that waits until one is missed takes a tenth.
    """

    path: Path
    port: int
    intervals: float = 0.5

    @property
    def federation(self) -> Path:
        """federation.yaml."""
        return self.path / "server" / "federation.yaml"

    def site(self, name: str) -> Path:
        """A site's folder."""
        return self.path / "sites" / name

    def edit(self, path: Path, **changes: object) -> None:
        """Change keys of a YAML file; `a__b` is key b of a."""
        data = yaml.safe_load(path.read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            target = data
            for parent in parents:
                target = target.setdefault(parent, {})
            target[last] = value
        path.write_text(yaml.safe_dump(data))

    def environment(self) -> dict[str, str]:
        """Where this home is, and one thread a process."""
        own = {
            "STIC_HOME": str(self.path),
            "STIC_INTERVALS": str(self.intervals),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        return os.environ | own

    def rounds(self) -> list[dict[str, Any]]:
        """`rounds.jsonl` of all runs, as far as its lines are whole."""
        found = sorted((self.path / "runs").glob("*/rounds.jsonl"))
        lines = [line for path in found for line in path.read_text().splitlines(keepends=True)]
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def run_folder(self) -> Path:
        """Of the one run."""
        (run,) = (self.path / "runs").glob("*/record.json")
        return run.parent

    def run(self, program: str, *arguments: str, script: bool = False) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself.

        Args:
            script: start the console script instead of forking; see `running`.
        """
        command, pipe = self._command(program, *arguments), subprocess.PIPE
        if script:
            process: Process = subprocess.Popen(
                command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
            )
        else:
            process = ForkedProgram(command, environment=self.environment(), stdout=pipe, stderr=pipe)
        out, err = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(command, process.wait(), out, err)

    @contextmanager
    def running(
        self,
        program: str,
        *arguments: str,
        script: bool = False,
        environment: Mapping[str, str] = MappingProxyType({}),
        output: Path | None = None,
        host: str | None = None,
        accident: Accident | None = None,
    ) -> Iterator[Process]:
        """A command that is stopped at the end, if it runs still.

        Args:
            script: start the console script beside this Python, which then imports for seconds all that
                the fork server has imported already. A few tests do, so that it is known to work.
            environment: variables beside the usual ones.
            output: file that takes stdout and stderr, for a command that nobody reads; a full pipe
                would stop it. None is a pipe.
            host: network namespace that it runs in; not for a script.
            accident: what befalls it; not for a script.
        """
        command, whole = self._command(program, *arguments), self.environment() | dict(environment)
        with output.open("a") if output is not None else nullcontext(subprocess.PIPE) as stdout:
            if script:
                process: Process = subprocess.Popen(
                    command,
                    env=whole,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            else:
                process = ForkedProgram(
                    command,
                    environment=whole,
                    stdout=stdout,
                    stderr=subprocess.STDOUT,
                    host=host,
                    accident=accident,
                )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name(program)), *arguments]


def free_port() -> int:
    """A TCP port that nobody uses at the moment.

    Not one of those that the kernel gives to outgoing connections (32768 and up), of which the tests make many:
    between this look and the server's start it would give it away.
    """
    while True:
        port = 15_000 + secrets.randbelow(17_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def make_home(
    path: Path,
    *,
    sites: Sequence[str] = ("center1", "center2"),
    rounds: int = 2,
    admitted: bool = True,
    names: Sequence[str] = ("localhost", "127.0.0.1"),
    intervals: float = 0.5,
) -> Home:
    """A server and enrolled sites with prepared random datasets and the tiny backbone."""
    from stic_client.connection.enroll import enroll

    port = free_port()
    new = NewFederation(
        name="test",
        host="127.0.0.1",
        port=port,
        names=names,
        backbone="tiny",
        rounds=rounds,
        local_epochs=1,
        views=1,
        min_sites=len(sites),
        join_timeout_s=PATIENCE_S,
        join_grace_s=20,
        runs=path / "runs",
    )
    initialise(path / "server", new)
    home = Home(path, port, intervals)
    for number, name in enumerate(sites):
        folder = home.site(name)
        made = enroll(
            folder,
            site=name,
            address=f"127.0.0.1:{port}",
            ca=path / "server" / "ca.crt",
            root=folder,
            crop_mm=None,
        )
        write_site_dataset(folder / "prepared", seed=number)
        weights = write_tiny_weights(folder / "tiny.safetensors")
        home.edit(
            folder / "site.yaml", backbone_weights={"tiny": str(weights)}, device="cpu", policy__plans="any"
        )
        config_files.load(folder / "site.yaml", SiteConfig)
        if admitted:
            admit(path / "server" / "sites", name=name, public_key=made.public_key)
    config_files.load(home.federation, FederationConfig)
    return home
