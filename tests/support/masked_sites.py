"""Sites that mask for real and train by arithmetic: a run with secure aggregation in milliseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stic_client.participation.masked_rounds import MaskedRounds
from stic_client.participation.opened_rounds import OpenedRounds
from stic_core.config import FederationConfig, ImageConfig
from stic_core.errors import SticError
from stic_core.evaluation import ValidationReport
from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import (
    Acknowledged,
    Describe,
    Finish,
    Instruction,
    Refusal,
    Report,
    RoundReport,
    RunPlan,
    SiteDescription,
    SplitCounts,
    TrainRound,
    Unprepared,
    decode_instruction,
    encode,
)
from stic_core.system.keys import load_private, make_key_pair
from stic_core.tensors.flat import TensorSpec, digest
from stic_server.federation.sites import Exchange, read_answer

SIZE = 40
TENSORS = (TensorSpec(name="w", shape=(SIZE,)),)
INITIAL = np.linspace(-1, 1, SIZE, dtype=np.float32)
RUN_ID = "test-run"


class KilledError(BaseException):
    """A process ends here."""


def update_of(site: str, weights: np.ndarray) -> np.ndarray:
    """What a site's training changes, float32: it depends on the site, and smoothly on the weights."""
    rng = np.random.default_rng(int.from_bytes(site.encode(), "big"))
    return (rng.normal(0, 0.01, SIZE) - 0.01 * rng.random() * weights).astype(np.float32)


@dataclass
class MaskedSite:
    """One site.

    Args:
        folder: keeps its key and its state.
        patients: its training patients.
    """

    name: str
    folder: Path
    patients: int
    plan: RunPlan | None = None
    masks: MaskedRounds | None = None

    def begin(self, plan: RunPlan, run_id: str = RUN_ID) -> MaskedRounds:
        """Load the run, as after a start of its process."""
        self.plan = plan
        self.masks = MaskedRounds(
            site=self.name,
            run_id=run_id,
            plan=plan,
            key=lambda: load_private(self.folder / "site.key"),
            folder=self.folder / "between-rounds" / run_id,
            opened=OpenedRounds(self.folder / "opened", plan=plan.digest),
        )
        return self.masks

    def answer(self, question: Instruction, weights: WireArray | None) -> tuple[Report, WireArray | None]:
        """As a participant does, with a training that is arithmetic."""
        try:
            return self._answer(question, weights)
        except SticError as error:
            return Refusal(reason=str(error)[:1000]), None

    def _answer(self, question: Instruction, weights: WireArray | None) -> tuple[Report, WireArray | None]:
        if isinstance(question, Describe):
            self.begin(question.plan, question.run_id)
            return self.describe(), None
        if isinstance(question, Finish):
            return Acknowledged(), None
        if self.masks is None:
            return Unprepared(), None
        if not isinstance(question, TrainRound):
            return self.masks.answer(question, patients=self.patients), None
        wire, following = None, None
        if question.train:
            self.masks.check(question)
            trained = weights + update_of(self.name, weights)
            wire, following = self.masks.mask(question, base=weights, trained=trained)
        report = RoundReport(
            round=question.round,
            validation=ValidationReport(n=10, loss_sum=round(5.0 / question.round, 3), correct=6),
            examples=self.patients if question.train else 0,
            train_loss=0.5,
            steps=1,
            compute_seconds=0.0,
            weights_digest=None if wire is None else hashlib.sha256(wire.tobytes()).hexdigest(),
            following=following,
        )
        return report, wire

    def describe(self) -> SiteDescription:
        """So many training patients, ten for validation and none held out."""
        counts = {"train": self.patients, "val": 10, "test": 0}
        own = hashlib.sha256(self.name.encode()).hexdigest()
        return SiteDescription(
            patients={
                split: SplitCounts(n=n, classes={"HCC": n, "ICC": 0, "META": 0})
                for split, n in counts.items()
            },
            quarantined=0,
            fingerprint=own,
            test_fingerprint=own,
            image=ImageConfig(),
            phantom=True,
            backbone_digest="0" * 64,
            device="cpu",
            versions={},
        )


@dataclass
class MaskedSites:
    """`sites.Sites` of such sites, of which some may be away, and whose exchanges a test may meddle with.

    Args:
        on_question: called with a site and what it is asked; gives what it is asked instead, or None where it
            does not get it.
        on_answer: called with a site, the question and its answer; gives what arrives instead, or None.
    """

    sites: Mapping[str, MaskedSite]
    away: set[str] = field(default_factory=set)
    asked: list[tuple[str, Instruction]] = field(default_factory=list)
    answered: list[tuple[str, Instruction, Report, WireArray | None]] = field(default_factory=list)
    on_question: Callable[[str, Instruction], Instruction | None] = lambda site, question: question
    on_answer: Callable[[str, Instruction, Report], Report | None] = lambda site, question, report: report

    def present(self) -> list[str]:
        """Those that are not away."""
        return sorted(self.sites.keys() - self.away)

    def wait_for(self, *, at_least: int, timeout: float, apart_from: Collection[str] = ()) -> list[str]:
        """Nobody comes."""
        return self.present()

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: WireArray | None, timeout: float
    ) -> Exchange:
        """One after the other, each message as text."""
        answers = {}
        for site, asked in questions.items():
            question = self.on_question(site, asked) if site not in self.away else None
            if question is None:
                continue
            self.asked.append((site, question))
            try:
                report, wire = self.sites[site].answer(
                    decode_instruction(encode(question)), None if weights is None else weights.copy()
                )
            except KilledError:
                self.sites[site].masks = None  # it is started again, and knows what is on its disk
                continue
            self.answered.append((site, question, report, wire))
            arrived = self.on_answer(site, question, report)
            if arrived is not None:
                answers[site] = read_answer(encode(arrived), wire)
        return Exchange(answers)


def masked_sites(folder: Path, names: Sequence[str], *, patients: Sequence[int] | None = None) -> MaskedSites:
    """Sites with keys of their own."""
    sites = {}
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        make_key_pair(folder / name / "site.key")
        sites[name] = MaskedSite(name, folder / name, patients[place] if patients else 10 + place)
    return MaskedSites(sites)


def masked_plan(sites: MaskedSites, *, rounds: int = 3, **masking: object) -> RunPlan:
    """A plan that names their keys."""
    config = FederationConfig.model_validate(
        {
            "name": "test",
            "model": {"backbone": "tiny"},
            "rounds": rounds,
            "training": {"early_stopping": None},
            "local_only": False,
            "secure_aggregation": masking or True,
        }
    )
    keys = {name: (site.folder / "site.pub").read_text().strip() for name, site in sites.sites.items()}
    return RunPlan.of(config, TENSORS, sites=keys, initial=digest(INITIAL, TENSORS))
