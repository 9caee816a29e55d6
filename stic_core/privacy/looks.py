"""The ledger of looks: which models were evaluated on which of a site's held-out patients, and what left of each.

A figure that is harmless alone may tell a patient's secret beside another one. So everything that
leaves about the held-out patients is judged together, over models, runs, restarts and configurations:

- Each model is looked at once. What left is kept, and given again unchanged.
- A site's operator sets how many models may look at the same patients (`policy.held_out_models`),
  and a plan how many of a run may. One more is refused.
- A model that groups nearly the same patients as one before, or a set that is nearly the same, could
  be subtracted from it. Where fewer than `min_cell` patients make the difference, its figures stay.
- All of this is by patient, whatever the task: a second task asks about some of the same patients.

A look is one file; it holds scores and diagnoses of patients, and stays at the hospital.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from stic_core import statistics
from stic_core.errors import DataError, PlanRefusedError
from stic_core.privacy.ledger_folder import LedgerFolder
from stic_core.privacy.score_bins import Starts, moved, out_of_order

LabelArray = npt.NDArray[np.integer]


class Look(BaseModel):
    """One model on one set of held-out patients.

    Args:
        at: when, UTC.
        plan: hash of the plan that it was looked at under.
        name: what the server calls the model.
        model: digest of its weights, or of an ensemble's members (`ensemble_key`).
        patients: a hash of each patient's pseudonym, in the order of the rows.
        labels: (n,) class indices.
        logits: (n, k).
        starts: of each class's bins of scores.
        report: what left of it; None where the set was opened and nothing left, as for a model that was
            refused when its scores were there. That is a look as well: a refusal tells something.
        compared: what left of comparisons with it, by the other model's digest.
        pooled: plans under which its counts left, in a sum over hospitals alone; `report` stays empty.
        audit: what left of a privacy audit of the model; its patients are then the training ones as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: str
    run_id: str
    plan: str
    name: str
    model: str
    classes: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[int, ...] = ()
    logits: tuple[tuple[float, ...], ...] = ()
    starts: tuple[Starts, ...] = ()
    report: dict[str, Any] | None = None
    compared: dict[str, dict[str, Any]] = {}
    pooled: tuple[str, ...] = ()
    audit: dict[str, Any] | None = None

    @property
    def scores(self) -> statistics.Scores:
        """The logits as an array of (n, k)."""
        return np.array(self.logits, dtype=np.float64).reshape(len(self.patients), len(self.classes))

    def is_of(self, other: Look) -> bool:
        """Whether both are the look of one model at the same patients."""
        return (self.model, self.patients, self.classes) == (other.model, other.patients, other.classes)


