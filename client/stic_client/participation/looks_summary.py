"""What was looked at, in plain words: models on held-out patients against the budget, models on validation patients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stic_client.participation.shown_models import shown_under
from stic_core.evaluation import HeldOutReport
from stic_core.privacy.looks import HeldOutLooks, Look
from stic_core.statistics import Absent


def looks_in_words(folder: Path, *, allowed: int, run: str | None = None) -> str:
    """A summary of what left about patients that nobody trains on.

    Args:
        folder: the site's `held_out` folder.
        allowed: `policy.held_out_models`.
        run: one run's id, None for all.
    """
    looks = HeldOutLooks(folder)
    lines: list[str] = []
    sets = dict.fromkeys(look.patients for look in looks if look.audit is None)
    for patients in sets:
        lines.append(
            f"held-out patients: {len(looks.at(patients))} models were looked at on {len(patients)} patients, "
            f"{allowed} are allowed in all runs (policy.held_out_models)"
        )
        lines += [
            f"  {look.at[:16].replace('T', ' ')}  run {look.run_id}  {look.name:<16} {', '.join(_left(look))}"
            for look in looks.at(patients)
            if look.patients == patients and run in {None, look.run_id}
        ]
    if not sets:
        lines.append(f"held-out patients: no model was looked at; {allowed} are allowed in all runs")
    lines += [
        f"privacy audit: three figures of model {look.audit['model'][:12]} were released on {look.at[:10]}"
        for look in looks
        if look.audit is not None and run is None
    ]
    for shown in shown_under(folder / "plans"):
        if run is None or run in shown.runs:
            lines.append(
                f"validation patients: plan {shown.plan[:12]} asked for the loss of "
                f"{sum(map(len, shown.rounds.values()))} models in {len(shown.rounds)} rounds"
            )
    return "\n".join(lines)


def _left(look: Look) -> Iterator[str]:
    """What left of a look, kind by kind."""
    if look.pooled:
        yield "counts in a sum over hospitals"
    if look.report is None:
        yield from () if look.pooled else ("nothing",)
    else:
        yield from _told(look, HeldOutReport.model_validate(look.report))


def _told(look: Look, report: HeldOutReport) -> Iterator[str]:
    """Figures of this site's own."""
    aucs = sum(not isinstance(auc, Absent) for auc in report.auc.values())
    if aucs:
        yield f"{aucs} AUCs"
    if not isinstance(report.accuracy, Absent):
        yield "accuracy"
    if isinstance(report.confusion, tuple):
        cells = sum(isinstance(cell, int) for row in report.confusion for cell in row)
        yield f"{cells} of {len(look.classes) ** 2} confusion cells"
    if isinstance(report.histograms, dict):
        yield f"{sum(len(one.starts) for one in report.histograms.values())} score bins"
    if not isinstance(report.calibration, Absent):
        yield "calibration"
    if look.compared:
        yield "comparison"
    if isinstance(report.class_counts, Absent):
        yield "nothing but their number"
