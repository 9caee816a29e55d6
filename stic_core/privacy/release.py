"""The rules of release: which figures of how many patients may leave a site under its policy.

Every rule is a function that gives the reason for keeping a figure back, or None (False) where
nothing speaks against it. `min_cell` bounds any count of patients, `min_class` the patients of a
class (and those of the others) behind an AUC, `release` names the kinds of figures that may leave.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stic_core.config import PolicyConfig, Release
from stic_core.privacy.confusion_cells import Counts, Hidden, hidden_cells, releasable_columns
from stic_core.statistics import Absent, NotEstimable, Suppressed

NOBODY = NotEstimable("no held-out patients")


def withheld(kind: Release, *, policy: PolicyConfig) -> Suppressed | None:
    """A kind of figure leaves only where the policy's `release` names it."""
    return None if kind in policy.release else Suppressed(f"this site's policy releases no {kind}")


def too_few(n: int, *, policy: PolicyConfig) -> Absent | None:
    """Nothing is said of 1 to `min_cell` - 1 patients; of none there is nothing to say."""
    if n == 0:
        return NOBODY
    return Suppressed(f"fewer than {policy.min_cell} patients") if n < policy.min_cell else None


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


def released_confusion(
    confusion: Counts, *, policy: PolicyConfig
) -> tuple[tuple[int | Suppressed, ...], ...]:
    """The (k, k) confusion without its small cells, and without the cells that would give them away."""
    hidden = hidden_cells(confusion, min_cell=policy.min_cell)
    kept = Suppressed(f"fewer than {policy.min_cell} patients, or a cell that would reveal such a cell")
    return tuple(
        tuple(kept if gone else int(count) for count, gone in zip(*row, strict=True))
        for row in zip(confusion, hidden, strict=True)
    )


def released_rates(confusion: Counts, *, policy: PolicyConfig) -> tuple[Hidden, Hidden]:
    """Of which classes the sensitivity and the specificity may leave, where the confusion itself does not.

    A sensitivity gives its cell of the diagonal away, so both are hidden together. A specificity
    gives the false positives of its class away (`releasable_columns`); and those told apart from
    the class are a cell as those found are, so they too number `min_cell` or more.

    Args:
        confusion: (k, k) counts, rows are the true classes.
        policy: of the site.

    Returns:
        Two of (k,), True where the rate of a class may leave.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    hidden = hidden_cells(counts, min_cell=policy.min_cell)
    told_apart = counts.sum() - counts.sum(axis=0) - counts.sum(axis=1) + np.diag(counts)
    enough = np.logical_or(policy.min_cell == 1, told_apart >= policy.min_cell)
    return ~np.diag(hidden), releasable_columns(counts, hidden=hidden) & enough
