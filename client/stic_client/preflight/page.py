"""`check.html`: sample images and distributions of one site, for that hospital's eyes only.

One file with mode 0600 that asks no network for anything. Patients are called by their row in
the prepared dataset: it stands outside the dataset, where no pseudonym is written.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from stic_client.html import template
from stic_client.preflight.images import ImageFacts
from stic_client.preflight.outcome import Outcome, percent
from stic_core.data.ct import PHASES, WINDOW_GAIN, WINDOW_OFFSET_HU
from stic_core.data.dataset import SPLITS, SiteDataset
from stic_core.errors import UsageError
from stic_core.system.files import PRIVATE, write_atomically

SAMPLES = 3
"""Patients shown of each class."""

NAMED = 6
"""Patients shown of those that checks name."""

_GAP = 4
_PLOT = (640, 220)
_BIN = 4


def write_page(
    path: Path, *, outcome: Outcome, dataset: SiteDataset, facts: ImageFacts, missing: Mapping[str, float]
) -> Path:
    """Write the page where only its owner can read it, whole or not at all.

    Args:
        path: where it goes; a page before it is replaced.
        missing: share without a value, by clinical variable.

    Raises:
        UsageError: it cannot be written there.
    """
    text = render(outcome, dataset=dataset, facts=facts, missing=missing)
    try:
        write_atomically(path, text, mode=PRIVATE, durable=False)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written",
            got=error.strerror,
            advice="Free some room, or see who owns the folder.",
        ) from None
    return path


def render(outcome: Outcome, *, dataset: SiteDataset, facts: ImageFacts, missing: Mapping[str, float]) -> str:
    """The page as HTML."""
    return template(
        "check.html.j2",
        percent=lambda share: percent(share).replace(" ", "\N{NO-BREAK SPACE}"),
    ).render(
        outcome=outcome,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        dataset=dataset,
        phases=PHASES,
        classes=_classes(dataset),
        samples=_samples(dataset),
        named=_named(outcome, dataset),
        levels=_levels(facts),
        ends=[
            {"phase": name, "low": float(facts.low[:, at].mean()), "high": float(facts.high[:, at].mean())}
            for at, name in enumerate(PHASES)
        ],
        missing=missing,
    )


def _classes(dataset: SiteDataset) -> dict[str, Any]:
    labels = sorted(set(dataset.labels))
    counts = Counter(zip(dataset.splits, dataset.labels, strict=True))
    return {
        "labels": [label or "(no label)" for label in labels],
        "rows": [(split, [counts[split, label] for label in labels]) for split in SPLITS],
    }


def _samples(dataset: SiteDataset) -> list[tuple[str, list[dict[str, str]]]]:
    """A few patients of each class, evenly over the dataset: the same ones at each call."""
    groups = []
    for label in sorted(set(dataset.labels)):
        rows = [row for row, of_row in enumerate(dataset.labels) if of_row == label]
        chosen = sorted({rows[round(at)] for at in np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows)))})
        groups.append((label or "(no label)", [_picture(dataset, row) for row in chosen]))
    return groups


def _named(outcome: Outcome, dataset: SiteDataset) -> list[dict[str, str]]:
    """Patients flagged by a check, with the checks that do."""
    why: dict[int, list[str]] = {}
    for check in outcome.checks:
        # Labels are not to be seen in an image.
        if check.name != "classes":
            for row in check.patients:
                why.setdefault(row, []).append(check.name)
    return [{**_picture(dataset, row), "why": ", ".join(names)} for row, names in list(why.items())[:NAMED]]


def _picture(dataset: SiteDataset, row: int) -> dict[str, str]:
    """Three phases side by side, as the model sees them."""
    from PIL import Image

    image = np.asarray(dataset.images[row])
    gap = np.full((image.shape[0], _GAP), 128, dtype=np.uint8)
    strip = np.hstack([image[..., 0], gap, image[..., 1], gap, image[..., 2]])
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, format="PNG", optimize=True)
    return {
        "number": str(row + 1),
        "split": dataset.splits[row],
        "label": dataset.labels[row] or "no label",
        "data": base64.b64encode(buffer.getvalue()).decode("ascii"),
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
