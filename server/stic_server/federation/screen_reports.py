"""Whether a site's report agrees with what it was asked and with what it described before training.

The protocol's own checks come first, when the answer is read (`sites.read_answer`). What fails here
is that site's failure: it is named and left out of this figure, and the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping

from stic_core.errors import SiteReportError
from stic_core.evaluation import HeldOutReport, PairedReport
from stic_core.protocol.messages import (
    EvaluateHeldOut,
    HeldOutAnswer,
    RoundReport,
    SiteDescription,
    SplitCounts,
)


def check_round(site: str, report: RoundReport, *, number: int, described: SiteDescription) -> None:
    """A round's report.

    Args:
        number: of the round that was asked for.
        described: what the site takes part with.

    Raises:
        SiteReportError: another round, or other patients than described.
    """
    if report.round != number:
        raise SiteReportError("answered for the wrong round", site=site, got=report.round, expected=number)
    announced = described.patients["train"].n
    if report.examples not in (0, announced):
        raise SiteReportError(
            "claims training patients that it did not announce",
            site=site,
            got=report.examples,
            expected=announced,
        )
    _agree(
        site, "number of validation patients", got=report.validation.n, expected=described.patients["val"].n
    )


def check_held_out(
    site: str,
    answer: HeldOutAnswer,
    *,
    question: EvaluateHeldOut,
    described: SiteDescription,
    classes: tuple[str, ...],
) -> None:
    """The held-out evaluation of one model.

    Args:
        question: that was asked.
        described: what the site takes part with.
        classes: of the task, in its order.

    Raises:
        SiteReportError: another model, other patients or classes.
    """
    patients = described.patients["test"]
    _agree(site, "model", got=answer.model, expected=question.model)
    _check_patients(site, answer.report, patients=patients, classes=classes)
    if answer.paired is not None:
        if question.against is None:
            raise SiteReportError("compares two models, and nobody asked for that", site=site)
        _check_patients(site, answer.paired, patients=patients, classes=classes)


def _check_patients(
    site: str, report: HeldOutReport | PairedReport, *, patients: SplitCounts, classes: tuple[str, ...]
) -> None:
    _agree(site, "classes", got=report.classes, expected=classes)
    _agree(site, "number of held-out patients", got=report.n, expected=patients.n)
    counts = report.class_counts if isinstance(report, HeldOutReport) else None
    if isinstance(counts, Mapping) and isinstance(patients.classes, Mapping):
        _agree(site, "held-out patients of each class", got=dict(counts), expected=dict(patients.classes))


def _agree(site: str, what: str, *, got: object, expected: object) -> None:
    if got != expected:
        raise SiteReportError(f"its answer has a different {what}", site=site, got=got, expected=expected)
