"""Which of a study's series is which phase, how sure that is, and why: for a proposed manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stic_client.ingest.elements import comparable
from stic_client.ingest.words import PHASE_NAMES
from stic_core.data.ct import PHASES

Confidence = Literal["high", "medium", "low", "none"]


@dataclass(frozen=True, slots=True)
class SeriesFound:
    """One series of a study.

    Args:
        uid: of the series.
        path: its folder, or its file, relative to the root.
        layout: how the manifest would call it.
        guess: a phase by its description, "other" for a fourth one, "" where it says nothing.
        alone: nothing else lies in its folder.
        rank, caveats: see `Reconstruction`.
    """

    uid: str
    path: str
    layout: str
    files: int
    time_s: float | None
    guess: str
    alone: bool
    rank: int = 0
    caveats: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """For the list of a study's series."""
        words = (PHASE_NAMES.get(self.guess, ""), *self.caveats)
        return f"{self.path} ({', '.join((f'{self.files} files', *filter(None, words)))})"


def assign_phases(
    series: Sequence[SeriesFound],
) -> tuple[dict[str, SeriesFound], dict[str, Confidence], list[str]]:
    """Which series is which phase, and how sure that is.

    Descriptions decide; times confirm them (high), are missing (medium) or contradict them
    (low). Without descriptions, three series in the order of time are a guess (low). Of several
    series of one phase, the original one with a soft kernel is preferred, then the longest.
    """
    chosen, several, notes = _by_description(series)
    confidence: dict[str, Confidence] = dict.fromkeys(PHASES, "none")
    if not chosen:
        ordered = _by_time_alone(series)
        if ordered:
            notes.append("descriptions are uninformative: phases are ordered by time")
            return ordered, dict.fromkeys(PHASES, "low"), notes
        notes.append("no series description names a phase")
        return {}, confidence, notes
    times = [chosen[phase].time_s for phase in PHASES if phase in chosen]
    known = comparable(time for time in times if time is not None)
    complete = len(known) == len(times) > 1
    ordered = complete and known == sorted(known) and len(set(known)) == len(known)
    # Anonymisers write one time into every file: that contradicts nothing.
    contradicted = complete and known != sorted(known)
    if contradicted:
        notes.append("times contradict the descriptions")
    for phase in PHASES:
        if phase not in chosen:
            notes.append(f"no series looks like {phase}")
        elif contradicted:
            confidence[phase] = "low"
        else:
            confidence[phase] = "high" if ordered and phase not in several else "medium"
    return chosen, confidence, notes


def _by_description(series: Sequence[SeriesFound]) -> tuple[dict[str, SeriesFound], set[str], list[str]]:
    """The fittest series of each phase that descriptions name, the phases with equally fit ones, and notes."""
    notes: list[str] = []
    chosen: dict[str, SeriesFound] = {}
    several: set[str] = set()
    for phase in PHASES:
        named = sorted(
            (one for one in series if one.guess == phase), key=lambda one: (one.rank, -one.files, one.path)
        )
        if named:
            chosen[phase] = named[0]
        if len(named) > 1 and named[0].rank < named[1].rank:
            notes.append(
                f"{len(named)} series look like {phase}: an original one with a soft kernel was preferred"
            )
        elif len(named) > 1:
            several.add(phase)
            notes.append(f"{len(named)} series look like {phase}: the one with the most slices was chosen")
    return chosen, several, notes


def _by_time_alone(series: Sequence[SeriesFound]) -> dict[str, SeriesFound]:
    """Three usual series without a description, in the order of time; none where there are not three."""
    usual = [one for one in series if not one.caveats and not one.guess]
    timed = [one for one in usual if one.time_s is not None]
    starts = comparable(one.time_s or 0.0 for one in timed)
    if not len(timed) == len(PHASES) == len(usual) == len(set(starts)):
        return {}
    ordered = [one for _, one in sorted(zip(starts, timed, strict=True), key=lambda pair: pair[0])]
    return dict(zip(PHASES, ordered, strict=True))


def notes_on(
    chosen: Mapping[str, SeriesFound], *, series: Sequence[SeriesFound], in_folder: int
) -> list[str]:
    """What a person should look at in the chosen series.

    Args:
        in_folder: series in the fullest of their folders, those of other studies too.
    """
    notes = [f"{phase}: {caveat}" for phase, one in chosen.items() for caveat in one.caveats]
    if len({one.layout for one in chosen.values()}) > 1:
        notes.append("the phases have different layouts")
    if any(not one.alone for one in chosen.values()):
        shared = len({one.path for one in chosen.values()}) == 1 and len(series) == len(
            chosen
        ) == in_folder == len(PHASES)
        if not shared:
            notes.append("series share a folder: move each phase into a folder of its own")
    return notes