class HeldOutLooks:
    """The looks at one site.

    Args:
        folder: holds a file for each look; None keeps them in memory, where all data are in one place anyway.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._files = LedgerFolder(folder, read=_read)

    def alone(self) -> AbstractContextManager[None]:
        """Know all looks, and let nobody else look meanwhile; see `LedgerFolder.alone`."""
        return self._files.alone()

    def __iter__(self) -> Iterator[Look]:
        """All of them, the oldest first."""
        return iter(sorted(self._files.entries.values(), key=lambda look: look.at))

    def find(self, model: str, *, patients: Sequence[str], classes: Sequence[str]) -> Look | None:
        """The look of a model at exactly these patients, where there was one."""
        return self._files.entries.get(_key(model, patients=patients, classes=classes))

    def at(self, patients: Iterable[str]) -> list[Look]:
        """The looks at any of these patients, the oldest first."""
        wanted = set(patients)
        return [look for look in self if not wanted.isdisjoint(look.patients)]

    def check_room(self, patients: Iterable[str], *, plan: str, of_plan: int, in_all: int) -> None:
        """Refuse one look more than was agreed.

        Args:
            plan: hash of the plan that asks.
            of_plan: how many models the plan may look at.
            in_all: how many models may look at the same patients.

        Raises:
            PlanRefusedError: says which of the two numbers.
        """
        looks = self.at(patients)
        used = sum(look.plan == plan for look in looks)
        if used >= of_plan:
            raise PlanRefusedError(
                "one more model on the held-out patients",
                got=f"{used} under this plan",
                expected=f"at most {of_plan}, as approved",
            )
        if len(looks) >= in_all:
            raise PlanRefusedError(
                "one more model on the held-out patients",
                got=f"{len(looks)} so far, in all runs",
                expected=f"at most {in_all} (policy.held_out_models)",
            )

    def keep(self, look: Look) -> None:
        """Write a look down, before anything of it leaves."""
        key = _key(look.model, patients=look.patients, classes=look.classes)
        # Versions from before there were audits and sums go on reading what has none.
        unknown_before = {name for name in ("audit", "pooled") if not getattr(look, name)}
        self._files.keep(key, look, text=look.model_dump_json(exclude=unknown_before))

    def nearest(
        self,
        logits: statistics.Scores,
        *,
        labels: LabelArray,
        plan: str,
        patients: Sequence[str],
        classes: Sequence[str],
        starts: Sequence[Starts],
        min_cell: int,
        among: Iterable[Look] | None = None,
    ) -> tuple[bool, bool]:
        """Whether an earlier look could be subtracted, to leave fewer than `min_cell` patients.

        Under one plan a server has one model of its own making, so there only whole groupings are
        compared. Models of two plans may have been made for each other: the same answers under other
        bins, or the same order with other borders, between two of which may lie one patient.

        Patients who are in one of the sets alone hide a difference only in counts that they are in. A
        second task leaves out whole classes: its counts of the classes in common are of the same patients
        as before, so these are compared as if nobody had been left out.

        Args:
            logits: (n, k) of the model that is looked at now.
            labels: (n,) class indices.
            plan, patients, classes: as in `Look`.
            starts: of each class's bins of scores.
            among: earlier looks to compare with; None for all at these patients.

        Returns:
            Whether it could in the predicted classes, and in the bins or the order of a class's scores.
        """
        answers, groups, scores = logits.argmax(axis=1), _groups(logits, starts), statistics.margins(logits)
        near_answers = near_scores = False
        for look in self.at(patients) if among is None else among:
            if look.report is None and not look.pooled:
                continue
            before, now = _common(look.patients, patients)
            alone = _alone(look, labels=labels, patients=patients, classes=classes)
            were = [group[before] for group in _groups(look.scores, look.starts)]
            are = [group[now] for group in groups]
            answered = moved(look.scores.argmax(axis=1)[before], answers[now])
            same_bins = len(were) == len(are) and all(map(np.array_equal, were, are))
            told_alike = not look.pooled  # else one is of this site, and the other a sum
            if (
                told_alike
                and not any(alone)
                and answered == 0
                and same_bins
                and look.classes == tuple(classes)
            ):
                continue  # the same figures again
            apart = look.plan != plan
            pairs = list(itertools.product(range(len(were)), range(len(are))))
            least_answered = 0 if apart else 1
            near_answers |= any(least_answered <= others + answered < min_cell for others in alone)
            near_scores |= any(
                0 < others + moved(were[one], are[other]) < min_cell
                for one, other in pairs
                for others in alone
            )
            if apart:
                # Another scale of the logits keeps the answers, and changes the order a little; another sign turns it.
                least = len(now) / 3 if min(alone) + answered < min_cell else min_cell
                earlier = statistics.margins(look.scores)[before]
                near_scores |= any(
                    min(alone) + out_of_order(earlier[:, one], sign * scores[now, other]) < least
                    for one, other in pairs
                    for sign in (1, -1)
                    if any(alone) or not np.array_equal(were[one], are[other])
                )
        return near_answers, near_scores


def patients_of(subjects: Iterable[str]) -> tuple[str, ...]:
    """What stands for a patient in the ledger: the same whichever way the dataset was prepared."""
    return tuple(hashlib.sha256(subject.encode()).hexdigest()[:32] for subject in subjects)


def ensemble_key(members: Iterable[str]) -> str:
    """What stands for an ensemble where a model's digest would: a hash of its members' digests."""
    return hashlib.sha256("\n".join(["ensemble", *sorted(members)]).encode()).hexdigest()


def now() -> str:
    """UTC, ISO 8601."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")


def _key(model: str, *, patients: Sequence[str], classes: Sequence[str]) -> str:
    return hashlib.sha256("\n".join([model, *classes, "", *patients]).encode()).hexdigest()[:40]


def _groups(logits: statistics.Scores, starts: Sequence[Starts]) -> list[LabelArray]:
    """Each patient's bin, for each class."""
    scores = statistics.margins(logits)
    return [
        np.searchsorted(of_class, statistics.cells_of(scores[:, k], edges=statistics.EDGES), side="right") - 1
        for k, of_class in enumerate(starts)
    ]


def _alone(
    look: Look, *, labels: LabelArray, patients: Sequence[str], classes: Sequence[str]
) -> tuple[int, ...]:
    """How many patients are in one of two sets alone: in all, and of each class that both tasks have."""
    of_before = {
        patient: look.classes[label] for patient, label in zip(look.patients, look.labels, strict=True)
    }
    of_now = {patient: classes[label] for patient, label in zip(patients, labels, strict=True)}
    counts = Counter({**of_before, **of_now}[patient] for patient in of_before.keys() ^ of_now.keys())
    return (counts.total(), *(counts[name] for name in classes if name in look.classes))


def _common(before: Sequence[str], now: Sequence[str]) -> tuple[list[int], list[int]]:
    """Rows of the same patients in both."""
    place = {patient: row for row, patient in enumerate(now)}
    rows = [(row, place[patient]) for row, patient in enumerate(before) if patient in place]
    return [row for row, _ in rows], [row for _, row in rows]


def _read(path: Path) -> Look:
    try:
        return Look.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path.parent.name}/{path.name}, a look at held-out patients, cannot be read",
            got=type(error).__name__,
            advice="Restore it from a backup, or install the newer version that wrote it: without it the site cannot "
            "know what it has told of these patients.",
        ) from None
