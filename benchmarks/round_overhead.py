"""What a round costs beside the sites' computing: real processes, TLS, node keys, 12.9 MB each way.

    python benchmarks/round_overhead.py [--sites 2] [--rounds 12]

The sites answer at once and train nothing; all else is the product's: session, checkpoints,
digests, checks of every update, audit logs on both sides, Flower's protocol behind its guard.
The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stic_client.participation.masked_rounds import MaskedRounds
from stic_client.participation.opened_rounds import OpenedRounds
from stic_core.config import FederationConfig, ImageConfig, SecureAggregationConfig
from stic_core.data.dataset import SPLITS
from stic_core.evaluation import ValidationReport
from stic_core.protocol.audit_log import AuditLog, entry_of
from stic_core.protocol.mask_messages import MaskKeys, MaskShares, Survivors, Unmask
from stic_core.protocol.messages import (
    Acknowledged,
    Describe,
    Failure,
    Finish,
    RoundReport,
    RunPlan,
    SiteDescription,
    SplitCounts,
    TrainRound,
)
from stic_core.statistics import NotEstimable
from stic_core.system.keys import load_private, make_key_pair
from stic_core.system.observer import Observer
from stic_core.tensors.flat import digest

NOBODY = NotEstimable("a benchmark has no patients")


class Echo:
    """A participant that sends back what it got, and logs it as a real one does.

    Args:
        log: the site's.
        name: the site's.
        folder: for what it keeps of a run with secure aggregation, and for its key.
    """

    def __init__(self, log: AuditLog, *, name: str, folder: Path) -> None:
        self.finished: str | None = None
        self._log, self._name, self._folder = log, name, folder
        self._plan: RunPlan
        self._masks: MaskedRounds | None = None

    def answer(self, instruction, weights):  # noqa: ANN001, ANN201  the participant's own signature
        """Answer at once."""
        report, trained = self._answer(instruction, weights)
        names = tuple(spec.name for spec in self._plan.tensors)
        common = {
            "run": instruction.run_id,
            "round_number": getattr(instruction, "round", 0),
            "tensors": names,
            "decision": "answered",
        }
        self._log.append(entry_of("in", "server", instruction, weights, **common))
        self._log.append(entry_of("out", "server", report, trained, **common))
        return report, trained

    def _answer(self, instruction, weights):  # noqa: ANN001, ANN202  as above
        match instruction:
            case Describe():
                self._plan = instruction.plan
                if self._plan.secure_aggregation is not None:
                    self._masks = self._masked_rounds(instruction)
                classes = self._plan.task.classes
                return SiteDescription(
                    patients={
                        split: SplitCounts(n=few * len(classes), classes=dict.fromkeys(classes, few))
                        for split, few in zip(SPLITS, (1, 0, 0), strict=True)
                    },
                    quarantined=0,
                    fingerprint=hashlib.sha256(self._name.encode()).hexdigest(),
                    test_fingerprint="0" * 64,
                    image=ImageConfig(),
                    phantom=True,
                    backbone_digest="0" * 64,
                    device="cpu",
                    versions={},
                ), None
            case TrainRound():
                began = time.perf_counter()
                following = None
                if self._masks is not None and instruction.train:
                    self._masks.check(instruction)
                    answer, following = self._masks.mask(instruction, base=weights, trained=weights)
                    stated = hashlib.sha256(answer.tobytes()).hexdigest()
                else:
                    answer, stated = weights, digest(weights, self._plan.tensors)
                report = RoundReport(
                    round=instruction.round,
                    validation=ValidationReport(n=0, loss_sum=NOBODY, correct=NOBODY),
                    examples=len(self._plan.task.classes),
                    train_loss=1.0,
                    steps=0,
                    weights_digest=stated,
                    following=following,
                    compute_seconds=time.perf_counter() - began,
                )
                return report, answer
            case MaskKeys() | MaskShares() | Survivors() | Unmask():
                assert self._masks is not None
                return self._masks.answer(instruction, patients=len(self._plan.task.classes)), None
            case Finish():
                self.finished = instruction.status
                return Acknowledged(), None
        return Failure(code="NotInBenchmark"), None

    def _masked_rounds(self, question: Describe) -> MaskedRounds:
        return MaskedRounds(
            site=self._name,
            run_id=question.run_id,
            plan=question.plan,
            key=lambda: load_private(self._folder / "keys" / f"{self._name}.key"),
            folder=self._folder / "between-rounds" / self._name,
            opened=OpenedRounds(self._folder / "opened" / self._name, plan=question.plan.digest),
        )


def site(folder: Path, name: str, port: int) -> None:
    """One site's process."""
    from stic_client.flower_app import client_app
    from stic_client.flower_link import FleetLink

    participant = Echo(AuditLog(folder / f"{name}-audit.jsonl"), name=name, folder=folder)
    link = FleetLink(
        f"127.0.0.1:{port}",
        ca=folder / "ca.crt",
        key=load_private(folder / "keys" / f"{name}.key"),
        state=folder / f"{name}.json",
        observer=Observer(),
    )
    link.serve(
        client_app(participant),  # pyright: ignore[reportArgumentType] - it answers as a participant does
        node_config={},
        until=lambda: participant.finished is not None,
    )


