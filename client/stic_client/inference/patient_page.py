"""One patient's page: scores and what they are worth, the three registered phases, the clinical values.

One HTML file that opens without a network. It shows a patient's images and values: it stays
in the hospital, as the table of scores does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from stic_client.html import template
from stic_client.inference.result_folder import PAGE_MARK
from stic_client.inference.verdict import DECIDED, Verdict
from stic_client.inference.wording import PHASE_NAMES, TITLES, UNITS, sentence, told
from stic_client.ingest.patient import PreparedPatient
from stic_client.ingest.views import png_of
from stic_client.pictures import Picture
from stic_core.data.clinical import MARKERS, VARIABLES, Levels
from stic_core.data.ct import PHASES, WINDOW_GAIN, WINDOW_OFFSET_HU
from stic_core.evaluation.reliability import Reliability, ScoreGroup

WINDOW_HU = (round(-WINDOW_OFFSET_HU), round(255 / WINDOW_GAIN - WINDOW_OFFSET_HU))


@dataclass(frozen=True, slots=True, eq=False)
class PageFacts:
    """What a page shows.

    Args:
        subject: the pseudonym.
        prepared: images with their marks.
        crop_mm: side of the square that the model saw; None where it saw the whole slice.
        levels: how the clinical values were read.
        clinical: their texts by variable.
        units: the site's unit by variable, where it is not the default one.
        scores: by class, in the model's order, adding up to 1.
        doubts: why the images may be wrong.
        notes: what else an engineer should look at.
        not_compared: why the images were not compared with the site's own, "" where they were.
        reliability: held-out figures of the model, None where none came with it.
        phantom: no person stands behind this.
        run, model: whose scores; the model by the beginning of its digest.
        made: when they were computed.
    """

    subject: str
    prepared: PreparedPatient
    crop_mm: float | None
    levels: Levels
    clinical: Mapping[str, str]
    units: Mapping[str, str]
    verdict: Verdict
    scores: Mapping[str, float]
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    not_compared: str
    reliability: Reliability | None
    phantom: bool
    run: str
    model: str
    made: dt.datetime


def render_patient(facts: PageFacts) -> str:
    """The page as HTML."""
    absent = {*facts.levels.missing, *facts.levels.unsettled}
    return template("patient.html.j2", sentence=sentence).render(
        facts=facts,
        mark=PAGE_MARK,
        seen=_seen(facts),
        whole=_whole(facts),
        window=WINDOW_HU,
        decided=DECIDED,
        ranking=[(name, score, _held_out(facts, name, score)) for name, score in facts.verdict.ranking],
        values=_values(facts),
        missing=[TITLES[name] for name in VARIABLES if name in absent],
        made=facts.made.strftime("%Y-%m-%d %H:%M %Z"),
    )


def _seen(facts: PageFacts) -> list[tuple[str, str, Picture]]:
    """Id, caption and picture of each phase as the model saw it; whole slices at their full resolution."""
    out = []
    whole = facts.prepared.whole if facts.crop_mm is None else None
    for at, phase in enumerate(PHASES):
        alt = f"{PHASE_NAMES[phase]} phase{', cropped around the lesion' if facts.crop_mm else ''}"
        if whole is not None:
            picture = Picture(whole.png[at], whole.shape, alt, whole.placement)
        else:
            grey = facts.prepared.image[0, ..., at]
            picture = Picture(png_of(grey), grey.shape, alt, facts.prepared.placement)
        out.append((phase, _caption(facts, phase), picture))
    return out


def _whole(facts: PageFacts) -> list[tuple[str, str, Picture]]:
    """The same slices uncropped, with the frame of what the model saw; nothing where it saw all of them."""
    whole = facts.prepared.whole
    if facts.crop_mm is None or whole is None:
        return []
    return [
        (
            f"{phase}-whole",
            _caption(facts, phase),
            Picture(
                whole.png[at],
                whole.shape,
                f"{PHASE_NAMES[phase]} phase, whole slice; a frame shows what the model saw",
                whole.placement,
                frame_mm=facts.crop_mm,
            ),
        )
        for at, phase in enumerate(PHASES)
    ]


def _caption(facts: PageFacts, phase: str) -> str:
    name = PHASE_NAMES[phase]
    if phase == PHASES[0]:
        return name
    rejected = any(key.split()[0] == phase for key in facts.prepared.rejected)
    return f"{name}, {'NOT registered' if rejected else 'on the non-contrast grid'}"


def _held_out(facts: PageFacts, name: str, score: float) -> dict[str, object] | None:
    group: ScoreGroup | None = facts.reliability.at(name, score) if facts.reliability else None
    if group is None:
        return None
    interval = group.interval()
    assert isinstance(interval, tuple)  # a group has patients
    return {
        "n": group.n,
        "hits": group.hits,
        "mean": group.predicted,
        "share": group.observed,
        "interval": interval,
    }


def _values(facts: PageFacts) -> list[tuple[str, str, str]]:
    """Title, text as written with the unit it was read in, and what the model was told of it."""
    rows = []
    for name in VARIABLES:
        text = facts.clinical.get(name, "").strip()
        unit = facts.units.get(name, MARKERS[name].unit) if name in MARKERS else ""
        unit = UNITS.get(unit, unit)
        if name in facts.levels.unsettled:
            used = "nothing: the bound does not determine a level"
        elif name in facts.levels.missing:
            used = "nothing: the text is not understood" if text else "nothing: no value"
        else:
            used = told(name, facts.levels.columns)
        shown = text if any(letter.isalpha() for letter in text) or not text else f"{text} {unit}".strip()
        rows.append((TITLES[name], shown or "\N{EN DASH}", used))
    return rows
