"""What the scores of a patient come to: a class, undecided, or images that must be looked at first.

A score below 2/3 decides nothing. That is Chow's rule (IEEE Transactions on Information Theory 1970, 16:41): an
answer is withheld where its probability of being right is below 1 - t, and t = 1/3 says that a wrong answer is
three times as bad as none. A class is then at least twice as probable as all others together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stic_core.evaluation.reliability import Reliability, ScoreGroup

DECIDED = 2 / 3
"""The least highest score, and the least share of held-out patients with such a score who had the class."""


DOUBTFUL, UNDECIDED = "images doubtful", "undecided"
"""What stands for a class in tables where none is said."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to make of a patient's scores.

    Args:
        kind: `doubtful` where the images may be wrong, whatever the scores are.
        ranking: classes and scores, the highest first.
        group: held-out patients with about the highest score for that class; None where none are known.
    """

    kind: Literal["doubtful", "undecided", "class"]
    ranking: tuple[tuple[str, float], ...]
    group: ScoreGroup | None

    @property
    def text(self) -> str:
        """For a table: a class, `undecided` or `images doubtful`."""
        return {"doubtful": DOUBTFUL, "undecided": UNDECIDED, "class": self.ranking[0][0]}[self.kind]

    @property
    def reason(self) -> str:
        """Why it is undecided, "" where it is not."""
        if self.ranking[0][1] < DECIDED:
            return "the highest score is below 2/3"
        if self.group is not None and self.group.observed < DECIDED:
            return "on held-out patients with such a score the model was right in fewer than 2 of 3"
        return ""


def verdict_of(
    classes: tuple[str, ...],
    scores: tuple[float, ...],
    *,
    doubts: tuple[str, ...],
    reliability: Reliability | None,
) -> Verdict:
    """Judge a patient's scores.

    Args:
        scores: of each class, adding up to 1.
        doubts: of the images.
        reliability: what came with the model.
    """
    ranking = tuple(sorted(zip(classes, scores, strict=True), key=lambda pair: -pair[1]))
    group = reliability.at(*ranking[0]) if reliability is not None else None
    found = Verdict("class", ranking, group)
    kind = "doubtful" if doubts else "undecided" if found.reason else "class"
    return Verdict(kind, ranking, group)