def server(
    folder: Path, *, sites: int, rounds: int, port: int | None = None, masked: bool = False
) -> dict[str, Any]:
    """The server's process, and the sites' as its children.

    Args:
        port: where it listens; None is one that is free.
        masked: with secure aggregation.
    """
    from flwr.serverapp import Grid

    from stic_server import flower_sites
    from stic_server.admission.certificates import make_certificates
    from stic_server.admission.registry import admit
    from stic_server.federation.participants import Participants
    from stic_server.federation.plan import training_of
    from stic_server.federation.run_folder import RunFolder
    from stic_server.federation.sites import AuditedSites, RunLimits, RunObserver
    from stic_server.federation.training import Rounds
    from stic_server.flower_link import FleetServer, Listen

    make_certificates(folder, names=["127.0.0.1"])
    names = [f"site{number}" for number in range(sites)]
    for name in names:
        admit(folder / "sites", name=name, public_key=make_key_pair(folder / "keys" / f"{name}.key"))
    port = port or _free_port()
    listener = FleetServer(
        Listen("127.0.0.1", port, folder / "server.crt", folder / "server.key", folder / "ca.crt")
    )
    listener.watch(folder / "sites")
    listener.start()
    children = [
        subprocess.Popen([sys.executable, __file__, "--as-site", name, str(folder), str(port)])
        for name in names
    ]
    federation = FederationConfig(
        rounds=rounds,
        runs=folder / "runs",
        min_sites=sites,
        local_only=False,
        secure_aggregation=SecureAggregationConfig() if masked else None,
    )
    public = {name: (folder / "keys" / f"{name}.pub").read_text().strip() for name in names}
    proposal = training_of(federation, sites=public)
    plan = proposal.plan
    run = RunFolder.begin(federation, plan)
    run.begin_session()

    def train(grid: Grid) -> None:
        reached = flower_sites.FlowerSites(grid, expected=names, grace_s=60, observer=RunObserver())
        limits = RunLimits(min_sites=sites, join_timeout_s=120, round_timeout_s=120)
        names_of = tuple(spec.name for spec in plan.tensors)
        audited = AuditedSites(reached, AuditLog(folder / "audit.jsonl"), tensors=lambda _: names_of)
        participants = Participants(
            plan, run_id=run.run_id, sites=audited, limits=limits, observer=RunObserver()
        )
        participants.gather()
        Rounds(participants, run).train(proposal.weights)  # and no evaluation, which needs patients
        participants.ask(Finish(run_id=run.run_id, status="complete"), timeout=20)

    try:
        listener.execute(train)
        for child in children:
            child.wait(120)
    finally:
        for child in children:
            child.kill()
        listener.stop()
    rows = run.read_rounds()
    overhead = [row["overhead_seconds"] for row in rows[1:]]  # the first warms up
    return {
        "sites": sites,
        "rounds": rounds,
        "parameters": sum(spec.size for spec in plan.tensors),
        "median_seconds": statistics.median(row["seconds"] for row in rows[1:]),
        "median_overhead_seconds": statistics.median(overhead),
        "min_overhead_seconds": min(overhead),
        "max_overhead_seconds": max(overhead),
        "bytes_down": int(statistics.median(row["bytes_down"] for row in rows)) // sites,
        "bytes_up": int(statistics.median(row["bytes_up"] for row in rows)) // sites,
    }


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def quiet_flower() -> None:
    """Flower says something of every message."""
    import logging

    logging.getLogger("flwr").addFilter(lambda record: record.levelno >= logging.ERROR)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--as-site", nargs=3, metavar=("NAME", "FOLDER", "PORT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quiet_flower()
    if arguments.as_site:
        name, folder, port = arguments.as_site
        site(Path(folder), name, int(port))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = server(Path(folder), sites=arguments.sites, rounds=arguments.rounds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
