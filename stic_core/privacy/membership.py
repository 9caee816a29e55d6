"""Membership inference: how well a model's answers tell its training patients from held-out ones.

An attack is a score per patient, higher where the patient looks like a training patient: the loss with the
other sign (Yeom et al. 2018), or a likelihood ratio against models that had the patient and models that had
not (Carlini et al. 2022). Training and held-out patients may differ in their classes, which alone moves an
AUC away from .5. What is judged is therefore the AUC over pairs of one class, and the null is membership
drawn anew within each class: it holds for every model that saw neither of the two groups, if nothing but
the class sets them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from stic_core.statistics import (
    Auc,
    Estimate,
    Interval,
    Mask,
    NotEstimable,
    Scores,
    clopper_pearson,
    delong,
    placements,
)
from stic_core.statistics.auc import NO_VARIANCE

FALSE_POSITIVES = 0.01
"""The rate at which true positives are stated: an attacker who accuses must rarely be wrong."""

PERMUTATIONS = 2000

Labels = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Rate:
    """True positives at a bound on false positives.

    Args:
        value: share of the training patients.
        ci95: Clopper and Pearson's interval.
    """

    value: float
    ci95: Interval


@dataclass(frozen=True, slots=True)
class Attack:
    """How well one attack does.

    Args:
        auc: of all training against all held-out patients, with DeLong's variance.
        null: its mean where membership is drawn within each class: what case mix alone gives.
        within: the AUC over pairs of the same class, whose null is .5.
        noticed: 95 % quantile of that null; a smaller AUC within classes would have gone unnoticed here.
        p: one-sided, of the AUC within classes, by permutation.
        true_positives: at `FALSE_POSITIVES`.
        classes: the AUC within each class.
    """

    auc: Auc
    null: float
    within: Estimate
    noticed: float
    p: float
    true_positives: Rate | NotEstimable
    classes: Mapping[str, Auc | NotEstimable]

    @property
    def excess(self) -> float:
        """The AUC of all pairs beyond what case mix gives."""
        return self.auc.value - self.null


@dataclass(frozen=True, slots=True)
class Familiarity:
    """How much better a model knows a site's training patients, as a group, than its held-out ones.

    Args:
        difference: mean score of training patients minus that of held-out patients of the same class, in nats.
        ci95: of the difference, on the normal.
        p: one-sided, membership permuted within each class.
    """

    difference: float
    ci95: Interval | NotEstimable
    p: float


def attack(
    scores: Scores,
    *,
    member: Mask,
    labels: Labels,
    classes: Sequence[str],
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> Attack | NotEstimable:
    """What an attack's scores come to.

    Args:
        scores: (n,) higher speaks for a training patient.
        member: (n,) True for training patients.
        labels: (n,) class indices.
        classes: their names.
        rng: of the permutations.
    """
    auc = delong(scores, positive=member)
    if isinstance(auc, NotEstimable):
        return NotEstimable("an attack needs training patients and held-out patients")
    if not _mixed(member, labels):
        return NotEstimable("no class has both training and held-out patients")
    drawn = _permuted(member, labels, rng=rng, count=permutations)
    within, null = _within(scores, member, labels=labels), _aucs(scores, drawn, strata=labels)
    return Attack(
        auc=auc,
        null=float(_aucs(scores, drawn, strata=np.zeros_like(labels)).mean()),
        within=within,
        noticed=float(np.quantile(null, 0.95)),
        p=_p(null, within.value),
        true_positives=true_positives(scores, member=member),
        classes={
            name: delong(scores[labels == index], positive=member[labels == index])
            for index, name in enumerate(classes)
        },
    )


def familiarity(
    scores: Scores,
    *,
    member: Mask,
    labels: Labels,
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> Familiarity | NotEstimable:
    """The two groups' mean scores compared within classes (dataset inference, Maini et al. 2021).

    A whole group is told apart by a difference that tells no single patient: each patient adds evidence.
    Classes count by n_train x n_held-out / n, which gives the difference its smallest variance.

    Args:
        scores: (n,) nats, higher where the model knows the patient better than others do.
        member, labels, rng: as for `attack`.
    """
    if not _mixed(member, labels):
        return NotEstimable("no class has both training and held-out patients")
    strata = [labels == index for index in np.unique(labels)]
    strata = [rows for rows in strata if 0 < member[rows].sum() < rows.sum()]
    weights = np.array([member[rows].sum() * (~member[rows]).sum() / rows.sum() for rows in strata])
    weights /= weights.sum()

    def difference(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        out = np.zeros(len(masks))
        for weight, rows in zip(weights, strata, strict=True):
            inside = masks[:, rows]
            m, total = inside.sum(axis=1), scores[rows].sum()
            of_members = inside @ scores[rows]
            out += weight * (of_members / m - (total - of_members) / (rows.sum() - m))
        return out

    found = float(difference(member[None])[0])
    null = difference(_permuted(member, labels, rng=rng, count=permutations))
    return Familiarity(
        found, _normal_interval(found, scores, member, strata=strata, weights=weights), _p(null, found)
    )


def true_positives(
    scores: Scores, *, member: Mask, false_positives: float = FALSE_POSITIVES
) -> Rate | NotEstimable:
    """Share of training patients above a threshold that at most so many held-out patients exceed.

    With fewer held-out patients than one for the rate, the threshold would be the highest held-out score,
    which says nothing of that rate.
    """
    held_out = np.sort(scores[~member])[::-1]
    members = int(member.sum())
    if members == 0 or len(held_out) * false_positives < 1:
        needed = round(1 / false_positives)
        return NotEstimable(
            f"needs {needed} held-out patients: of {len(held_out)}, one is already "
            f"{1 / max(len(held_out), 1):.0%}"
        )
    threshold = held_out[int(len(held_out) * false_positives)]
    found = int((scores[member] > threshold).sum())
    interval = clopper_pearson(found, total=members)
    assert isinstance(interval, tuple)  # there are members
    return Rate(found / members, interval)


def likelihood_ratio(
    log_odds: Scores, *, shadows: Scores, inside: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """LiRA's score of each patient: log of the likelihood with the patient over that without.

    Two normal laws per patient, with the means of the shadow models that had the patient and of those
    that had not, and one variance for all, as Carlini et al. advise with few shadow models.
    Equal variances make the ratio linear in the model's log odds, so a model that learned from other
    hospitals too, and is surer than any shadow model, does not turn its sign.

    Args:
        log_odds: (n,) of each patient's true class under the model.
        shadows: (s, n) the same under each shadow model.
        inside: (s, n) whether the shadow model was trained on the patient; both occur for each.

    Returns:
        (n,) higher speaks for a training patient.
    """
    with_them, without = (_means(shadows, mask) for mask in (inside, ~inside))
    deviation = np.where(inside, shadows - with_them, shadows - without)
    free = max(shadows.size - 2 * shadows.shape[1], 1)  # two means per patient were estimated
    variance = max(float(np.square(deviation).sum() / free), 1e-12)
    return (with_them - without) / variance * (log_odds - (with_them + without) / 2)


def outside_mean(values: Scores, *, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Each patient's mean over the shadow models that never saw the patient, (n,).

    Args:
        values: (s, n), such as losses.
        inside: as for `likelihood_ratio`.
    """
    return _means(values, ~inside)


