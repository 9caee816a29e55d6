"""The rules of release: which figures of how many patients may leave a site under its policy.

Every rule is a function that gives the reason for keeping a figure back, or None (False) where
nothing speaks against it. `min_cell` bounds any count of patients, `min_class` the patients of a
class (and those of the others) behind an AUC, `release` names the kinds of figures that may leave.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from stic_core.config import PolicyConfig, Release
from stic_core.privacy.score_bins import Decided, Starts, decided, mirrored, score_bins
from stic_core.statistics import SCORE_GRID, Absent, NotEstimable, Scores, Suppressed, cells_of

NOBODY = NotEstimable("no held-out patients")


def withheld(kind: Release, *, policy: PolicyConfig) -> Suppressed | None:
    """A kind of figure leaves only where the policy's `release` names it."""
    return None if kind in policy.release else Suppressed(f"this site's policy releases no {kind}")


def too_few(n: int, *, policy: PolicyConfig) -> Absent | None:
    """Nothing is said of 1 to `min_cell` - 1 patients; of none there is nothing to say."""
    if n == 0:
        return NOBODY
    return Suppressed(f"fewer than {policy.min_cell} patients") if n < policy.min_cell else None


def small_count(count: int, *, of: int, policy: PolicyConfig) -> Suppressed | None:
    """A count of n patients leaves where it, and the rest of them, are nobody's own: `min_cell` or more."""
    if policy.min_cell > 1 and min(count, of - count) < policy.min_cell:
        return Suppressed(f"fewer than {policy.min_cell} patients")
    return None


def tells_mean(kind: Release, *, n: int, policy: PolicyConfig) -> bool:
    """A mean over n patients, such as a loss, leaves from `min_cell` on, where its kind may leave."""
    return too_few(n, policy=policy) is None and withheld(kind, policy=policy) is None


def class_counts(counts: Mapping[str, int], *, policy: PolicyConfig) -> dict[str, int] | Suppressed:
    """Patients by class leave from `min_cell` patients on in all; that there is nobody may be said."""
    kept = too_few(sum(counts.values()), policy=policy)
    return kept if isinstance(kept, Suppressed) else dict(counts)


def too_few_for_auc(n: int, *, policy: PolicyConfig) -> Suppressed | None:
    """An AUC over all classes together needs `min_class` patients."""
    return Suppressed(f"fewer than {policy.min_class} patients") if n < policy.min_class else None


def small_class(*, positives: int, negatives: int, policy: PolicyConfig) -> Suppressed | None:
    """The AUC of a class needs `min_class` patients of the class, and as many of the others."""
    for n, of in ((positives, "this class"), (negatives, "other classes")):
        if n < policy.min_class:
            return Suppressed(f"fewer than {policy.min_class} patients of {of}")
    return None


def score_counts(
    scores: Scores, labels: npt.NDArray[np.integer], *, policy: PolicyConfig
) -> tuple[tuple[Starts, Decided], ...]:
    """For each class the bins of scores that may leave, and what they say of the confusion matrix.

    Of two classes the second one's scores are the first one's with the other sign, and so are its bins.

    Args:
        scores: (n, k) log odds of each class.
        labels: (n,) class indices.
        policy: of the site.
    """
    k = scores.shape[1]
    first = score_bins(scores[:, 0], positive=labels == 0, classes=k, min_cell=policy.min_cell)
    found = []
    for index in range(k):
        positive = labels == index
        starts = (
            first
            if index == 0
            else mirrored(first)
            if k == 2
            else score_bins(scores[:, index], positive=positive, classes=k, min_cell=policy.min_cell)
        )
        bin_of = np.searchsorted(starts, cells_of(scores[:, index], edges=SCORE_GRID), side="right") - 1
        p, n = (np.bincount(bin_of[mask], minlength=len(starts)) for mask in (positive, ~positive))
        found.append((starts, decided(starts, p, n, classes=k)))
    return tuple(found)


def rounded(value: float) -> float:
    """A sum or mean over patients as it leaves, to four significant digits.

    A number of 53 bits could hold a message about each of its patients, if a model was made for that.

    Example:
        >>> rounded(41.23456)
        41.23
    """
    return float(f"{value:.4g}")
