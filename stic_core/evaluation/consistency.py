"""Whether the figures of one report can all be true of the same patients.

Each check raises ValueError where they cannot, which makes a message that breaks the protocol. An
honest report passes whatever its policy keeps back: only what is there is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import expit

from stic_core import statistics
from stic_core.statistics import (
    Absent,
    Auc,
    Estimate,
    NotEstimable,
    ScoreHistogram,
    Scores,
    Suppressed,
)

Counts = Mapping[str, int] | Absent
"""Patients of each class."""

ROUNDED = 1e-3
"""What four significant digits may add to a sum, as a share of it."""

_ROUNDING = 1e-5
"""What six digits, and sums in another order, may add."""


def check_nobody(n: int, figures: Sequence[object]) -> None:
    """Of no patients there is no figure."""
    if n == 0 and not all(isinstance(figure, Absent) for figure in figures):
        raise ValueError("figures of no patients")


def check_confusion(
    table: Sequence[Sequence[int | Suppressed]], *, n: int, counts: Counts, correct: int | None
) -> None:
    """Rows are the classes' patients, the diagonal is who was right; hidden cells may hold the rest."""
    totals = list(counts.values()) if isinstance(counts, Mapping) else [n] * len(table)
    whole = isinstance(counts, Mapping)
    for row, total in zip(table, totals, strict=True):
        _check_sum("a row of the confusion", row, total=total, whole=whole)
    _check_sum("the confusion", [cell for row in table for cell in row], total=n)
    if correct is not None:
        _check_sum("the diagonal", [row[k] for k, row in enumerate(table)], total=correct)


def _check_sum(what: str, cells: Sequence[int | Suppressed], *, total: int, whole: bool = True) -> None:
    shown = [cell for cell in cells if isinstance(cell, int)]
    if sum(shown) > total or (whole and len(shown) == len(cells) and sum(shown) < total):
        raise ValueError(f"{what} does not add up")


def check_false_positives(
    wrong: Sequence[int | Suppressed],
    *,
    table: Sequence[Sequence[int | Suppressed]] | None,
    n: int,
    counts: Counts,
    correct: int | None,
) -> None:
    """Those taken for a class are the others of its column, of other classes, and wrong."""
    totals = list(counts.values()) if isinstance(counts, Mapping) else [0] * len(wrong)
    for k, (found, of_class) in enumerate(zip(wrong, totals, strict=True)):
        if not isinstance(found, int):
            continue
        if found > n - of_class:
            raise ValueError("more patients are taken for a class than there are of others")
        if table is not None:
            _check_sum("false positives", [row[k] for i, row in enumerate(table) if i != k], total=found)
    if correct is not None:
        _check_sum("the false positives of all classes", wrong, total=n - correct)


def check_aucs(aucs: Mapping[str, Auc | Absent], *, n: int, counts: Counts) -> None:
    """Each is over all patients, and as far from 0 and 1, and as variable, as its number of pairs allows."""
    for name, auc in aucs.items():
        if not isinstance(auc, Auc):
            continue
        if auc.positives + auc.negatives != n or not _is_count(auc.positives, name, counts=counts):
            raise ValueError("an AUC is over other patients")
        pairs = auc.positives * auc.negatives
        # A tie counts a half: between 0 and 1 an AUC is at least half a pair away from both.
        if 0 < auc.value < 1 and min(auc.value, 1 - auc.value) * pairs < 0.5 - 0.01:
            raise ValueError("an AUC is nearer to 0 or 1 than its pairs allow")
        if isinstance(auc.variance, float) and not _is_variance(auc.variance, auc=auc):
            raise ValueError("an AUC has a variance that its pairs do not allow")
    if len(aucs) == 2:
        one, other = aucs.values()
        if isinstance(one, Auc) != isinstance(other, Auc):
            raise ValueError("of two classes one has an AUC and the other has none")
        if isinstance(one, Auc) and isinstance(other, Auc) and abs(one.value - other.value) > _ROUNDING:
            raise ValueError("two classes have different AUCs")


def _is_variance(variance: float, *, auc: Auc) -> bool:
    m, n = auc.positives, auc.negatives
    if min(m, n) < 2 or not 0 < auc.value < 1:
        return False
    # Placements lie between 0 and 1 around the AUC, so they vary at most as much as zeros and ones do;
    # they are multiples of half a pair's share, and one that differs from the others gives the least.
    most = auc.value * (1 - auc.value) * (1 / (m - 1) + 1 / (n - 1))
    return (0.25 - 0.01) / (m * n) ** 2 <= variance <= most * (1 + _ROUNDING)


