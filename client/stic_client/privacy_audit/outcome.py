"""What an audit found, as a value: figures, and what an engineer should know beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stic_core.privacy.audit_release import ReleasedAudit
from stic_core.privacy.membership import Attack, Familiarity
from stic_core.statistics import NotEstimable


@dataclass(frozen=True, slots=True)
class Group:
    """Patients of one class.

    Args:
        loss_train, loss_held_out: mean cross-entropy in nats; None of nobody.
    """

    train: int
    held_out: int
    loss_train: float | None
    loss_held_out: float | None


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """An audit of one model at one site.

    Args:
        site: the site's name.
        model: digest of its weights.
        run_id: of the run that trained it, "" where the model does not say.
        classes: patients and mean losses of each.
        shadow_models: how many were trained.
        loss: attack (a), by the loss.
        likelihood_ratio: attack (b), against shadow models.
        site_known: (c), how much better the group of training patients is known.
        notes: what may make the figures wrong.
        phantom: the patients are phantoms.
        released: what the next report will show, None where nothing was released.
        made: UTC, ISO 8601.
    """

    site: str
    model: str
    run_id: str
    classes: dict[str, Group]
    shadow_models: int
    loss: Attack | NotEstimable
    likelihood_ratio: Attack | NotEstimable
    site_known: Familiarity | NotEstimable
    notes: tuple[str, ...]
    phantom: bool
    made: str
    released: ReleasedAudit | None = None

    @property
    def train(self) -> int:
        """Training patients."""
        return sum(group.train for group in self.classes.values())

    @property
    def held_out(self) -> int:
        """Held-out patients."""
        return sum(group.held_out for group in self.classes.values())

    @property
    def attacks(self) -> list[tuple[str, Attack | NotEstimable]]:
        """The two attacks on single patients by name."""
        return [("loss", self.loss), ("likelihood ratio", self.likelihood_ratio)]

    def document(self) -> dict[str, Any]:
        """`privacy_audit.json`."""
        content = asdict(self) | {
            "released": None if self.released is None else self.released.model_dump(mode="json")
        }
        return {"schema": 1, "train": self.train, "held_out": self.held_out} | content
