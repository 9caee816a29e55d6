"""Two models on the same held-out patients: what a site releases, and what sites add up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stic_core import statistics
from stic_core.config import PolicyConfig
from stic_core.errors import DataError
from stic_core.evaluation import consistency
from stic_core.evaluation.document import PairFigures
from stic_core.evaluation.figures import paired_accuracy
from stic_core.evaluation.reports import Accuracy, HeldOutReport
from stic_core.evaluation.site import LabelArray, LogitArray, checked
from stic_core.privacy.release import NOBODY, too_few, withheld
from stic_core.statistics import Absent, Auc, AucTest, NotEstimable, Suppressed
from stic_core.statistics.bounds import Count, Difference, Some
from stic_core.statistics.values import FORBID


@dataclass(frozen=True)
class Discordant:
    """Patients on whom the models disagree about being right.

    Args:
        b: only the first model was right.
        c: only the second was.
    """

    b: Count
    c: Count

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID

    def __post_init__(self) -> None:
        if self.b < 0 or self.c < 0:
            raise ValueError("discordant patients: got a negative count")


@dataclass(frozen=True)
class AucDifference:
    """AUC of the first model minus that of the second, and DeLong's variance of it."""

    difference: Difference
    variance: Annotated[float, Field(ge=0, le=4)]
    positives: Some
    negatives: Some

    __pydantic_config__: ClassVar[dict[str, str]] = FORBID


class PairedReport(BaseModel):
    """One site's comparison of two models on its held-out patients.

    Discordant counts are released where both accuracies were and each count is `min_cell` or
    more, an AUC's difference where both AUCs were: else one figure would give the other away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    n: Count
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=16)]
    discordant: Discordant | Absent
    auc: dict[str, AucDifference | Absent]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if set(self.auc) != set(self.classes):
            raise ValueError(f"classes: got {sorted(self.auc)}, expected {sorted(self.classes)}")
        consistency.check_nobody(self.n, [self.discordant, *self.auc.values()])
        self.check_beside(None)
        return self

    def check_beside(self, report: HeldOutReport | None) -> None:
        """The report of the second model, on the same patients, does not contradict it.

        Raises:
            ValueError: it does.
        """
        counts = NOBODY if report is None else report.class_counts
        if report is not None and (self.n, self.classes) != (report.n, report.classes):
            raise ValueError("two models are compared on other patients")
        if isinstance(self.discordant, Discordant):
            accuracy = None if report is None else report.accuracy
            consistency.check_discordant(
                self.discordant.b,
                self.discordant.c,
                n=self.n,
                correct=accuracy.correct if isinstance(accuracy, Accuracy) else None,
            )
        for name, found in self.auc.items():
            if isinstance(found, AucDifference):
                consistency.check_pairs_of(
                    found.positives, found.negatives, name=name, n=self.n, counts=counts
                )


def paired_report(
    first: LogitArray,
    second: LogitArray,
    labels: LabelArray,
    *,
    classes: Sequence[str],
    policy: PolicyConfig,
    released: tuple[HeldOutReport, HeldOutReport],
) -> PairedReport:
    """Compare two models on one site's held-out patients.

    Args:
        first: (n, k) logits of one model; n may be 0.
        second: (n, k) logits of the other, same patients in the same order.
        labels: (n,) class indices.
        classes: the task's, k of them.
        policy: `min_cell` and `min_class` of this site.
        released: what left of each of the two on its own.

    Raises:
        DataError: a logit is not finite, a label is no class, or shapes disagree.
    """
    classes = tuple(classes)
    if np.shape(first) != np.shape(second):
        raise DataError("the models' logits disagree", got=f"{np.shape(first)} and {np.shape(second)}")
    first, labels = checked(first, labels, classes=classes)
    second, labels = checked(second, labels, classes=classes)
    n = len(labels)
    if (nothing := too_few(n, policy=policy) or withheld("comparison", policy=policy)) is not None:
        return PairedReport(n=n, classes=classes, discordant=nothing, auc=dict.fromkeys(classes, nothing))
    right, right_too = (logits.argmax(axis=1) == labels for logits in (first, second))
    scores, others = statistics.margins(first), statistics.margins(second)
    return PairedReport(
        n=n,
        classes=classes,
        discordant=_discordant(
            int((right & ~right_too).sum()), int((right_too & ~right).sum()), policy=policy, released=released
        ),
        auc={
            name: _kept(released[0].auc[name], released[1].auc[name])
            or _auc_difference(scores[:, k], others[:, k], positive=labels == k)
            for k, name in enumerate(classes)
        },
    )


def _first(values: Sequence[object]) -> Absent:
    """Why no site says how often the models differ: the first one's policy, or that there is nobody."""
    absent = [value for value in values if isinstance(value, NotEstimable | Suppressed)]
    return next((value for value in absent if isinstance(value, Suppressed)), absent[0])