def check_macro(
    aucs: Mapping[str, Auc | Absent], *, macro: Estimate | Absent, interpolated: float | Absent
) -> None:
    """The macro average is the mean of the classes', and there is none where a class has no AUC."""
    known = [auc.value for auc in aucs.values() if isinstance(auc, Auc)]
    if len(known) < len(aucs):
        if not isinstance(macro, Absent) or not isinstance(interpolated, Absent):
            raise ValueError("a macro average without the AUC of each class")
    elif isinstance(macro, Estimate):
        if abs(macro.value - sum(known) / len(known)) > _ROUNDING:
            raise ValueError("the macro average is not the mean of the classes")
        errors = [se for auc in aucs.values() if isinstance(auc, Auc) and isinstance(se := auc.se, float)]
        # The standard deviation of a mean is at most the mean of the standard deviations.
        most = sum(errors) / len(aucs) if len(errors) == len(aucs) else 1.0
        if isinstance(se := macro.se, float) and se > most * (1 + _ROUNDING):
            raise ValueError("the macro average varies more than the classes do")


def check_histograms(
    histograms: Mapping[str, ScoreHistogram],
    *,
    n: int,
    counts: Counts,
    aucs: Mapping[str, Auc | Absent],
    micro: Estimate | Absent,
) -> None:
    """Each is over all patients, its sums lie in its bins, and the AUCs within its hard bounds."""
    for name, histogram in histograms.items():
        positives = sum(histogram.positives)
        if positives + sum(histogram.negatives) != n or not _is_count(positives, name, counts=counts):
            raise ValueError("a histogram is over other patients")
        _check_sums(histogram)
        auc = aucs[name]
        if isinstance(auc, Auc) and auc.positives != positives:
            raise ValueError("an AUC is over other patients than its histogram")
        _check_within(auc, [histogram])
    _check_within(micro, list(histograms.values()))


def _check_sums(histogram: ScoreHistogram) -> None:
    sizes = np.add(histogram.positives, histogram.negatives)
    lower, upper = _ends(histogram)
    with np.errstate(invalid="ignore"):  # an empty bin's open end: 0 x infinity
        least, most = (np.where(sizes == 0, 0.0, sizes * end) for end in (lower, upper))
    if not _between(np.array(histogram.sums), least, most):
        raise ValueError("a histogram's scores lie outside their bins")


def check_probabilities(
    probabilities: Mapping[str, Sequence[float]], *, histograms: Mapping[str, ScoreHistogram], n: int
) -> None:
    """Sums of probabilities lie where their bins' scores do, which are log odds; of each patient they add to 1."""
    for name, histogram in histograms.items():
        sizes = np.add(histogram.positives, histogram.negatives)
        least, most = (sizes * expit(end) for end in _ends(histogram))
        if not _between(np.array(probabilities[name]), least, most):
            raise ValueError("a histogram's probabilities lie outside their bins")
    if not _between(np.array(sum(map(sum, probabilities.values()))), np.array(n), np.array(n)):
        raise ValueError("the probabilities of all classes do not add up to the patients")


def _ends(histogram: ScoreHistogram) -> tuple[Scores, Scores]:
    """Lower and upper end of each bin."""
    inner = np.array(histogram.edges)[np.array(histogram.starts[1:], dtype=np.intp) - 1]
    return np.r_[-np.inf, inner], np.r_[inner, np.inf]


def _between(sums: Scores, least: Scores, most: Scores) -> bool:
    slack = ROUNDED * np.abs(sums) + _ROUNDING
    return bool(((least - slack <= sums) & (sums <= most + slack)).all())


def _check_within(auc: Estimate | Absent, histograms: Sequence[ScoreHistogram]) -> None:
    if not isinstance(auc, Estimate):
        return
    bounds = statistics.auc_bounds(histograms)
    if isinstance(bounds, NotEstimable) or not (bounds[0] - _ROUNDING <= auc.value <= bounds[1] + _ROUNDING):
        raise ValueError("an AUC lies outside the bounds of its histograms")


def check_sum(total: float, *, n: int, most: float) -> None:
    """A sum over n patients, each of whom gives `most` at most."""
    if total > most * n * (1 + ROUNDED):
        raise ValueError("a sum over patients is more than each of them can give")


def check_discordant(b: int, c: int, *, n: int, correct: int | None) -> None:
    """Only-one-right counts fit into n patients, of whom the second model got `correct` right."""
    if b + c > n:
        raise ValueError("more discordant patients than patients")
    if correct is not None and (c > correct or b > n - correct):
        raise ValueError("discordant patients do not fit the accuracy")


def check_pairs_of(positives: int, negatives: int, *, name: str, n: int, counts: Counts) -> None:
    """A difference of AUCs is over all patients."""
    if positives + negatives != n or not _is_count(positives, name, counts=counts):
        raise ValueError("a difference of AUCs is over other patients")


def _is_count(count: int, name: str, *, counts: Counts) -> bool:
    return not isinstance(counts, Mapping) or counts[name] == count