def _means(values: Scores, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.where(mask, values, 0.0).sum(axis=0) / mask.sum(axis=0)


def _mixed(member: Mask, labels: Labels) -> bool:
    """Whether some class has both kinds; in any other, membership cannot be drawn anew."""
    return any(0 < member[labels == index].sum() < (labels == index).sum() for index in np.unique(labels))


def _permuted(member: Mask, labels: Labels, *, rng: np.random.Generator, count: int) -> npt.NDArray[np.bool_]:
    """Memberships drawn anew within each class, (count, n)."""
    out = np.empty((count, len(member)), dtype=np.bool_)
    for index in np.unique(labels):
        rows = np.flatnonzero(labels == index)
        out[:, rows] = rng.permuted(np.tile(member[rows], (count, 1)), axis=1)
    return out


def _aucs(scores: Scores, members: npt.NDArray[np.bool_], *, strata: Labels) -> npt.NDArray[np.float64]:
    """AUCs over pairs of one stratum under several memberships, by rank sums."""
    above, pairs = np.zeros(len(members)), np.zeros(len(members))
    for index in np.unique(strata):
        rows = strata == index
        inside = members[:, rows]
        m = inside.sum(axis=1)
        above += inside @ stats.rankdata(scores[rows]) - m * (m + 1) / 2
        pairs += m * (rows.sum() - m)
    return above / pairs


def _within(scores: Scores, member: Mask, *, labels: Labels) -> Estimate:
    """The AUC over pairs of one class: the classes' AUCs, weighed by pairs, with DeLong's variances."""
    value = float(_aucs(scores, member[None], strata=labels)[0])
    variance, pairs, lone = 0.0, 0, False
    for index in np.unique(labels):
        rows = labels == index
        m, n = int(member[rows].sum()), int((~member[rows]).sum())
        if m and n:
            parts = placements(scores[rows], positive=member[rows])
            lone |= min(m, n) < 2
            variance += (
                0.0
                if min(m, n) < 2
                else (m * n) ** 2 * sum(float(part.var(ddof=1)) / len(part) for part in parts)
            )
            pairs += m * n
    if lone:
        return Estimate(
            value, NotEstimable("an interval needs two training and two held-out patients of each class")
        )
    variance /= pairs**2
    return Estimate(value, variance if variance > 0 and 0 < value < 1 else NO_VARIANCE)


def _p(null: npt.NDArray[np.float64], found: float) -> float:
    """One-sided; the observed membership is one of the draws, so it is never 0."""
    return float((1 + (null >= found - 1e-12).sum()) / (1 + len(null)))


def _normal_interval(
    found: float, scores: Scores, member: Mask, *, strata: Sequence[Mask], weights: npt.NDArray[np.float64]
) -> Interval | NotEstimable:
    variance = 0.0
    for weight, rows in zip(weights, strata, strict=True):
        for group in (scores[rows & member], scores[rows & ~member]):
            if len(group) < 2:
                return NotEstimable("an interval needs two training and two held-out patients of each class")
            variance += weight**2 * float(group.var(ddof=1)) / len(group)
    half = float(stats.norm.ppf(0.975)) * variance**0.5
    return found - half, found + half
