"""One patient's page: the three registered phases, the clinical values, the scores (paper, case study).

One HTML file that opens without a network. It shows a patient's images and values: it stays
in the hospital, as the table of scores does.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stic_client.html import template
from stic_core.data.clinical import MARKERS, VARIABLES, Levels
from stic_core.data.ct import PHASES
from stic_core.system.files import PRIVATE, write_atomically

_NAMES = {"nc": "non-contrast", "art": "arterial", "pv": "portal venous"}
_TITLES = {"age": "Age", "gender": "Sex", "hbsag": "HBsAg"} | {
    variable: marker.prefix for variable, marker in MARKERS.items()
}


@dataclass(frozen=True, slots=True, eq=False)
class PageFacts:
    """What a page shows.

    Args:
        subject: the pseudonym.
        image: (224, 224, 3), NC, ART, PV.
        levels: how the clinical values were read.
        clinical: their texts by variable.
        scores: of each class, adding up to 1.
        notes: what an engineer should look at.
        phantom: no person stands behind this.
        model: run and digest.
    """

    subject: str
    image: np.ndarray
    levels: Levels
    clinical: Mapping[str, str]
    classes: tuple[str, ...]
    scores: tuple[float, ...]
    notes: tuple[str, ...]
    phantom: bool
    model: str


def write_page(path: Path, facts: PageFacts) -> Path:
    """Write a patient's page, readable by its owner alone."""
    write_atomically(path, render(facts), mode=PRIVATE, durable=False)
    return path


def render(facts: PageFacts) -> str:
    """The page as HTML."""
    order = np.argsort(facts.scores)[::-1]
    return template("patient.html.j2").render(
        facts=facts,
        phases=[(_NAMES[phase], _png(facts.image[..., at])) for at, phase in enumerate(PHASES)],
        values=_values(facts),
        missing=[
            _TITLES[name] for name in VARIABLES if name in {*facts.levels.missing, *facts.levels.unsettled}
        ],
        ranking=[(facts.classes[at], facts.scores[at]) for at in order],
    )


def _values(facts: PageFacts) -> list[tuple[str, str, str, str]]:
    """Title, text as written, unit, and what the model was told of it."""
    rows = []
    for name in VARIABLES:
        title, text = _TITLES[name], facts.clinical.get(name, "").strip()
        if name in facts.levels.missing:
            used = "missing"
        elif name in facts.levels.unsettled:
            used = "missing: the bound does not determine a level"
        else:
            prefix = {"age": "Age", "gender": "Gender", "hbsag": "HBsAg"}.get(name, title)
            told = [c for c in facts.levels.columns if c.startswith(f"{prefix}_")]
            used = told[0] if told else "reference level"
        unit = MARKERS[name].unit if name in MARKERS else ""
        rows.append((title, text or "-", unit, used))
    return rows


def _png(grey: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
