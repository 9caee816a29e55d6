"""How often a score was right: what travels with a final model, so that a hospital can read its scores.

It is a part of the run's evaluation, pooled over the hospitals from what their policies released: for each
class the held-out patients whose probabilities for it are neighbours, how many, and the share that had it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stic_core.errors import DataError
from stic_core.evaluation.document import Evaluation
from stic_core.statistics import Interval, NotEstimable, Suppressed
from stic_core.statistics.bounds import Share, Some
from stic_core.statistics.proportions import clopper_pearson
from stic_core.system.files import write_atomically

RELIABILITY_FILE = "held_out.json"
"""In a model's folder, beside `model.json`."""

NEAR = 0.05
"""Scores within this of a group's mean are spoken for by the group: half the width of a bin."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScoreGroup(_Frozen):
    """Held-out patients with neighbouring probabilities for a class.

    Args:
        n: how many.
        predicted: mean of the probabilities.
        observed: share of the patients who had the class.
    """

    n: Some
    predicted: Share
    observed: Share

    @property
    def hits(self) -> int:
        """Patients who had the class."""
        return round(self.n * self.observed)

    def interval(self) -> Interval | NotEstimable:
        """95 % interval of the share observed, exact."""
        return clopper_pearson(self.hits, total=self.n)


_ClassName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,16}$")]
_Groups = Annotated[tuple[ScoreGroup, ...], Field(max_length=10)]


class Reliability(_Frozen):
    """What a model's scores were worth on held-out patients of all hospitals of its run.

    Args:
        model_digest: whose scores.
        classes: groups by class, each by ascending score; a class may have none.
    """

    schema_version: Literal[1] = 1
    model_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    classes: Annotated[dict[_ClassName, _Groups], Field(max_length=64)]

    def at(self, name: str, score: float) -> ScoreGroup | None:
        """The group of held-out patients with about this score for a class, None where there is none.

        The bins have a tenth; a hospital merges those with few patients, so a group may lie anywhere.
        """
        groups = self.classes.get(name, ())
        nearest = min(groups, key=lambda group: abs(group.predicted - score), default=None)
        return nearest if nearest is not None and abs(nearest.predicted - score) <= NEAR else None


def reliability_of(evaluation: Evaluation) -> Reliability | None:
    """The part of an evaluation that goes with the model; None where no hospital releases calibration."""
    calibration = evaluation.pooled.calibration
    if isinstance(calibration, Suppressed | NotEstimable):
        return None
    return Reliability(
        model_digest=evaluation.model_digest,
        classes={
            name: tuple(
                ScoreGroup(n=one.n, predicted=min(max(one.predicted, 0.0), 1.0), observed=one.observed)
                for one in of_class.bins
            )
            for name, of_class in calibration.classes.items()
        },
    )


def write_reliability(folder: Path, reliability: Reliability) -> None:
    """Lay it into a model's folder."""
    write_atomically(folder / RELIABILITY_FILE, reliability.model_dump_json(indent=1) + "\n")


def read_reliability(folder: Path, *, model_digest: str) -> Reliability | None:
    """What is known of the model in a folder; None without a file.

    Args:
        model_digest: of the model; figures of another one count for nothing.

    Raises:
        DataError: the file is damaged, or belongs to another model.
    """
    path = folder / RELIABILITY_FILE
    try:
        found = Reliability.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path} cannot be read",
            got=type(error).__name__,
            advice="Move it away: scores are then shown without how often they were right.",
        ) from None
    if found.model_digest != model_digest:
        raise DataError(
            f"{path} belongs to another model",
            got=found.model_digest[:12],
            expected=model_digest[:12],
            advice="Move it away, or copy the model's folder again.",
        )
    return found
