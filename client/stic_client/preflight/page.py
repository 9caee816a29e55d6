"""`check.html`: what is wrong, who is flagged, sample images and distributions, for that hospital's eyes only.

One file with mode 0600 that asks no network for anything. It stays in the hospital and calls patients by
their pseudonyms, as the manifest does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from stic_client.html import template
from stic_client.ingest.views import Placement, png_of
from stic_client.pictures import Picture
from stic_client.preflight.images import ImageFacts
from stic_client.preflight.outcome import Check, Outcome, percent
from stic_client.preparation import patient_cache
from stic_core.data.ct import PHASES, WINDOW_GAIN, WINDOW_OFFSET_HU
from stic_core.data.dataset import SPLITS, SiteDataset
from stic_core.errors import UsageError
from stic_core.system.files import PRIVATE, write_atomically

SAMPLES = 3
"""Patients shown of each class."""

NAMED = 12
"""Patients shown of those that checks name."""

_PLOT = (640, 220)
_BIN = 4


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The prepared dataset, as far as the page shows it.

    Args:
        missing: share without a value, by clinical variable.
    """

    dataset: SiteDataset
    facts: ImageFacts
    missing: Mapping[str, float]


def write_page(
    path: Path,
    *,
    outcome: Outcome,
    shown: Shown | None,
    task: str = "",
) -> Path:
    """Write the page where only its owner can read it, whole or not at all.

    Args:
        path: where it goes; a page before it is replaced.
        shown: None where there is no dataset that can be used.
        task: the one that was asked for, "" where none was.

    Raises:
        UsageError: it cannot be written there.
    """
    text = render(outcome, shown=shown, task=task)
    try:
        write_atomically(path, text, mode=PRIVATE, durable=False)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written",
            got=error.strerror,
            advice="Free some room, or see who owns the folder.",
        ) from None
    return path


def render(outcome: Outcome, *, shown: Shown | None, task: str = "") -> str:
    """The page as HTML."""
    return template(
        "check.html.j2",
        percent=lambda share: percent(share).replace(" ", "\N{NO-BREAK SPACE}"),
    ).render(
        outcome=outcome,
        task=task,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        found=[
            check for status in ("problem", "warning") for check in outcome.checks if check.status == status
        ],
        rest=[check for status in ("ok", "skipped") for check in outcome.checks if check.status == status],
        phases=PHASES,
        data=_of_dataset(outcome, shown) if shown else None,
    )


def _of_dataset(outcome: Outcome, shown: Shown) -> dict[str, Any]:
    """What the page shows of the dataset itself."""
    dataset, facts, why = shown.dataset, shown.facts, _flagged(outcome)
    return {
        "dataset": dataset,
        "classes": _classes(dataset),
        "samples": _samples(dataset),
        "named": [_patient(dataset, row) | {"why": why[row]} for row in list(why)[:NAMED]],
        "more": max(len(why) - NAMED, 0),
        "levels": _levels(facts),
        "ends": [
            {"phase": name, "low": float(facts.low[:, at].mean()), "high": float(facts.high[:, at].mean())}
            for at, name in enumerate(PHASES)
        ],
        "missing": shown.missing,
    }


def _classes(dataset: SiteDataset) -> dict[str, Any]:
    labels = sorted(set(dataset.labels))
    counts = Counter(zip(dataset.splits, dataset.labels, strict=True))
    return {
        "labels": [label or "(no label)" for label in labels],
        "rows": [(split, [counts[split, label] for label in labels]) for split in SPLITS],
    }


def _samples(dataset: SiteDataset) -> list[tuple[str, list[dict[str, Any]]]]:
    """A few patients of each class, evenly over the dataset: the same ones at each call."""
    groups = []
    for label in sorted(set(dataset.labels)):
        rows = [row for row, of_row in enumerate(dataset.labels) if of_row == label]
        chosen = sorted({rows[round(at)] for at in np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows)))})
        groups.append((label or "(no label)", [_patient(dataset, row) for row in chosen]))
    return groups


def _flagged(outcome: Outcome) -> dict[int, list[Check]]:
    """The checks that flag a patient, by row: those with problems first."""
    why: dict[int, list[Check]] = {}
    for status in ("problem", "warning"):
        for check in outcome.checks:
            # Labels are not to be seen in an image.
            if check.status == status and check.name != "classes":
                for row in check.patients:
                    why.setdefault(row, []).append(check)
    return why


def _patient(dataset: SiteDataset, row: int) -> dict[str, Any]:
    """One patient's three phases as the model sees them."""
    image, subject = np.asarray(dataset.images[row]), dataset.subjects[row]
    placement = patient_cache.placement_of(dataset.folder, subject=subject, image=image) or Placement()
    return {
        "row": row,
        "subject": subject,
        "split": dataset.splits[row],
        "label": dataset.labels[row] or "no label",
        "pictures": [
            (
                phase,
                Picture(png_of(image[..., at]), image.shape[:2], f"{phase.upper()} of {subject}", placement),
            )
            for at, phase in enumerate(PHASES)
        ],
    }


def _levels(facts: ImageFacts) -> dict[str, Any]:
    """Grey levels by phase as lines of an SVG; the window's two ends are given as numbers instead."""
    width, height = _PLOT
    inner = facts.histogram[:, _BIN:-_BIN].astype(float)
    binned = inner.reshape(3, -1, _BIN).sum(-1) / np.maximum(facts.histogram.sum(1), 1)[:, None]
    top = max(float(binned.max()), 1e-9)

    def x(grey: float) -> float:
        return width * grey / 255

    lines = [
        " ".join(
            f"{x(_BIN + (at + 0.5) * _BIN):.1f},{height * (1 - 0.95 * value / top):.1f}"
            for at, value in enumerate(values)
        )
        for values in binned
    ]
    ticks = [
        {"x": round(x((hu + WINDOW_OFFSET_HU) * WINDOW_GAIN), 1), "text": f"{hu}"}
        for hu in (-100, 0, 100, 200)
    ]
    return {"width": width, "height": height, "lines": lines, "ticks": ticks}
