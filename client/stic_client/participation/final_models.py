"""The final models of the runs that a site took part in: room for them, and which have not come yet.

At the beginning of a run the site writes down all but the weights, and sets room aside for these.
So a model can be kept whenever it comes: on a disk that is full by then, and after a restart.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from stic_core.errors import DataError, ProtocolError
from stic_core.evaluation.reliability import RELIABILITY_FILE, write_reliability
from stic_core.models.saved import DESCRIPTION_FILE, read_model, write_model
from stic_core.protocol.compression import WireArray, unpack
from stic_core.protocol.fields import Digest
from stic_core.protocol.messages import Finish, RunPlan
from stic_core.system.files import write_atomically
from stic_core.system.room import Reserve, is_full
from stic_core.tensors.flat import digest

EXPECTED_FILE = "run.json"

_REMEMBERED = 8
"""Models that are still expected: a run that was given up never says so."""

_BESIDE_WEIGHTS = 1 << 20
"""Bytes: names and shapes of the tensors, `model.json`, and what a file system needs for them."""


class Expected(BaseModel):
    """`run.json`: what is known of a model before it is there.

    Args:
        backbone_digest: of what is frozen.
        phantom: the site's patients are phantoms.
        fingerprint: of the prepared dataset that the site began the run with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: RunPlan
    backbone_digest: Digest
    phantom: bool
    fingerprint: Digest | None = None


class FinalModels:
    """The final models of one site.

    Args:
        folder: holds a folder for each run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def reserve(self, plan: RunPlan) -> None:
        """Set room aside for the model that a plan will make.

        Raises:
            NoRoomError: there is not enough.
        """
        self._reserve(weights_bytes(plan) + _BESIDE_WEIGHTS).fill()

    def expect(self, run_id: str, expected: Expected) -> None:
        """Note that a run's model will come."""
        write_atomically(self._folder / run_id / EXPECTED_FILE, expected.model_dump_json() + "\n")
        for old in self.lacking()[_REMEMBERED:]:
            (self._folder / old / EXPECTED_FILE).unlink()

    def here(self) -> list[str]:
        """Runs whose model is on this disk, in the order of their names, which is that of their dates."""
        return sorted(path.parent.name for path in self._folder.glob(f"*/{DESCRIPTION_FILE}"))

    def run_of(self, model_digest: str) -> str | None:
        """The run that trained a model, where it is on this disk; None where it is not."""
        for run_id in self.here():
            expected = self.expected(run_id)
            if expected is None or expected.plan.evaluates is not None:
                continue
            try:
                if read_model(self._folder / run_id).description.digest == model_digest:
                    return run_id
            except DataError:
                continue
        return None

    def lacking(self) -> list[str]:
        """Runs that the site took part in and whose model is not here, the newest first."""
        notes = [*self._folder.glob(f"*/{EXPECTED_FILE}")]
        notes.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [path.parent.name for path in notes if not (path.parent / DESCRIPTION_FILE).exists()]

    def keep(self, question: Finish, wire: WireArray) -> str | None:
        """Keep a model that came; one that is here already is not replaced.

        Args:
            wire: the weights as they travelled.

        Returns:
            The digest of the model that is here now; None for a run that the site took no part in.

        Raises:
            ProtocolError: the weights are not the ones that the message announces.
            OSError: the disk is full, for example.
        """
        kept = self._keep_weights(question, wire)
        folder, worth = self._folder / question.run_id, question.held_out
        # What the scores were worth belongs to that model and to no other; like the model, it is not replaced.
        if worth is not None and worth.model_digest == kept and not (folder / RELIABILITY_FILE).exists():
            write_reliability(folder, worth)
        return kept

    def _keep_weights(self, question: Finish, wire: WireArray) -> str | None:
        folder = self._folder / question.run_id
        try:
            return read_model(folder).description.digest
        except DataError:  # none, or one that cannot be read
            expected = self.expected(question.run_id)
        if expected is None:
            return None
        plan = expected.plan
        weights = unpack(wire, plan.tensors, transport="float32")
        if digest(weights, plan.tensors) != question.weights_digest:
            raise ProtocolError("the weights do not match the digest in the message")
        write = partial(
            write_model,
            folder,
            weights,
            tensors=plan.tensors,
            task=plan.task,
            model=plan.model,
            image=plan.image,
            backbone_digest=expected.backbone_digest,
            plan_digest=plan.digest,
            **_origin(question, expected),
        )
        try:
            return write().digest
        except OSError as error:
            if not is_full(error):
                raise
        self.release()
        return write().digest

    def release(self) -> None:
        """Give up the room that was set aside: the run is over."""
        self._reserve(0).drop()

    def path(self, run_id: str) -> Path:
        """Of a run's model."""
        return self._folder / run_id

    def expected(self, run_id: str) -> Expected | None:
        """What was noted at the beginning of a run; None for a run that the site took no part in."""
        try:
            return Expected.model_validate_json((self._folder / run_id / EXPECTED_FILE).read_bytes())
        except (FileNotFoundError, ValidationError):  # never, or by another version
            return None

    def _reserve(self, size: int) -> Reserve:
        return Reserve(self._folder / ".reserve", size=size, what="the final model")


def _origin(question: Finish, expected: Expected) -> dict[str, object]:
    """What `model.json` says of where the model comes from; of one that was only evaluated nobody told it here."""
    if expected.plan.evaluates is not None:
        return {"evaluated_in": question.run_id}
    return {"run_id": question.run_id, "best_round": question.best_round, "phantom": expected.phantom}


def weights_bytes(plan: RunPlan) -> int:
    """Of one copy of what a plan trains, as float32."""
    return 4 * sum(spec.size for spec in plan.tensors)