def _discordant(
    b: int, c: int, *, policy: PolicyConfig, released: tuple[HeldOutReport, HeldOutReport]
) -> Discordant | Absent:
    if (kept := _kept(released[0].accuracy, released[1].accuracy)) is not None:
        return kept
    if min(b, c) < policy.min_cell > 1:
        return Suppressed(f"the models differ on fewer than {policy.min_cell} patients one way or the other")
    return Discordant(b=b, c=c)


def _kept(*figures: object) -> Absent | None:
    """Why a comparison is kept back: one of the figures that it compares is."""
    return next((figure for figure in figures if isinstance(figure, NotEstimable | Suppressed)), None)


def pool_pairs(reports: Mapping[str, PairedReport]) -> PairFigures:
    """The comparison over all sites: McNemar on the sums, AUC differences within sites.

    McNemar on summed counts is McNemar on the pooled patients. AUC differences are averaged
    over sites with weights m x n, as the stratified AUC, and tested on the normal.

    Args:
        reports: by site, at least one.
    """
    order = [reports[site] for site in sorted(reports)]
    known = [(r.n, d) for r in order if isinstance(d := r.discordant, Discordant)]
    n, b, c = sum(n for n, _ in known), sum(d.b for _, d in known), sum(d.c for _, d in known)
    return PairFigures(
        n=n,
        accuracy=paired_accuracy(b=b, c=c, n=n) if known else _first([r.discordant for r in order]),
        auc=_differences(order),
    )


def _differences(order: Sequence[PairedReport]) -> dict[str, AucTest | Absent]:
    """By class; that of one of two classes is that of the other."""
    classes = order[0].classes
    found: dict[str, AucTest | Absent] = {name: _pooled_difference(order, name) for name in classes}
    return dict.fromkeys(classes, found[classes[0]]) if len(classes) == 2 else found


def _auc_difference(
    first: statistics.Scores, second: statistics.Scores, *, positive: statistics.Mask
) -> AucDifference:
    auc, other = statistics.delong(first, positive=positive), statistics.delong(second, positive=positive)
    assert isinstance(auc, Auc)  # both left on their own
    assert isinstance(other, Auc)
    variance = statistics.paired_variance(first, second, positive=positive)
    return AucDifference(
        difference=auc.value - other.value,
        variance=float(f"{variance:.6g}"),
        positives=auc.positives,
        negatives=auc.negatives,
    )


def _pooled_difference(order: Sequence[PairedReport], name: str) -> AucTest | NotEstimable:
    known = [d for r in order if isinstance(d := r.auc[name], AucDifference)]
    if not known:
        return NotEstimable("no site releases this class's AUC")
    weights = np.array([d.positives * d.negatives for d in known], dtype=np.float64)
    weights /= weights.sum()
    return statistics.difference_test(
        float(weights @ [d.difference for d in known]),
        variance=float(weights**2 @ [d.variance for d in known]),
        df=None,
    )
