"""A whole run whose sites say again what they said once, so that one answer can be changed without training again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stic_client.participation.participant import Participant
from stic_core.config import FederationConfig
from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import Instruction, decode_instruction, encode
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import Exchange, RunLimits, Sites, read_answer
from support.federation_kit import InProcessSites, Recorder, participant
from support.waiting import PATIENCE_S

Asked = tuple[str, str]
"""A question: its kind, and its round or the model that it is about."""

Said = dict[tuple[str, Asked], tuple[str, WireArray | None]]
"""The JSON text of each answer, and the weights that came along, by site and question."""


def asked(question: Instruction) -> Asked:
    """What a question is known by, in whichever run it is asked."""
    return question.kind, str(getattr(question, "round", getattr(question, "model", "")))


class Listening(InProcessSites):
    """Participants in this process, whose answers are kept."""

    def __init__(self, participants: Mapping[str, Participant]) -> None:
        super().__init__(participants)
        self.said: Said = {}

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: WireArray | None, timeout: float
    ) -> Exchange:
        """One after the other."""
        answers = {}
        for site, question in questions.items():
            report, trained = self.participants[site].answer(
                decode_instruction(encode(question)), None if weights is None else weights.copy()
            )
            text = encode(report)
            self.said.setdefault((site, asked(question)), (text, trained))
            answers[site] = read_answer(text, trained)
        return Exchange(answers)


@dataclass
class Repeating:
    """`sites.Sites` that answer what was said once, and where `changed` says so, something else."""

    said: Said
    changed: Mapping[tuple[str, Asked], str]

    def present(self) -> list[str]:
        """All are there always."""
        return sorted({site for site, _ in self.said})

    def wait_for(self, **_: object) -> list[str]:
        """All are there at once."""
        return self.present()

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: WireArray | None, timeout: float
    ) -> Exchange:
        """At once."""
        answers = {}
        for site, question in questions.items():
            text, trained = self.said[site, asked(question)]
            answers[site] = read_answer(self.changed.get((site, asked(question)), text), trained)
        return Exchange(answers)


@dataclass(frozen=True)
class Ended:
    """A run that came to its end."""

    run: RunFolder
    notes: list[str]
    document: dict[str, Any]


def run_of(
    sites: Sites,
    folder: Path,
    *,
    public_keys: Mapping[str, str] = MappingProxyType({}),
    local_only: bool = True,
) -> Ended:
    """Three rounds and the evaluation, with the tiny backbone.

    Args:
        public_keys: of the sites, as the plan names them; who only repeats looks at no signature.
        local_only: with each site's own model and their ensemble.
    """
    federation = FederationConfig.model_validate(
        {
            "name": "test",
            "model": {"backbone": "tiny"},
            "rounds": 3,
            "training": {"views": 1, "batch_size": 4},
            "local_only": local_only,
            "runs": folder / "runs",
        }
    )
    proposal, recorder = training_of(federation, sites=public_keys), Recorder()
    run = RunFolder.begin(federation, proposal.plan)
    limits = RunLimits(min_sites=2, join_timeout_s=PATIENCE_S, round_timeout_s=PATIENCE_S)
    document = execute(
        proposal.plan, proposal.weights, run=run, sites=sites, limits=limits, observer=recorder
    )
    return Ended(run, recorder.notes, document)


def listen(folder: Path, *, sites: int = 3) -> tuple[Said, Ended]:
    """A run of real participants with random patients, who keep as little back as they may, and all that they say."""
    counts, made = {"train": 6, "val": 6, "test": 33}, {}
    for number, name in enumerate(f"center{number}" for number in range(1, sites + 1)):
        config = participant(folder / name, site=name, seed=number, counts=counts).config
        policy = config.policy.model_copy(update={"min_cell": 2, "min_class": 2})
        made[name] = Participant(config.model_copy(update={"policy": policy}))
    listening = Listening(made)
    return listening.said, run_of(listening, folder, public_keys=listening.public_keys)
