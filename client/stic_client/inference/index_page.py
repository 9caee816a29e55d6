"""`index.html`: all patients of one run of `predict` on a page, those first who need a look."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from typing import Any

from stic_client.html import template
from stic_client.inference.patient_page import PageFacts
from stic_client.inference.result_folder import PAGE_MARK, PAGES
from stic_client.inference.wording import TITLES, sentence
from stic_client.preparation.quarantine import QuarantineEntry
from stic_core.data.clinical import VARIABLES

_URGENCY = ("doubtful", "undecided", "class")


def render_index(
    patients: Sequence[PageFacts], *, refused: Sequence[QuarantineEntry], made: dt.datetime
) -> str:
    """The page as HTML; it sorts by style alone, since it runs no script.

    Args:
        patients: in the manifest's order; empty where nobody could be used.
    """
    first = patients[0] if patients else None
    return template("predictions.html.j2", sentence=sentence).render(
        mark=PAGE_MARK,
        patients=_rows(patients),
        refused=refused,
        first=first,
        classes=list(first.scores) if first else [],
        counts=Counter(facts.verdict.kind for facts in patients),
        folder=PAGES,
        made=made.strftime("%Y-%m-%d %H:%M %Z"),
    )


def _rows(patients: Sequence[PageFacts]) -> list[dict[str, Any]]:
    """One dictionary per patient, those who need a look first, with their places in the other orders."""
    ordered = sorted(patients, key=_need)
    names = sorted(facts.subject for facts in patients)
    by_class = {
        name: sorted(patients, key=lambda facts, name=name: -facts.scores[name])
        for name in (patients[0].scores if patients else ())
    }
    manifest = {facts.subject: place for place, facts in enumerate(patients)}
    return [
        {
            "facts": facts,
            "places": {
                "need": place,
                "name": names.index(facts.subject),
                "row": manifest[facts.subject],
                **{f"class{at}": order.index(facts) for at, order in enumerate(by_class.values())},
            },
            "missing": [
                TITLES[name] for name in VARIABLES if name in {*facts.levels.missing, *facts.levels.unsettled}
            ],
        }
        for place, facts in enumerate(ordered)
    ]


def _need(facts: PageFacts) -> tuple[int, int, float, str]:
    """Doubtful images, then undecided scores, the closest first, then notes."""
    return (
        _URGENCY.index(facts.verdict.kind),
        -len(facts.doubts or facts.notes),
        facts.verdict.ranking[0][1],
        facts.subject,
    )
